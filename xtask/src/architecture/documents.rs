//! Documents name files that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::finding::Finding;
use super::rules::Rule;

/// The first parts of paths of this tree, as documents write them.
const TOPS: [&str; 8] = ["cni/", "docs/", "ebpf/", "examples/", "policy/", "tests/", "userspace/", "xtask/"];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in documents(root)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        for (index, line) in text.lines().enumerate() {
            let missing = paths(line).filter(|path| !root.join(path).exists());
            let linked = links(line).filter(|path| !exists_beside(&file, path));
            findings.extend(missing.chain(linked).map(|path| {
                Finding::new(Rule::Document, shown.clone(), index + 1, format!("there is no {path}"))
            }));
        }
    }
    Ok(findings)
}

/// Every Markdown file at the top, in `docs` and in `examples`.
fn documents(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for folder in ["", "docs", "docs/how-to", "examples"] {
        for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

/// Paths of this tree in code spans. A word in capitals, such as NAME, is for the reader to fill in.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    let literal = |path: &&str| {
        let placeholder =
            |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        TOPS.iter().any(|top| path.starts_with(top))
            && !path.contains([' ', '*', '<', '{'])
            && !path.split(['/', '.']).any(placeholder)
    };
    spans.filter(literal)
}

/// Targets of links to files, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains(':'))
}

fn exists_beside(document: &Path, target: &str) -> bool {
    document.parent().is_some_and(|folder| folder.join(target).exists())
}
