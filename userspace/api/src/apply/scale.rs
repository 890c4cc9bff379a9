//! The managers of a Scale: those of its parent's replicas, as upstream's `ScaleHandler` maps them there and back.
//!
//! In: a parent, its Scale, and a configuration or the changed Scale. Out: the Scale, and the parent's `managedFields`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::field_set::FieldSet;
use super::managers::{Entry, ManagerId, Managers};
use super::path_element::PathElement;
use super::target::Target;
use super::writer::Writer;
use super::{apply_to, set_managers, track_in};
use crate::kinds::Kind;
use crate::{Status, meta};

const REPLICAS: [&str; 2] = ["spec", "replicas"];
const SCALE_VERSION: &str = "autoscaling/v1";

/// Merges a configuration into the Scale of `parent`. Out: the Scale, and the parent's managers.
pub fn apply_scale(
    kind: &Kind,
    parent: &Value,
    mut scale: Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(Value, Option<Value>), Status> {
    let managers = Managers::decode(&parent["metadata"]["managedFields"])
        .map_err(|why| Status::internal(format!("failed to decode managed fields: {why}")))?;
    let replicas = ReplicasPaths::of(kind);
    set_managers(&mut scale, &replicas.to_scale(&managers));
    let mut scale = apply_to(&Target::scale(writer), &scale, config, writer, force)?;
    let after = take_managers(&mut scale);
    Ok((scale, replicas.to_parent(managers, after).encode()))
}

/// The parent's managers after a write that changed its Scale from `old` to `new`.
pub fn track_scale(
    kind: &Kind,
    parent: &Value,
    mut old: Value,
    new: &Value,
    writer: &Writer<'_>,
) -> Option<Value> {
    let managers = Managers::decode(&parent["metadata"]["managedFields"]).unwrap_or_default();
    let replicas = ReplicasPaths::of(kind);
    set_managers(&mut old, &replicas.to_scale(&managers));
    let mut new = new.clone();
    track_in(&Target::scale(writer), &old, &mut new, writer);
    let after = take_managers(&mut new);
    replicas.to_parent(managers, after).encode()
}

fn take_managers(scale: &mut Value) -> Managers {
    let list = meta::of_mut(scale).remove("managedFields").unwrap_or_default();
    Managers::decode(&list).unwrap_or_default()
}

/// The path of the replicas in each version of a kind, and the version of the request.
struct ReplicasPaths {
    version: String,
    paths: BTreeMap<String, Vec<String>>,
}

impl ReplicasPaths {
    fn of(kind: &Kind) -> ReplicasPaths {
        let version = kind.api_version();
        let paths = match &kind.custom {
            None => [(version.clone(), REPLICAS.map(str::to_owned).into())].into(),
            Some(custom) => custom
                .definition
                .versions()
                .filter_map(|version| {
                    let scale = version.scale.as_ref()?;
                    Some((format!("{}/{}", kind.group, version.name), scale.replicas().to_owned()))
                })
                .collect(),
        };
        ReplicasPaths { version, paths }
    }

    /// The managers of the parent's replicas, as managers of the Scale's.
    fn to_scale(&self, managers: &Managers) -> Managers {
        let owners = managers.0.iter().filter(|(_, entry)| self.owns_replicas(entry));
        let scaled = owners.map(|(id, entry)| {
            let mut fields = FieldSet::default();
            fields.insert_path(REPLICAS);
            let entry = Entry { version: SCALE_VERSION.to_owned(), time: entry.time.clone(), fields };
            (in_version(id, SCALE_VERSION), entry)
        });
        Managers(scaled.collect())
    }

    /// The parent's managers after those of its Scale have become `scaled`.
    fn to_parent(&self, mut managers: Managers, mut scaled: Managers) -> Managers {
        for (id, entry) in &mut managers.0 {
            if self.owns_replicas(entry) && scaled.0.remove(&in_version(id, SCALE_VERSION)).is_none() {
                let mut replicas = FieldSet::default();
                let path = self.paths.get(&entry.version);
                replicas.insert_path(path.into_iter().flatten().map(String::as_str));
                entry.fields.subtract(&replicas);
            }
        }
        managers.0.retain(|_, entry| !entry.fields.is_empty());
        let owners = scaled.0.into_iter().filter(|(_, entry)| is_member(&entry.fields, &REPLICAS));
        for (id, _) in owners {
            let mut fields = FieldSet::default();
            fields.insert_path(self.paths.get(&self.version).into_iter().flatten().map(String::as_str));
            // As upstream, an entry that a Scale adds has no time.
            let entry = Entry { version: self.version.clone(), time: None, fields };
            managers.0.insert(in_version(&id, &self.version), entry);
        }
        managers
    }

    fn owns_replicas(&self, entry: &Entry) -> bool {
        self.paths.get(&entry.version).is_some_and(|path| is_member(&entry.fields, path))
    }
}

fn is_member(fields: &FieldSet, path: &[impl AsRef<str>]) -> bool {
    let end =
        path.iter().try_fold(fields, |fields, name| fields.children.get(&PathElement::field(name.as_ref())));
    end.is_some_and(|fields| fields.member)
}

/// The same manager in another version; that of an applier is the same in all.
fn in_version(id: &ManagerId, version: &str) -> ManagerId {
    let version = if id.applies { String::new() } else { version.to_owned() };
    ManagerId { version, ..id.clone() }
}
