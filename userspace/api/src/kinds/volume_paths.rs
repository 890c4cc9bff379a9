//! Paths of files in one volume that hide each other.

use serde_json::Value;

use crate::value::{items, text};

/// The path of a file, and the source that has it in a projected volume.
#[derive(PartialEq, Eq)]
struct File<'a> {
    path: &'a str,
    source: String,
}

impl File<'_> {
    fn shown(&self) -> String {
        if self.source.is_empty() {
            format!("{:?}", self.path)
        } else {
            format!("{:?} ({})", self.path, self.source)
        }
    }

    /// Whether one is the other or below it.
    fn meets(&self, other: &File<'_>) -> bool {
        let is_below = |path: &str, folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !self.path.is_empty()
            && !other.path.is_empty()
            && (is_below(self.path, other.path) || is_below(other.path, self.path))
    }
}

/// Warns of the files of a volume.
pub(super) fn overlap_warnings(volume: &Value, warnings: &mut Vec<String>) {
    let name = text(&volume["name"]);
    for (field, shown, of) in
        [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("downwardAPI", "", "")]
    {
        if !volume[field]["items"].is_array() {
            continue;
        }
        let source = if of.is_empty() {
            "DownwardAPI".to_owned()
        } else {
            format!("{shown} {:?}", text(&volume[field][of]))
        };
        let files = items(&volume[field], "items").map(|item| file(&item["path"], String::new()));
        warn(files, name, &source, warnings);
    }
    let mut files = Vec::new();
    let mut empty = Vec::new();
    for source in items(&volume["projected"], "sources") {
        let found = projected(source);
        if source.as_object().is_none_or(serde_json::Map::is_empty) {
            empty.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
        files.extend(found);
    }
    warnings.extend(empty);
    warn(files.into_iter(), name, "Projected", warnings);
}

fn file(path: &Value, source: String) -> File<'_> {
    File { path: text(path).trim_end_matches('/'), source }
}

/// The files of one source of a projected volume.
fn projected(source: &Value) -> Vec<File<'_>> {
    for (field, shown) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "")] {
        let found = &source[field];
        if !found["items"].is_array() {
            continue;
        }
        let shown = if shown.is_empty() {
            "DownwardAPI".to_owned()
        } else {
            format!("{shown} {:?}", text(&found["name"]))
        };
        return items(found, "items").map(|item| file(&item["path"], shown.clone())).collect();
    }
    if source["serviceAccountToken"].is_object() {
        return vec![file(&source["serviceAccountToken"]["path"], "ServiceAccountToken".to_owned())];
    }
    let certificate = &source["podCertificate"];
    [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ]
    .into_iter()
    .filter(|(field, _)| !text(&certificate[*field]).is_empty())
    .map(|(field, shown)| file(&certificate[field], shown.to_owned()))
    .collect()
}

fn warn<'a>(files: impl Iterator<Item = File<'a>>, name: &str, source: &str, warnings: &mut Vec<String>) {
    let mut before: Vec<File<'_>> = Vec::new();
    for file in files {
        for other in before.iter().filter(|other| file.meets(other)) {
            warnings.push(format!(
                "volume {name:?} ({source}): overlapping paths: {} with {}",
                file.shown(),
                other.shown()
            ));
        }
        before.push(file);
    }
}
