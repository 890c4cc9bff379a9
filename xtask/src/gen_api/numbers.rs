//! Protobuf field numbers, read off the attributes in the source of the crate `k8s-pb`.
//!
//! A field that is inlined in JSON but nested in protobuf gets a path: `2.5`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const CRATE: &str = "k8s-pb@0.9";
/// Fields of v1.36 that the crate does not know yet, from the `generated.proto` files of that release: `type field=number ...`.
const NEWER: &str = include_str!("newer.txt");

/// By lower-case type name, since Rust's spelling differs (`HttpGetAction`), then by field name without case and underscores.
#[derive(Default)]
pub(super) struct Numbers {
    types: HashMap<String, HashMap<String, Numbered>>,
}

struct Numbered {
    tag: u32,
    /// The field's type, if it is a message.
    message: Option<String>,
}

impl Numbers {
    pub(super) fn of(&self, name: &str, field: &str) -> Option<String> {
        let name = &name.to_lowercase();
        let fields = self.types.get(name)?;
        let wanted = folded(field);
        if let Some(found) = fields.get(&wanted) {
            return Some(found.tag.to_string());
        }
        // An embedded Go struct is a message with the name of its field.
        fields.iter().find_map(|(field_name, inline)| {
            let message =
                inline.message.as_deref().filter(|message| message.ends_with(field_name.as_str()))?;
            Some(format!("{}.{}", inline.tag, self.of(message, field).filter(|_| message != name)?))
        })
    }
}

fn folded(name: &str) -> String {
    name.trim_start_matches("r#")
        .chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

pub(super) fn read(folder: &Path) -> Result<Numbers> {
    let mut numbers = Numbers::default();
    NEWER.lines().for_each(|line| numbers.add(line));
    let root = source(&folder.join("numbers"))?;
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.parent().unwrap_or(&root).strip_prefix(&root)?;
                let module: Vec<String> =
                    module.iter().map(|part| part.to_string_lossy().replace('_', "-")).collect();
                numbers.parse(&module, &std::fs::read_to_string(&path)?);
            }
        }
    }
    Ok(numbers)
}

/// The crate's source folder, fetched by cargo.
fn source(project: &Path) -> Result<PathBuf> {
    let cargo = |args: &[&str]| -> Result<Vec<u8>> {
        let output = Command::new("cargo").current_dir(project).args(args).output().context("run cargo")?;
        if !output.status.success() {
            bail!("cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    };
    // A package of its own, not a member of the workspace around it.
    std::fs::create_dir_all(project.join("src"))?;
    std::fs::write(project.join("src/lib.rs"), "")?;
    let manifest = "[package]\nname = \"numbers\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n";
    std::fs::write(project.join("Cargo.toml"), manifest)?;
    cargo(&["add", "--quiet", CRATE])?;
    let metadata: Value = serde_json::from_slice(&cargo(&["metadata", "--format-version", "1"])?)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let manifest =
        packages.iter().find(|package| package["name"] == "k8s-pb").context("k8s-pb was not fetched")?;
    let manifest = Path::new(manifest["manifest_path"].as_str().context("no path")?);
    Ok(manifest.parent().context("no folder")?.join("src"))
}

impl Numbers {
    /// A line of [`NEWER`].
    fn add(&mut self, line: &str) {
        let mut words = line.split(' ');
        let fields = self.types.entry(words.next().unwrap_or_default().to_lowercase()).or_default();
        for (field, number) in words.filter_map(|word| word.split_once('=')) {
            if let Ok(tag) = number.parse() {
                fields.insert(folded(field), Numbered { tag, message: None });
            }
        }
    }

    fn parse(&mut self, module: &[String], text: &str) {
        let (mut current, mut tag, mut is_message) = (None::<String>, None, false);
        for line in &statements(text) {
            if let Some(rest) = line.strip_prefix("pub struct ") {
                let name = rest.trim_end_matches([' ', '{', '}']);
                current = Some(format!("{}.{name}", module.join(".")).to_lowercase());
            } else if let Some(rest) = line.strip_prefix("#[prost(") {
                tag = rest.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
                is_message = rest.starts_with("message, optional");
            } else if let (Some(name), Some(number)) = (&current, tag)
                && let Some(rest) = line.strip_prefix("pub ")
                && let Some((field, kind)) = rest.split_once(": ")
            {
                let message = is_message.then(|| resolve(module, kind));
                let fields = self.types.entry(name.clone()).or_default();
                fields.insert(folded(field), Numbered { tag: number, message });
                tag = None;
            }
        }
    }
}

/// Joins the lines that the formatter broke: attributes end with `]`, fields with a comma.
fn statements(text: &str) -> Vec<String> {
    let (mut out, mut open) = (Vec::new(), String::new());
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if !open.is_empty() && !open.ends_with('(') && !open.ends_with('<') {
            open.push(' ');
        }
        open.push_str(line);
        let whole = if open.starts_with("#[") {
            open.ends_with(']')
        } else {
            !open.starts_with("pub ") || open.ends_with([',', '{', '}', ';'])
        };
        if whole {
            out.push(std::mem::take(&mut open));
        }
    }
    out
}

/// `::core::option::Option<super::super::x::Y>,` to the full name of the type.
fn resolve(module: &[String], kind: &str) -> String {
    let inner = kind.split('<').nth(1).unwrap_or(kind).trim_end_matches([',', '>']);
    let mut path = module.to_vec();
    for part in inner.split("::") {
        match part {
            "super" => drop(path.pop()),
            part => path.push(part.replace('_', "-")),
        }
    }
    path.join(".").to_lowercase()
}
