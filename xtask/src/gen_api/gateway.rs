//! The definitions of Gateway API's kinds, from a checkout of a release, to the facts that `userspace/gateway` embeds.
//!
//! Out: schemas, defaults and rules without prose; what is there more than once has one line, as `gateway_api/definitions.rs` documents.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::workspace;

const FACTS: &str = "userspace/gateway/src/gateway_api/definitions.jsonl";
const GROUP_FILES: &str = "gateway.networking.k8s.io_";
/// Smaller values are repeated.
const MIN_SHARED_BYTES: usize = 100;
const TO_JSON: &str =
    "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";

pub(super) fn run(checkout: &Path) -> Result<()> {
    let folder = checkout.join("config/crd/experimental");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GROUP_FILES)))
        .collect();
    files.sort();
    let mut definitions = Vec::new();
    for file in &files {
        for document in documents(file)? {
            if document["kind"] == "CustomResourceDefinition" {
                definitions.push(without_prose(document, false));
            }
        }
    }
    let mut sharing = Sharing::default();
    definitions.iter().for_each(|definition| sharing.count(definition));
    let definitions: Vec<Value> = definitions.iter().map(|definition| sharing.shorten(definition)).collect();
    let mut out = sharing.lines;
    out.extend(definitions.iter().map(|definition| json!({"crd": definition}).to_string()));
    std::fs::write(workspace().join(FACTS), out.join("\n") + "\n")
        .with_context(|| format!("write {FACTS}"))?;
    println!("{FACTS}: {} kinds", definitions.len());
    Ok(())
}

fn documents(file: &Path) -> Result<Vec<Value>> {
    let output = Command::new("python3").args(["-c", TO_JSON]).arg(file).output().context("run python3")?;
    if !output.status.success() {
        bail!("read {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("parse {}", file.display()))
}

/// `names`: the keys are names of fields, and a field may be called `description`.
fn without_prose(value: Value, names: bool) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| {
                names || !(key == "description" && value.is_string() || key == "creationTimestamp")
            });
            let kept = kept.map(|(key, value)| {
                let of_names = key == "properties" && !names;
                (key, without_prose(value, of_names))
            });
            Value::Object(kept.collect())
        }
        Value::Array(all) => all.into_iter().map(|value| without_prose(value, false)).collect(),
        other => other,
    }
}

#[derive(Default)]
struct Sharing {
    counts: HashMap<String, usize>,
    line_of: HashMap<String, usize>,
    lines: Vec<String>,
}

impl Sharing {
    fn count(&mut self, value: &Value) {
        if let Value::Object(map) = value {
            let count = self.counts.entry(value.to_string()).or_default();
            *count += 1;
            // Its parts are shared with it.
            if *count == 1 {
                map.values().for_each(|value| self.count(value));
            }
        } else if let Value::Array(all) = value {
            all.iter().for_each(|value| self.count(value));
        }
    }

    fn shorten(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let text = value.to_string();
                let is_shared =
                    text.len() > MIN_SHARED_BYTES && self.counts.get(&text).is_some_and(|count| *count > 1);
                if !is_shared {
                    return self.shorten_fields(map);
                }
                if !self.line_of.contains_key(&text) {
                    let line = self.shorten_fields(map).to_string();
                    self.line_of.insert(text.clone(), self.lines.len());
                    self.lines.push(line);
                }
                json!({"$": self.line_of.get(&text)})
            }
            Value::Array(all) => all.iter().map(|value| self.shorten(value)).collect(),
            other => other.clone(),
        }
    }

    fn shorten_fields(&mut self, map: &Map<String, Value>) -> Value {
        Value::Object(map.iter().map(|(key, value)| (key.clone(), self.shorten(value))).collect())
    }
}
