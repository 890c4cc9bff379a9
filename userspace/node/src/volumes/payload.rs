//! PURE. The files of a configMap, secret, downwardAPI or projected volume, compiled from API objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};

use crate::downward::{self, PodFacts};
use crate::env::Objects;
use crate::objects::{ObjectKey, ObjectKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// A service account token: only its user may read it.
    pub token: bool,
}

/// Files by their path within the volume.
pub type Payload = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("{kind} references non-existent key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("invalid path {0:?}: it must be relative and stay within the volume")]
    Path(String),
    #[error(transparent)]
    Field(#[from] downward::FieldError),
    #[error("no token was issued for {0}")]
    NoToken(String),
}

/// The tokens issued for a volume's projections, by their path.
pub type Tokens = BTreeMap<String, String>;

const DEFAULT_MODE: i32 = 0o644;

/// The files of the volume; `None` when API objects do not define its contents.
pub fn compile(
    volume: &Volume,
    facts: &PodFacts<'_>,
    objects: &Objects,
    tokens: &Tokens,
) -> Result<Option<Payload>, PayloadError> {
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        config_map(&mut payload, objects, &source.name, source.items.as_deref(), mode, optional)?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(&mut payload, objects, name, source.items.as_deref(), mode, source.optional == Some(true))?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        fields(&mut payload, facts, source.items.as_deref().unwrap_or_default(), mode)?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for part in source.sources.iter().flatten() {
            if let Some(from) = &part.config_map {
                let optional = from.optional == Some(true);
                config_map(&mut payload, objects, &from.name, from.items.as_deref(), mode, optional)?;
            }
            if let Some(from) = &part.secret {
                let optional = from.optional == Some(true);
                secret(&mut payload, objects, &from.name, from.items.as_deref(), mode, optional)?;
            }
            if let Some(from) = &part.downward_api {
                fields(&mut payload, facts, from.items.as_deref().unwrap_or_default(), mode)?;
            }
            if let Some(from) = &part.service_account_token {
                let token = tokens.get(&from.path).ok_or_else(|| PayloadError::NoToken(from.path.clone()))?;
                let file = File { content: token.clone().into_bytes(), mode: bits(mode), token: true };
                insert(&mut payload, &from.path, file)?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

/// Whether a volume of the pod has files with fields of the pod itself.
pub fn shows_fields(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|volume| {
        let mut parts = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        volume.downward_api.is_some() || parts.any(|part| part.downward_api.is_some())
    })
}

fn config_map(
    payload: &mut Payload,
    objects: &Objects,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), PayloadError> {
    match objects.config_maps.get(name) {
        Some(map) => select(payload, config_map_data(map), items, mode, optional, "configmap"),
        None if optional => Ok(()),
        None => Err(PayloadError::NoConfigMap(name.to_owned())),
    }
}

fn secret(
    payload: &mut Payload,
    objects: &Objects,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), PayloadError> {
    match objects.secrets.get(name) {
        Some(secret) => select(payload, secret_data(secret), items, mode, optional, "secret"),
        None if optional => Ok(()),
        None => Err(PayloadError::NoSecret(name.to_owned())),
    }
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()))).collect()
}

fn secret_data(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect()
}

fn select(
    payload: &mut Payload,
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    kind: &'static str,
) -> Result<(), PayloadError> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, content) in data {
            insert(payload, key, File { content: content.to_vec(), mode: bits(mode), token: false })?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(content) => {
                let mode = bits(item.mode.unwrap_or(mode));
                insert(payload, &item.path, File { content: content.to_vec(), mode, token: false })?;
            }
            None if optional => {}
            None => return Err(PayloadError::NoKey { kind, key: item.key.clone() }),
        }
    }
    Ok(())
}

fn fields(
    payload: &mut Payload,
    facts: &PodFacts<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
) -> Result<(), PayloadError> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(facts, &field.field_path)?,
            (None, Some(resource)) => downward::resource(facts, resource, &Default::default())?,
            (None, None) => String::new(),
        };
        let mode = bits(item.mode.unwrap_or(mode));
        insert(payload, &item.path, File { content: text.into_bytes(), mode, token: false })?;
    }
    Ok(())
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

fn insert(payload: &mut Payload, path: &str, file: File) -> Result<(), PayloadError> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let escapes = parts.is_empty() || path.starts_with('/') || parts.iter().any(|p| p.starts_with(".."));
    if escapes {
        return Err(PayloadError::Path(path.to_owned()));
    }
    payload.insert(parts.join("/"), file);
    Ok(())
}

/// The objects that the pod's volumes refer to.
pub fn references(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let key = |kind, name: &str| ObjectKey { kind, namespace: namespace.clone(), name: name.to_owned() };
    let mut keys = Vec::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            keys.push(key(ObjectKind::ConfigMap, &source.name));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.as_ref()) {
            keys.push(key(ObjectKind::Secret, name));
        }
        for part in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            keys.extend(part.config_map.iter().map(|c| key(ObjectKind::ConfigMap, &c.name)));
            keys.extend(part.secret.iter().map(|s| key(ObjectKind::Secret, &s.name)));
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The objects that the container's environment refers to.
pub fn env_references(pod: &Pod, container: &k8s_openapi::api::core::v1::Container) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let key = |kind, name: &str| ObjectKey { kind, namespace: namespace.clone(), name: name.to_owned() };
    let mut keys = Vec::new();
    for source in container.env_from.iter().flatten() {
        keys.extend(source.config_map_ref.iter().map(|r| key(ObjectKind::ConfigMap, &r.name)));
        keys.extend(source.secret_ref.iter().map(|r| key(ObjectKind::Secret, &r.name)));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        keys.extend(source.config_map_key_ref.iter().map(|r| key(ObjectKind::ConfigMap, &r.name)));
        keys.extend(source.secret_key_ref.iter().map(|r| key(ObjectKind::Secret, &r.name)));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The token projections of a volume.
pub fn token_projections(volume: &Volume) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten())
        .filter_map(|part| part.service_account_token.as_ref())
}
