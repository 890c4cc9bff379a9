//! Server-side apply (KEP-555): merging of applied configurations, ownership of fields, conflicts between managers.
//!
//! [`apply`] merges a configuration into an object; [`track`] records the fields that any other write changes. Both
//! update `managedFields`.

mod field_set;
mod last_applied;
mod managers;
mod merge_type;
mod overlay;
#[cfg(test)]
mod tests;
mod walk;

use serde_json::{Value, json};

use crate::kinds::{Kind, Part};
use crate::{Reason, Status, meta};
use field_set::FieldSet;
use managers::{Entry, ManagerId, Managers};
use merge_type::MergeType;
pub use overlay::overlay;
use walk::Comparison;

/// The manager of a write, the subresource it goes through, and its time.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or the client's name; empty becomes `unknown`.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The fields that the subresource can write.
    pub part: Part,
    /// RFC 3339, in whole seconds.
    pub now: &'a str,
}

impl Writer<'_> {
    fn id(&self, kind: &Kind, applies: bool) -> ManagerId {
        let name = if self.manager.is_empty() { "unknown" } else { self.manager };
        ManagerId {
            name: name.to_owned(),
            applies,
            version: if applies { String::new() } else { kind.api_version() },
            subresource: self.subresource.to_owned(),
        }
    }
}

/// The manager of the fields that existed before anything was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Metadata that only the server sets; it has no owner.
const SYSTEM_FIELDS: [&str; 9] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// Records in `new` the fields that its writer changed from `old` (null for a new object).
pub fn track(kind: &Kind, old: &Value, new: &mut Value, writer: &Writer<'_>) {
    let managers = current_managers(old, new, writer);
    meta::of_mut(new).remove("managedFields");
    // An object without managers has not been tracked so far; its first apply begins to.
    if managers.0.is_empty() && !meta::uid(old).is_empty() {
        return;
    }
    let managers = record(kind, managers, old, new, &writer.id(kind, false), writer);
    set_managers(new, &managers);
}

/// The client's entries if it sent readable ones, else the stored ones.
fn current_managers(old: &Value, new: &Value, writer: &Writer<'_>) -> Managers {
    let sent = &new["metadata"]["managedFields"];
    let stored = || Managers::decode(&old["metadata"]["managedFields"]).unwrap_or_default();
    if !writer.subresource.is_empty() {
        return stored();
    }
    // An empty list, or a list of one empty entry, resets the managers.
    let reset = sent.as_array().is_some_and(|list| match list.as_slice() {
        [] => true,
        [only] => {
            only.as_object().is_some_and(|fields| fields.values().all(|value| value.is_null() || value == ""))
        }
        _ => false,
    });
    match Managers::decode(sent) {
        _ if reset => Managers::default(),
        Ok(managers) if !managers.0.is_empty() => managers,
        _ => stored(),
    }
}

/// `managers` after a write by `id` that changed `old` to `new`.
fn record(
    kind: &Kind,
    mut managers: Managers,
    old: &Value,
    new: &Value,
    id: &ManagerId,
    writer: &Writer<'_>,
) -> Managers {
    let Comparison { mut changed, mut removed } = compare(kind, old, new);
    strip_unowned(kind, &mut changed, writer.part);
    strip_unowned(kind, &mut removed, writer.part);
    if changed.is_empty() && removed.is_empty() {
        return managers;
    }
    managers.remove_fields(Some(id), &changed);
    managers.remove_fields(None, &removed);
    if !changed.is_empty() {
        let time = Some(writer.now.to_owned());
        match managers.0.get_mut(id) {
            Some(entry) => {
                entry.fields.union(&changed);
                entry.time = time;
            }
            None => {
                let entry = Entry { version: kind.api_version(), time, fields: changed };
                managers.0.insert(id.clone(), entry);
            }
        }
    }
    managers.cap_updates();
    managers
}

fn compare(kind: &Kind, old: &Value, new: &Value) -> Comparison {
    let empty = json!({});
    walk::compare(MergeType::root(kind), if old.is_object() { old } else { &empty }, new)
}

/// Removes the fields that cannot be owned through this subresource.
fn strip_unowned(kind: &Kind, fields: &mut FieldSet, part: Part) {
    fields.member = false;
    for element in ["f:apiVersion", "f:kind"] {
        fields.children.remove(element);
    }
    match part {
        Part::Main if kind.has_status() => drop(fields.children.remove("f:status")),
        Part::Status => {
            fields.children.retain(|element, _| matches!(element.as_str(), "f:metadata" | "f:status"));
        }
        Part::Main | Part::Whole => {}
    }
    if let Some(metadata) = fields.children.get_mut("f:metadata") {
        metadata.member = false;
        SYSTEM_FIELDS.iter().for_each(|element| drop(metadata.children.remove(*element)));
        if metadata.is_empty() {
            fields.children.remove("f:metadata");
        }
    }
}

fn set_managers(object: &mut Value, managers: &Managers) {
    let metadata = meta::of_mut(object);
    match managers.encode() {
        Some(list) => drop(metadata.insert("managedFields".into(), list)),
        None => drop(metadata.remove("managedFields")),
    }
}

