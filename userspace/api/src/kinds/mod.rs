//! The served kinds and what each adds to the generic path.

mod address;
mod containers;
mod limits;
mod network;
mod rbac;
pub mod service;
mod small;
mod strategies;
mod table;
mod workload;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::{meta, schema};

pub(crate) use containers::qos_class;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A row of the table of kinds.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub scope: Scope,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub subresources: &'static [&'static str],
    pub verbs: &'static [&'static str],
    /// Name of its type in the schema facts.
    pub schema: &'static str,
    pub(crate) strategy: &'static Strategy,
}

/// What a kind does beyond the generic path. Every function is pure and idempotent.
#[derive(Debug)]
pub(crate) struct Strategy {
    /// `metadata.generation` counts changes of the specification.
    pub(crate) generation: bool,
    pub(crate) default: fn(&mut Value),
    pub(crate) validate: fn(&Value, &mut Errors),
    /// New object, old object.
    pub(crate) validate_update: fn(&Value, &Value, &mut Errors),
    /// The whole object, of whose parts status is new.
    pub(crate) validate_status: fn(&Value, &mut Errors),
    /// What to tell whoever writes an object that is valid.
    pub(crate) warnings: fn(&Value) -> Vec<String>,
    /// How a name is checked.
    pub(crate) name: meta::NameForm,
}

/// Which part of an object a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but status.
    Main,
    Status,
    /// Anything; for subresources that check by themselves.
    Whole,
}

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, or `pods` for the core group: as messages and RBAC name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn has_status(&self) -> bool {
        self.subresources.contains(&"status")
    }

    /// Fills what the user may leave out.
    pub fn default(&self, object: &mut Value) {
        (self.strategy.default)(object);
    }

    /// A new object: no status from outside, generation 1.
    pub fn prepare_create(&self, object: &mut Value) {
        if self.has_status()
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        if self.strategy.generation {
            meta::of_mut(object).insert("generation".into(), 1.into());
        }
        (self.strategy.default)(object);
    }

    /// An update: the other part of the object stays as it was; the generation follows the specification.
    pub fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) {
        match part {
            Part::Main if self.has_status() => copy(new, old, "status"),
            Part::Status => {
                let mut kept = old.clone();
                copy(&mut kept, new, "status");
                // A status write may change metadata that is not the user's to lose: managed fields and conditions'
                // annotations; the rest is upstream's rule "metadata is reset".
                for field in ["resourceVersion", "managedFields", "annotations", "labels"] {
                    if let Some(value) = new["metadata"].get(field) {
                        meta::of_mut(&mut kept).insert(field.to_owned(), value.clone());
                    }
                }
                *new = kept;
            }
            Part::Main | Part::Whole => {}
        }
        (self.strategy.default)(new);
        if self.strategy.generation {
            let changed =
                part != Part::Status && without_meta_and_status(new) != without_meta_and_status(old);
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + i64::from(changed);
            meta::of_mut(new).insert("generation".into(), generation.into());
        }
    }

    pub fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        meta::validate(object, self, &mut errors);
        schema::check_required(self, object, &mut errors);
        (self.strategy.validate)(object, &mut errors);
        errors
    }

    pub fn validate_update(&self, new: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = Errors::default();
        meta::validate(new, self, &mut errors);
        meta::validate_update(new, old, &mut errors);
        if part == Part::Main {
            schema::check_required(self, new, &mut errors);
            (self.strategy.validate)(new, &mut errors);
            (self.strategy.validate_update)(new, old, &mut errors);
        } else if part == Part::Status {
            (self.strategy.validate_status)(new, &mut errors);
        }
        errors
    }

    /// What is in vain in a valid object, or going out of use.
    pub fn warnings(&self, object: &Value) -> Vec<String> {
        (self.strategy.warnings)(object)
    }

    pub(crate) fn name_form(&self) -> meta::NameForm {
        self.strategy.name
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

fn without_meta_and_status(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
        .collect()
}

/// Every served kind, in the order of discovery.
pub fn kinds() -> &'static [Kind] {
    table::KINDS
}

type Index = HashMap<(&'static str, &'static str, &'static str), &'static Kind>;

static BY_PLURAL: LazyLock<Index> =
    LazyLock::new(|| kinds().iter().map(|kind| ((kind.group, kind.version, kind.plural), kind)).collect());
static BY_KIND: LazyLock<Index> =
    LazyLock::new(|| kinds().iter().map(|kind| ((kind.group, kind.version, kind.kind), kind)).collect());

/// By the resource's name in a URL.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    BY_PLURAL.get(&(group, version, plural)).copied()
}

/// By the object's own `apiVersion` and `kind`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BY_KIND.get(&(group, version, kind)).copied()
}

/// Immutable fields: an error for each that changed.
pub(crate) fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    if new != old {
        errors.invalid(path, new, "field is immutable");
    }
}

/// Sets a field that is absent or null.
pub(crate) fn set_default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut()
        && fields.get(field).is_none_or(Value::is_null)
    {
        fields.insert(field.to_owned(), value.into());
    }
}

/// The items of a list field, to change.
pub(crate) fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The items of a list field.
pub(crate) fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object.get(field).and_then(Value::as_array).into_iter().flatten()
}
