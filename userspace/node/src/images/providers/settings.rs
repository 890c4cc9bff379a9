//! The configuration of credential providers: CredentialProviderConfig of `kubelet.config.k8s.io`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::Deserialize;

use super::pattern;

/// Why credential providers cannot be used as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("{}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", .path.display())]
    Syntax { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{}: it is a {kind}, not a CredentialProviderConfig of kubelet.config.k8s.io", .path.display())]
    OtherKind { path: PathBuf, kind: String },
    #[error("no configuration files found in directory {}", .0.display())]
    NoFiles(PathBuf),
    #[error("providers: Required value: at least 1 item in plugins is required")]
    NoProviders,
    #[error("duplicate provider name {0:?} found in configuration file(s)")]
    Duplicate(String),
    #[error("provider {name:?}: {field}: {why}")]
    Invalid { name: String, field: &'static str, why: String },
    #[error("{} is not a program", .0.display())]
    NoProgram(PathBuf),
}

const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const EXEC_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// A provider that is valid.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) name: String,
    patterns: Vec<String>,
    pub(super) default_lifetime: SignedDuration,
    /// Of its requests and answers.
    pub(super) api_version: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

impl Provider {
    pub(super) fn matches(&self, image: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern::matches(pattern, image))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

/// The providers of a file, or of the files of a folder in their order.
pub(super) fn read(path: &Path) -> Result<Vec<Provider>, ProviderError> {
    let failed = |source| ProviderError::Read { path: path.to_owned(), source };
    let mut files = vec![path.to_owned()];
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        files.clear();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let is_config = file.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
            files.extend((is_config && !file.is_dir()).then_some(file));
        }
        files.sort();
        if files.is_empty() {
            return Err(ProviderError::NoFiles(path.to_owned()));
        }
    }
    let mut all = Vec::new();
    for file in files {
        let text =
            std::fs::read(&file).map_err(|source| ProviderError::Read { path: file.clone(), source })?;
        all.extend(parse(&text, &file)?);
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = all.iter().find(|provider| !names.insert(&provider.name)) {
        return Err(ProviderError::Duplicate(twice.name.clone()));
    }
    if all.is_empty() { Err(ProviderError::NoProviders) } else { Ok(all) }
}

fn parse(text: &[u8], path: &Path) -> Result<Vec<Provider>, ProviderError> {
    let document: Document = serde_saphyr::from_slice(text)
        .map_err(|source| ProviderError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
    let Document { api_version, kind, providers } = document;
    if kind != "CredentialProviderConfig" || !CONFIG_VERSIONS.contains(&api_version.as_str()) {
        let kind = format!("{api_version} {kind}");
        return Err(ProviderError::OtherKind { path: path.to_owned(), kind });
    }
    providers.into_iter().map(validate).collect()
}

fn validate(entry: Entry) -> Result<Provider, ProviderError> {
    let Entry { name, match_images, default_cache_duration, api_version, args, env, token_attributes } =
        entry;
    let invalid =
        |field, why: &str| Err(ProviderError::Invalid { name: name.clone(), field, why: why.to_owned() });
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) {
        return invalid("name", "it must be the name of a program, without slashes and spaces");
    }
    if !EXEC_VERSIONS.contains(&api_version.as_str()) {
        return invalid("apiVersion", &format!("must be one of {}", EXEC_VERSIONS.join(", ")));
    }
    if match_images.is_empty() {
        return invalid("matchImages", "at least 1 item in matchImages is required");
    }
    if let Some((image, why)) = match_images.iter().find_map(|i| Some((i, pattern::problem(i)?))) {
        return invalid("matchImages", &format!("match image {image:?} is invalid: {why}"));
    }
    let lifetime = default_cache_duration.as_deref().map(str::parse::<SignedDuration>);
    let default_lifetime = match lifetime {
        Some(Ok(lifetime)) if !lifetime.is_negative() => lifetime,
        Some(Ok(_)) => return invalid("defaultCacheDuration", "must be greater than or equal to 0"),
        Some(Err(error)) => return invalid("defaultCacheDuration", &error.to_string()),
        None => return invalid("defaultCacheDuration", "Required value"),
    };
    if token_attributes.is_some() {
        return invalid("tokenAttributes", "tokens of service accounts are not given to providers");
    }
    let env = env.into_iter().map(|Variable { name, value }| (name, value)).collect();
    Ok(Provider { name, patterns: match_images, default_lifetime, api_version, args, env })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: acme
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ['*.acme.io']
  defaultCacheDuration: 12h
  args: [get]
  env: [{name: A, value: b}]
";

    #[test]
    fn a_configuration_is_taken_whole_or_refused_with_the_field() {
        let parsed = |text: &str| parse(text.as_bytes(), Path::new("c.yaml"));
        let providers = parsed(CONFIG).expect("valid");
        assert_eq!(providers[0].default_lifetime, SignedDuration::from_hours(12));
        assert!(providers[0].matches("eu.acme.io/app") && !providers[0].matches("acme.io/app"));
        for (from, to, wanted) in [
            ("kind: Cred", "kind: X", "c.yaml: it is a kubelet.config.k8s.io/v1 X"),
            ("name: acme", "name: ../acme", "provider \"../acme\": name: "),
            ("['*.acme.io']", "[]", "provider \"acme\": matchImages: at least 1"),
            ("['*.acme.io']", "['acme.io/*']", "provider \"acme\": matchImages: match image"),
            ("12h", "-1s", "provider \"acme\": defaultCacheDuration: must be"),
            ("12h", "soon", "provider \"acme\": defaultCacheDuration: "),
            ("kubelet.k8s.io/v1\n  match", "kubelet.k8s.io/v2\n  match", "provider \"acme\": apiVersion: "),
            ("args:", "arguments:", "c.yaml: "),
        ] {
            let error = parsed(&CONFIG.replace(from, to)).expect_err(to).to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
