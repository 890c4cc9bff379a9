//! Server-side apply (KEP-555): merging of applied configurations, ownership of fields, conflicts between managers.
//!
//! [`apply`] merges a configuration into an object; [`track`] records the fields that any other write changes. Both
//! update `managedFields`.

mod compare;
mod conflict;
mod empty;
mod field_set;
mod fields;
mod last_applied;
mod managers;
mod merge;
mod merge_type;
mod merger;
mod overlay;
mod ownable;
mod path_element;
mod prune;
mod scale;
#[cfg(test)]
mod table_tests;
mod target;
#[cfg(test)]
mod tests;
mod times;
mod validate;
mod writer;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::{Status, meta};
use managers::Managers;
pub use overlay::overlay;
pub use scale::{apply_scale, track_scale};
use target::Target;
pub use times::keep_times;
pub use writer::Writer;

/// The manager of the fields that existed before anything was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Records in `new` the fields that its writer changed from `old` (null for a new object).
pub fn track(kind: &Kind, old: &Value, new: &mut Value, writer: &Writer<'_>) {
    track_in(&Target::of(kind, writer), old, new, writer);
}

fn track_in(target: &Target<'_>, old: &Value, new: &mut Value, writer: &Writer<'_>) {
    let managers = current_managers(old, new, writer);
    meta::of_mut(new).remove("managedFields");
    // An object without managers has not been tracked so far; its first apply begins to.
    if managers.0.is_empty() && !meta::uid(old).is_empty() {
        return;
    }
    let id = writer.id(&target.merger.version, false);
    let managers = match old {
        Value::Object(_) => target.merger.record(managers, old, new, &id),
        _ => target.merger.record(managers, &target.empty(), new, &id),
    };
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
    apply_to(&Target::of(kind, writer), live, config, writer, force)
}

fn apply_to(
    target: &Target<'_>,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    target.check(config)?;
    let merger = &target.merger;
    let mut live = if live.is_object() { live.clone() } else { new_object(config) };
    let mut managers = Managers::decode(&live["metadata"]["managedFields"])
        .map_err(|why| Status::internal(format!("failed to decode managed fields: {why}")))?;
    meta::of_mut(&mut live).remove("managedFields");
    if managers.0.is_empty() && !meta::uid(&live).is_empty() {
        let id = Writer { manager: BEFORE_FIRST_APPLY, ..*writer }.id(&merger.version, false);
        managers = merger.record(managers, &target.empty(), &live, &id);
    }
    let id = writer.id(&merger.version, true);
    let merge = |managers, force| merger.merge(managers, &live, config, id.clone(), force);
    let (mut object, managers) = match merge(managers.clone(), force) {
        Err(conflicts) if writer.manager == last_applied::MANAGER => {
            let allowed = last_applied::unchanged_fields(merger, &live);
            let rest = conflict::without(conflicts, &allowed);
            if !rest.is_empty() {
                return Err(conflict::status(&rest));
            }
            merge(managers, true).map_err(|conflicts| conflict::status(&conflicts))?
        }
        done => done.map_err(|conflicts| conflict::status(&conflicts))?,
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
