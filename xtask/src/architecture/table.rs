//! `xtask/architecture.toml`: who may import whom, what is PURE, and the exceptions with their reasons.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::finding::Finding;
use super::package::Package;
use super::rules::Rule;

pub(super) const FILE: &str = "xtask/architecture.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// By folder, such as `userspace/api`.
    pub(super) packages: BTreeMap<String, Row>,
    /// Folders and files that are PURE in packages that are not.
    #[serde(default)]
    pub(super) pure_paths: Vec<String>,
    #[serde(default)]
    pub(super) unnamed_dependencies: Vec<UnnamedDependency>,
    #[serde(default)]
    pub(super) long_functions: Vec<Exception>,
    /// Functions that may call `unwrap` or `expect`.
    #[serde(default)]
    pub(super) panics: Vec<Exception>,
    /// How many `Result<_, String>` each file has.
    #[serde(default)]
    pub(super) string_errors: BTreeMap<String, usize>,
}

/// What holds for one package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// Folders of the packages of ours that it may import, tests excepted.
    pub(super) imports: Vec<String>,
    #[serde(default)]
    pub(super) pure: bool,
    /// The number of files in its largest circle; 0 for none.
    #[serde(default)]
    pub(super) largest_circle: usize,
    /// Its code runs for users: it must not panic.
    #[serde(default)]
    pub(super) production: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnnamedDependency {
    pub(super) package: String,
    pub(super) dependency: String,
    #[serde(rename = "reason")]
    _reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exception {
    pub(super) file: String,
    pub(super) function: String,
    #[serde(rename = "reason")]
    _reason: String,
}

impl Table {
    pub(super) fn read(path: &Path) -> Result<Table> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Packages without a row, and rows without a package.
    pub(super) fn unknown_packages(&self, packages: &[Package]) -> Vec<Finding> {
        let missing = packages.iter().filter(|package| !self.packages.contains_key(&package.folder));
        let missing = missing.map(|package| (package.folder.as_str(), "has no row"));
        let known = |folder: &str| packages.iter().any(|package| package.folder == folder);
        let gone = self.packages.keys().filter(|folder| !known(folder));
        let gone = gone.map(|folder| (folder.as_str(), "has a row, but there is no such package"));
        missing.chain(gone).map(|(folder, problem)| finding(format!("{folder} {problem}"))).collect()
    }

    pub(super) fn is_pure(&self, package: &str, file: &str) -> bool {
        let whole = self.packages.get(package).is_some_and(|row| row.pure);
        whole || self.pure_paths.iter().any(|path| is_within(file, path))
    }

    /// Leaves out what a row of `unnamed_dependencies` excuses; a row that excuses nothing is a finding.
    pub(super) fn unexcused_dependencies(&self, found: Vec<Finding>) -> Vec<Finding> {
        let rows = self.unnamed_dependencies.iter();
        excuse(
            rows.map(|row| (format!("{}/Cargo.toml", row.package), row.dependency.clone())).collect(),
            found,
        )
    }

    /// The same for exceptions by file and function.
    pub(super) fn unexcused_functions(&self, rows: &[Exception], found: Vec<Finding>) -> Vec<Finding> {
        excuse(rows.iter().map(|row| (row.file.clone(), row.function.clone())).collect(), found)
    }

    /// Rows of `pure_paths` that name nothing.
    pub(super) fn missing_pure_paths(&self, root: &Path) -> Vec<Finding> {
        let missing = self.pure_paths.iter().filter(|path| !root.join(path).exists());
        missing.map(|path| finding(format!("pure_paths: there is no {path}"))).collect()
    }

    /// Compares counted findings with the recorded counts, in both directions.
    pub(super) fn counted_findings(&self, counted: BTreeMap<String, Vec<Finding>>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (file, found) in &counted {
            let allowed = self.string_errors.get(file).copied().unwrap_or(0);
            if found.len() > allowed {
                findings.extend(found.iter().cloned());
            }
        }
        for (file, allowed) in &self.string_errors {
            let count = counted.get(file).map_or(0, Vec::len);
            if count < *allowed {
                let problem =
                    format!("string_errors: {file} has {count}, the table says {allowed}; lower it");
                findings.push(finding(problem));
            }
        }
        findings
    }
}

pub(super) fn finding(problem: String) -> Finding {
    Finding::new(Rule::Table, FILE, 0, problem)
}

/// `rows` are files and subjects, as [`Finding::subject`].
fn excuse(rows: Vec<(String, String)>, found: Vec<Finding>) -> Vec<Finding> {
    let matches = |(file, subject): &(String, String), finding: &Finding| {
        *file == finding.file && *subject == finding.subject
    };
    let stale = rows.iter().filter(|row| !found.iter().any(|finding| matches(row, finding)));
    let mut left: Vec<Finding> = stale
        .map(|(file, subject)| {
            finding(format!("{file}: the exception for {subject} excuses nothing; remove it"))
        })
        .collect();
    left.extend(found.into_iter().filter(|finding| !rows.iter().any(|row| matches(row, finding))));
    left
}

/// Whether `file` is `path` or lies below it.
fn is_within(file: &str, path: &str) -> bool {
    file.strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || path.ends_with('/') || rest.starts_with('/'))
}
