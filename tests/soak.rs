//! `cargo xtask soak MINUTES`: churn for as long as is said, with a release build.

use std::process::ExitCode;
use std::time::Duration;

use skep_tests::churn::{Options, run};
use xtask::binaries::Profile;

fn main() -> ExitCode {
    let Some(Ok(minutes)) = std::env::args().nth(1).map(|text| text.parse::<u32>()) else {
        eprintln!("error: how many minutes? Run `cargo xtask soak --minutes 10`");
        return ExitCode::FAILURE;
    };
    let options = Options {
        profile: Profile::Release,
        duration: Duration::from_secs(60) * minutes,
        connections: 2_000,
        changes_per_second: 100,
        questions_per_second: 500,
        agent_life: Duration::from_secs(15),
    };
    match run(&options) {
        Ok(report) => {
            println!(
                "{} changes ({:.0} a second); agent restarted {} times, killed {} times",
                report.changes,
                report.changes as f64 / options.duration.as_secs_f64(),
                report.restarts,
                report.kills
            );
            println!(
                "{} requests over {} standing connections, {} new connections",
                report.requests, options.connections, report.dialled
            );
            println!(
                "{} questions for names, the slowest answer after {:?}",
                report.questions, report.slowest_answer
            );
            report.broken.iter().for_each(|what| println!("broke: {what}"));
            println!("{} broke", report.broken.len());
            if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
