//! `cargo xtask fuzz`: libFuzzer on each parser of foreign bytes. The tests run the same targets, bounded.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::deps::{self, Need};
use crate::progress::Step;

#[derive(clap::Args)]
pub struct Arguments {
    /// Only this target, a file of tests/fuzz/targets; may be repeated
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

pub fn run(arguments: Arguments) -> Result<()> {
    deps::ensure(&[Need::Build, Need::Fuzz])?;
    let known = targets()?;
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target is called {unknown}; there are {}", known.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { known } else { arguments.targets };
    let mut failed = Vec::new();
    for target in chosen {
        let step = Step::new(format!("{target}, {} s", arguments.seconds));
        match fuzz(&target, arguments.seconds) {
            Ok(()) => step.done("nothing found"),
            Err(error) => failed.push(format!("{target}: {error:#}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("found:\n{}", failed.join("\n")) }
}

/// The names of the target files.
fn targets() -> Result<Vec<String>> {
    let folder = crate::workspace().join("tests/fuzz/targets");
    let files = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names = Vec::new();
    for file in files {
        names.extend(file?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// The inputs that reach new code are kept below `target/fuzz` and are where the next run begins.
fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let folder = crate::workspace().join("target/fuzz");
    let (corpus, found) = (folder.join("corpus").join(target), folder.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let mut command = Command::new("cargo");
    command.current_dir(crate::workspace()).args(["+nightly", "fuzz", "run", "--fuzz-dir", "tests/fuzz"]);
    command.args(["--features", "libfuzzer", "--target-dir"]).arg(folder.join("build"));
    command.arg(target).arg(&corpus).arg("--").arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/{target}-", found.display()));
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{status}; the input is in {}", found.display()) }
}
