//! The packages of the workspace: their manifests, and their source files parsed into module trees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::tree::Tree;

/// A package of the workspace, parsed.
pub(super) struct Package {
    /// Relative to the top of the tree, such as `userspace/api`.
    pub(super) folder: String,
    pub(super) manifest: Manifest,
    /// Library and programs.
    pub(super) production: Vec<Tree>,
    /// Integration tests and examples.
    pub(super) tests: Vec<Tree>,
    /// The build script.
    pub(super) build: Option<Tree>,
}

/// The part of Cargo.toml that the check reads.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) dependencies: BTreeMap<String, toml::Value>,
    #[serde(default, rename = "dev-dependencies")]
    pub(super) dev_dependencies: BTreeMap<String, toml::Value>,
    #[serde(default, rename = "build-dependencies")]
    pub(super) build_dependencies: BTreeMap<String, toml::Value>,
    lib: Option<Target>,
    #[serde(default)]
    bin: Vec<Target>,
    #[serde(default)]
    test: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    path: Option<String>,
}

#[derive(Deserialize)]
struct Root {
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    members: Vec<String>,
    #[serde(default, rename = "default-members")]
    default_members: Vec<String>,
}

/// Reads and parses every member of the workspace.
pub(super) fn all(root: &Path) -> Result<Vec<Package>> {
    let manifest: Root = read_toml(&root.join("Cargo.toml"))?;
    let Workspace { mut members, default_members } = manifest.workspace;
    members.extend(default_members);
    members.sort();
    members.dedup();
    members.into_iter().map(|folder| Package::read(root, folder)).collect()
}

pub(super) fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

impl Package {
    fn read(root: &Path, folder: String) -> Result<Package> {
        let at = root.join(&folder);
        let manifest: Manifest = read_toml(&at.join("Cargo.toml"))?;
        let parse = |files: Vec<PathBuf>| -> Result<Vec<Tree>> {
            files.iter().map(|file| Tree::parse(root, file)).collect()
        };
        let production = parse(manifest.production_roots(&at))?;
        let tests = parse(manifest.test_roots(&at))?;
        let build = Some(at.join("build.rs")).filter(|file| file.exists());
        let build = build.map(|file| Tree::parse(root, &file)).transpose()?;
        Ok(Package { folder, manifest, production, tests, build })
    }

    pub(super) fn trees(&self) -> impl Iterator<Item = &Tree> {
        self.production.iter().chain(&self.tests).chain(&self.build)
    }
}

impl Manifest {
    fn production_roots(&self, at: &Path) -> Vec<PathBuf> {
        let named = self.lib.iter().chain(&self.bin).filter_map(|target| target.path.as_ref());
        let mut roots: Vec<PathBuf> = named.map(|path| at.join(path)).collect();
        for usual in ["src/lib.rs", "src/main.rs"] {
            roots.push(at.join(usual));
        }
        existing(roots)
    }

    fn test_roots(&self, at: &Path) -> Vec<PathBuf> {
        let named = self.test.iter().filter_map(|target| target.path.as_ref());
        let mut roots: Vec<PathBuf> = named.map(|path| at.join(path)).collect();
        for folder in ["tests", "examples"] {
            for entry in std::fs::read_dir(at.join(folder)).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "rs") {
                    roots.push(path);
                } else {
                    roots.push(path.join("main.rs"));
                }
            }
        }
        existing(roots)
    }
}

fn existing(mut roots: Vec<PathBuf>) -> Vec<PathBuf> {
    roots.retain(|path| path.exists());
    roots.sort();
    roots.dedup();
    roots
}
