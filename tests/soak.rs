//! `cargo xtask soak`: churn for as long as is said; in the second half with an overlay between the nodes.

use std::process::ExitCode;
use std::time::Duration;

use skep_tests::churn::{Options, Report, run};
use xtask::binaries::Profile;

/// What a firewall or a table with short timeouts would have forgotten.
const SILENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(Ok(minutes)) = arguments.first().map(|text| text.parse::<u32>()) else {
        eprintln!("error: how many minutes? Run `cargo xtask soak --minutes 30`");
        return ExitCode::FAILURE;
    };
    let duration = Duration::from_secs(30) * minutes;
    let is_dev = arguments.iter().any(|text| text == "dev");
    let mut broken = 0;
    for overlay in [false, true] {
        let options = Options {
            profile: if is_dev { Profile::Dev } else { Profile::Release },
            duration,
            connections: if is_dev { 400 } else { 2_000 },
            changes_per_second: if is_dev { 20 } else { 100 },
            questions_per_second: if is_dev { 100 } else { 500 },
            silent: 100,
            // At least two of them in each half.
            silence: SILENCE.min(duration * 2 / 5),
            agent_life: Duration::from_secs(15),
            overlay,
        };
        match run(&options) {
            Ok(report) => {
                tell(&options, &report);
                broken += report.broken.len();
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(options: &Options, report: &Report) {
    println!("overlay {}, {:?}:", options.overlay, options.duration);
    println!(
        "{} changes ({:.0} a second), {} wrong Nodes; agents restarted {} times, killed {} times",
        report.changes,
        report.changes as f64 / options.duration.as_secs_f64(),
        report.wrong_nodes,
        report.restarts,
        report.kills
    );
    println!(
        "{} requests over {} standing connections, {} new connections, {} words after {:?} of silence over {}, {} refused",
        report.requests,
        options.connections,
        report.dialled,
        report.after_silence,
        options.silence,
        options.silent,
        report.refused
    );
    println!(
        "{} questions for names, the slowest answer after {:?}",
        report.questions, report.slowest_answer
    );
    report.broken.iter().for_each(|what| println!("broke: {what}"));
    println!("{} broke", report.broken.len());
}