/// Merges a configuration into `live` (null for a new object). Err: 409 if it would change fields of other managers,
/// unless forced. The result is neither defaulted nor validated.
pub fn apply(
    kind: &Kind,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    validate(kind, config)?;
    let mut live = if live.is_object() { live.clone() } else { new_object(config) };
    let mut managers = Managers::decode(&live["metadata"]["managedFields"])
        .map_err(|why| Status::internal(format!("failed to decode managed fields: {why}")))?;
    meta::of_mut(&mut live).remove("managedFields");
    if managers.0.is_empty() && !meta::uid(&live).is_empty() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", ..*writer };
        let id = before.id(kind, false);
        managers = record(kind, managers, &Value::Null, &live, &id, &before);
    }
    let attempt = Attempt { kind, live: &live, config, writer };
    let (mut object, managers) = match attempt.run(managers.clone(), force) {
        Err(conflicts) if writer.manager == last_applied::MANAGER => {
            let allowed = last_applied::unchanged_fields(kind, &live);
            let rest = without(conflicts, &allowed);
            if !rest.is_empty() {
                return Err(conflict(&rest));
            }
            attempt.run(managers, true).map_err(|conflicts| conflict(&conflicts))?
        }
        done => done.map_err(|conflicts| conflict(&conflicts))?,
    };
    set_managers(&mut object, &managers);
    if writer.manager == last_applied::MANAGER {
        last_applied::update_annotation(&mut object, config);
    }
    Ok(object)
}

/// An object before its first configuration is merged.
fn new_object(config: &Value) -> Value {
    json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}})
}

fn validate(kind: &Kind, config: &Value) -> Result<(), Status> {
    if config["apiVersion"] != kind.api_version() || config["kind"] != *kind.kind {
        let (version, name) = (&config["apiVersion"], &config["kind"]);
        return Err(Status::bad_request(format!(
            "invalid object type: {}, Kind={}",
            version.as_str().unwrap_or_default(),
            name.as_str().unwrap_or_default()
        )));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    walk::validate(MergeType::root(kind), config).map_err(|why| {
        let (namespace, name) = (meta::namespace(config), meta::name(config));
        Status::new(
            Reason::Unknown,
            format!(
                "failed to create typed patch object ({namespace}/{name}; {}/{}, Kind={}): {why}",
                kind.group, kind.version, kind.kind
            ),
        )
    })
}

/// The fields of each other manager that an apply would change.
type Conflicts = Vec<(ManagerId, FieldSet)>;

struct Attempt<'a> {
    kind: &'a Kind,
    live: &'a Value,
    config: &'a Value,
    writer: &'a Writer<'a>,
}

impl Attempt<'_> {
    fn run(&self, mut managers: Managers, force: bool) -> Result<(Value, Managers), Conflicts> {
        let (kind, root) = (self.kind, MergeType::root(self.kind));
        let id = self.writer.id(kind, true);
        let configured = walk::to_field_set(root, self.config);
        let mut new = walk::merge(root, self.live.clone(), self.config);
        self.keep_status(&mut new);
        let last = managers.0.get(&id).cloned();
        if let Some(last) = &last {
            let mut owned = configured.clone();
            managers
                .0
                .iter()
                .filter(|(other, _)| **other != id)
                .for_each(|(_, entry)| owned.union(&entry.fields));
            walk::prune(root, &mut new, &last.fields, Some(&owned));
        }
        let mut fields = configured;
        strip_unowned(kind, &mut fields, self.writer.part);
        managers.0.insert(id.clone(), Entry { version: kind.api_version(), time: None, fields });
        let Comparison { mut changed, mut removed } = walk::compare(root, self.live, &new);
        strip_unowned(kind, &mut changed, self.writer.part);
        strip_unowned(kind, &mut removed, self.writer.part);
        let others = managers.0.iter().filter(|(other, _)| **other != id);
        let conflicts: Conflicts = others
            .map(|(other, entry)| (other.clone(), entry.fields.intersection(&changed)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        let same = changed.is_empty() && removed.is_empty();
        let unchanged = |entry: &Entry| last.as_ref().is_some_and(|last| last.fields == entry.fields);
        if let Some(entry) = managers.0.get_mut(&id) {
            let before = last.as_ref().and_then(|last| last.time.clone());
            entry.time = if same && unchanged(entry) { before } else { Some(self.writer.now.to_owned()) };
        }
        managers.remove_fields(Some(&id), &changed);
        managers.remove_fields(Some(&id), &removed);
        Ok((new, managers))
    }

    /// Takes the status from the live object: the main resource does not write it.
    fn keep_status(&self, new: &mut Value) {
        if self.writer.part == Part::Main
            && self.kind.has_status()
            && let Some(fields) = new.as_object_mut()
        {
            match self.live.get("status") {
                Some(status) => drop(fields.insert("status".into(), status.clone())),
                None => drop(fields.remove("status")),
            }
        }
    }
}

fn without(conflicts: Conflicts, allowed: &FieldSet) -> Conflicts {
    let rest = conflicts.into_iter().map(|(id, mut fields)| {
        fields.subtract(allowed);
        (id, fields)
    });
    rest.filter(|(_, fields)| !fields.is_empty()).collect()
}

/// 409, with a cause for each field.
fn conflict(conflicts: &Conflicts) -> Status {
    let all: Vec<(&ManagerId, String)> = conflicts
        .iter()
        .flat_map(|(id, fields)| fields.paths().into_iter().map(move |path| (id, path)))
        .collect();
    let causes: Vec<Value> = all
        .iter()
        .map(|(id, path)| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {id}"), "field": path}))
        .collect();
    let message = match all.as_slice() {
        [(id, path)] => format!("Apply failed with 1 conflict: conflict with {id}: {path}"),
        all => {
            let mut lines = Vec::new();
            for (id, fields) in conflicts {
                lines.push(format!("conflicts with {id}:"));
                lines.extend(fields.paths().iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
        }
    };
    Status::new(Reason::Conflict, message).with_details(json!({"causes": causes}))
}
