//! Dependencies: which packages of ours a package may import, and whether code names each of them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use super::finding::Finding;
use super::package::{Manifest, Package, read_toml};
use super::rules::Rule;
use super::table::Table;
use super::tree::Tree;
use super::uses;

#[derive(Deserialize)]
struct Root {
    workspace: Shared,
}

#[derive(Deserialize)]
struct Shared {
    dependencies: toml::Table,
}

/// Arrows between packages that the table does not have.
pub(super) fn imports(table: &Table, package: &Package) -> Vec<Finding> {
    let Some(row) = table.packages.get(&package.folder) else { return Vec::new() };
    let manifest = &package.manifest;
    let ours = manifest
        .dependencies
        .keys()
        .chain(manifest.build_dependencies.keys())
        .filter_map(|name| folder_of(name));
    let refused = ours.filter(|folder| !row.imports.iter().any(|allowed| allowed == folder));
    refused
        .map(|folder| {
            let problem = format!("{} must not import {folder}", package.folder);
            Finding::new(Rule::Import, manifest_path(package), 0, problem)
        })
        .collect()
}

/// The folder of a package of ours.
fn folder_of(dependency: &str) -> Option<String> {
    let folder = match dependency {
        "xtask" => "xtask".to_owned(),
        "skep-tests" => "tests".to_owned(),
        "skep-test-servers" => "tests/servers".to_owned(),
        "skep-cni" => "cni".to_owned(),
        "skep-policy" => "policy".to_owned(),
        "skep-abi" => "ebpf/abi".to_owned(),
        name => format!("userspace/{}", name.strip_prefix("skep-")?),
    };
    Some(folder)
}

/// Dependencies that no code of the package names.
pub(super) fn unnamed(package: &Package) -> Vec<Finding> {
    let Manifest { dependencies, dev_dependencies, build_dependencies, .. } = &package.manifest;
    let production = names(&package.production, false);
    let tests: BTreeSet<String> =
        names(&package.production, true).into_iter().chain(names(&package.tests, true)).collect();
    let build =
        package.build.as_ref().map(|tree| names(std::slice::from_ref(tree), true)).unwrap_or_default();
    let groups = [(dependencies, &production), (dev_dependencies, &tests), (build_dependencies, &build)];
    let mut findings = Vec::new();
    for (declared, named) in groups {
        for dependency in declared.keys() {
            let name = dependency.replace('-', "_");
            if !named.contains(&name) {
                let problem = format!("no code names the dependency {dependency}");
                let finding = Finding::new(Rule::Dependency, manifest_path(package), 0, problem);
                findings.push(finding.about(dependency));
            }
        }
    }
    findings
}

/// Every name that can be a crate's: the first of each path.
fn names(trees: &[Tree], with_tests: bool) -> BTreeSet<String> {
    let files = trees.iter().flat_map(|tree| &tree.files);
    let paths = files.flat_map(|file| if with_tests { uses::with_tests(file) } else { uses::all(file) });
    paths.filter_map(|path| path.segments.into_iter().next()).collect()
}

/// Shared dependencies of the workspace that no package takes.
pub(super) fn workspace(root: &Path, packages: &[Package]) -> Result<Vec<Finding>> {
    let manifest: Root = read_toml(&root.join("Cargo.toml"))?;
    let taken: BTreeSet<&String> = packages
        .iter()
        .flat_map(|package| {
            let Manifest { dependencies, dev_dependencies, build_dependencies, .. } = &package.manifest;
            dependencies.keys().chain(dev_dependencies.keys()).chain(build_dependencies.keys())
        })
        .collect();
    let untaken = manifest.workspace.dependencies.keys().filter(|name| !taken.contains(name));
    Ok(untaken
        .map(|name| Finding::new(Rule::Dependency, "Cargo.toml", 0, format!("no package takes {name}")))
        .collect())
}

fn manifest_path(package: &Package) -> String {
    format!("{}/Cargo.toml", package.folder)
}
