//! Manifests in files: YAML with several documents, JSON, Lists. What is no object, such as a template, is counted.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Folders below the given one; links are not followed.
const MAX_FOLDER_DEPTH: usize = 16;

/// An object and where it is from.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub file: PathBuf,
    /// Which document of the file.
    pub document: usize,
    pub object: Value,
}

#[derive(Default)]
pub struct Manifests {
    pub objects: Vec<Manifest>,
    /// Documents that are no YAML or no object.
    pub unreadable: usize,
}

impl Manifest {
    pub fn text(&self, field: &str) -> &str {
        self.object[field].as_str().unwrap_or_default()
    }

    pub fn is_definition(&self) -> bool {
        self.text("kind") == "CustomResourceDefinition"
    }

    /// Empty if the server is to generate it.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// All objects below the files and folders.
pub fn read(paths: &[PathBuf]) -> Result<Manifests> {
    let mut found = Manifests::default();
    for path in paths {
        let mut files = Vec::new();
        list(path, 0, &mut files)?;
        files.sort();
        for file in files {
            let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            parse(&file, &String::from_utf8_lossy(&text), &mut found);
        }
    }
    Ok(found)
}

fn list(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", path.display()))?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if kind.is_dir() && depth < MAX_FOLDER_DEPTH {
            list(&path, depth + 1, files)?;
        } else if kind.is_file() && matches!(extension, "yaml" | "yml" | "json") {
            files.push(path);
        }
    }
    Ok(())
}

pub fn parse(file: &Path, text: &str, found: &mut Manifests) {
    for (document, text) in documents(text).into_iter().enumerate() {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        // As kubectl reads it: YAML 1.1's octal numbers.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        match serde_saphyr::from_str_with_options::<Value>(&text, options) {
            Ok(value) if value.is_object() => add(file, document, value, found),
            _ => found.unreadable += 1,
        }
    }
}

fn add(file: &Path, document: usize, object: Value, found: &mut Manifests) {
    if let Some(items) = object["items"].as_array()
        && object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
    {
        let items = items.iter().filter(|item| item["kind"].is_string());
        let file = file.to_owned();
        found.objects.extend(items.map(|item| Manifest {
            file: file.clone(),
            document,
            object: item.clone(),
        }));
    } else if object["apiVersion"].is_string() && object["kind"].is_string() {
        found.objects.push(Manifest { file: file.to_owned(), document, object });
    } else {
        found.unreadable += 1;
    }
}

/// A line that begins with `---` separates documents.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents
}
