//! `cargo xtask diff`: compares Skep with another Kubernetes API server; ends with 1 if anything differs.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use skep_tests::api_server::TestApiServer;
use skep_tests::fidelity::run::{Options, Pair, run};
use skep_tests::fidelity::target::Target;
use skep_tests::fidelity::{cases, manifests, report};
use xtask::commands::diff::Arguments;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

#[tokio::main]
async fn main() -> ExitCode {
    match compare(CommandLine::parse().arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all answers are alike.
async fn compare(arguments: Arguments) -> Result<bool> {
    let oracle = match (&arguments.oracle, &arguments.kubeconfig) {
        (Some(address), _) => Target::of_address(address)?,
        (None, Some(file)) => Target::of_kubeconfig(file).await?,
        (None, None) => anyhow::bail!("name the reference server by --oracle or --kubeconfig"),
    };
    if arguments.record {
        cases::record(&oracle).await?;
        return Ok(true);
    }
    let mut scratch = None;
    let skep = match &arguments.skep {
        Some(file) => Target::of_kubeconfig(file).await?,
        None => {
            let target = Target::new(scratch.insert(TestApiServer::start().await?).client());
            target.remove_default_classes().await?;
            target
        }
    };
    let found = manifests::read(&arguments.folders)?;
    let options = Options { real: arguments.real, workers: arguments.workers };
    let outcomes = run(&Pair { oracle, skep }, found.objects, &options).await?;
    print!("{}", report::text(&outcomes, found.unreadable));
    if let Some(file) = &arguments.json {
        write_json(file, &outcomes)?;
    }
    Ok(outcomes.all.iter().all(|outcome| outcome.differences.is_empty()))
}

fn write_json(file: &Path, outcomes: &skep_tests::fidelity::run::Outcomes) -> Result<()> {
    let differing: Vec<_> = outcomes.all.iter().filter(|outcome| !outcome.differences.is_empty()).collect();
    let text = serde_json::to_vec_pretty(&differing)?;
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
