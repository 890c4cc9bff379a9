//! The architecture rules that a machine can check.
//!
//! In: the source tree and `xtask/architecture.toml`. Out: [`Finding`]s, each with a rule, a file, a line and what is
//! wrong. `cargo xtask lint` fails when there is one; `cargo xtask lint --explain` says how to mend each kind.

pub mod circles;
mod dependencies;
mod documents;
mod finding;
mod measures;
mod package;
mod purity;
mod rules;
mod style;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod uses;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

pub use finding::Finding;
pub use rules::Rule;

use table::Table;

/// Checks every package of the workspace against the table.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let table = Table::read(&root.join(table::FILE))?;
    let packages = package::all(root)?;
    let mut findings = table.unknown_packages(&packages);
    findings.extend(dependencies::workspace(root, &packages)?);
    findings.extend(documents::check(root)?);
    findings.extend(table.missing_pure_paths(root));
    let (mut unnamed, mut lengths, mut panics) = (Vec::new(), Vec::new(), Vec::new());
    for package in &packages {
        findings.extend(dependencies::imports(&table, package));
        findings.extend(circles::check(&table, package));
        findings.extend(purity::check(&table, package));
        unnamed.extend(dependencies::unnamed(package));
        lengths.extend(measures::check(package));
        panics.extend(style::panics(&table, package));
    }
    findings.extend(table.unexcused_dependencies(unnamed));
    findings.extend(table.unexcused_functions(&table.long_functions, lengths));
    findings.extend(table.unexcused_functions(&table.panics, panics));
    findings.extend(table.counted_findings(style::string_errors(&packages)));
    findings.sort();
    Ok(findings)
}

/// The circles of files of one package, the largest first, for someone who unties them.
pub fn circles_of(root: &Path, folder: &str) -> Result<Vec<circles::Circle>> {
    let packages = package::all(root)?;
    let package = packages.iter().find(|package| package.folder == folder);
    let package = package.with_context(|| format!("no package in {folder}"))?;
    Ok(circles::find(package))
}

/// Prints the findings, one a line, with how many each rule has.
pub fn print(findings: &[Finding]) {
    let mut counts: BTreeMap<Rule, usize> = BTreeMap::new();
    for finding in findings {
        println!("{}:{}: [{}] {}", finding.file, finding.line, finding.rule.name(), finding.problem);
        *counts.entry(finding.rule).or_default() += 1;
    }
    for (rule, count) in counts {
        println!(
            "{count} of {name}: `cargo xtask lint --explain {name}` says how to mend it",
            name = rule.name()
        );
    }
}
