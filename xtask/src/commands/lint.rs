//! `cargo xtask lint`: the architecture check, formatting and clippy, as the tests demand them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::architecture::{self, Rule};

#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Say how to mend what breaks a rule, and check nothing; without a name, for every rule
    #[arg(long, value_name = "RULE", num_args = 0..=1)]
    explain: Option<Option<Rule>>,
    /// Print the circles of files of one package, such as userspace/api, with the names that make the arrows
    #[arg(long, value_name = "PACKAGE", conflicts_with = "explain")]
    circles: Option<String>,
    /// Check the architecture only
    #[arg(long)]
    architecture: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(rule) = arguments.explain {
        rule.map_or(Rule::ALL.to_vec(), |rule| vec![rule]).into_iter().for_each(explain);
        return Ok(());
    }
    if let Some(folder) = &arguments.circles {
        return print_circles(folder.trim_end_matches('/'));
    }
    let findings = architecture::check(&crate::workspace())?;
    if !findings.is_empty() {
        architecture::print(&findings);
        bail!("the architecture check failed with {} findings", findings.len());
    }
    if arguments.architecture {
        return Ok(());
    }
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--all-targets", "--", "--deny=warnings"])
}

fn explain(rule: Rule) {
    println!("{}\n  {}\n", rule.name(), rule.explain().replace('\n', "\n  "));
}

fn print_circles(folder: &str) -> Result<()> {
    for circle in architecture::circles_of(&crate::workspace(), folder)? {
        println!("{} files:", circle.files.len());
        for (from, to, name) in &circle.arrows {
            println!("  {from} -> {to}  ({name})");
        }
    }
    Ok(())
}

/// Runs cargo at the top of the tree.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).current_dir(crate::workspace()).args(args).status();
    let status = status.with_context(|| format!("run cargo {}", args.join(" ")))?;
    if !status.success() {
        bail!("cargo {} failed: {status}", args.join(" "));
    }
    Ok(())
}
