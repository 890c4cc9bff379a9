//! The served kinds and what each adds to the generic path.

mod address;
pub mod api_service;
mod autoscaler;
mod batch;
mod certificates;
mod classes;
pub(crate) mod client_config;
mod containers;
mod cron;
mod disruption;
mod expressions;
mod flow;
mod hooks;
mod ingress;
mod limits;
mod names;
mod network;
mod numbers;
mod policies;
mod rbac;
pub(crate) mod registry;
pub mod service;
mod small;
mod storage;
mod strategies;
mod table;
#[cfg(test)]
mod tests;
mod type_check;
mod workload;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::custom::Custom;
use crate::field::Errors;
use crate::names::NameForm;
use crate::value::set_default;
use crate::{meta, schema};

pub(crate) use containers::qos_class;
pub(crate) use names::{intern, intern_all};
pub use registry::Registry;
pub(crate) use strategies::WITH_GENERATION;
pub(crate) use table::ALL;
pub use type_check::type_warnings;

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
    /// Name of its type in the schema facts; empty for a kind that a definition made.
    pub schema: &'static str,
    pub(crate) strategy: &'static Strategy,
    /// What its CustomResourceDefinition says, for a kind that was made by one.
    pub custom: Option<Arc<Custom>>,
}

/// A kind as requests and caches hold it: a row of the table, or one made by a definition for as long as it is needed.
#[derive(Clone, Debug)]
pub enum KindRef {
    BuiltIn(&'static Kind),
    Custom(Arc<Kind>),
}

impl Deref for KindRef {
    type Target = Kind;

    fn deref(&self) -> &Kind {
        match self {
            KindRef::BuiltIn(kind) => kind,
            KindRef::Custom(kind) => kind,
        }
    }
}

impl From<&'static Kind> for KindRef {
    fn from(kind: &'static Kind) -> KindRef {
        KindRef::BuiltIn(kind)
    }
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
    pub(crate) name: NameForm,
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

    /// The kind of its lists.
    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) => custom.list_kind.to_owned(),
            None => format!("{}List", self.kind),
        }
    }

    /// Fills what the user may leave out.
    pub fn default(&self, object: &mut Value) {
        match &self.custom {
            Some(custom) => custom.default(object),
            None => (self.strategy.default)(object),
        }
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
        meta::omit_empty(object);
        self.default(object);
        if self.has_status() && self.custom.is_none() {
            set_default(object, "status", Value::Object(serde_json::Map::new()));
            self.fill_status(object);
        }
    }

    /// Numbers and booleans that a status always has, as upstream's types write them: 0 and false.
    fn fill_status(&self, object: &mut Value) {
        let Some(status) = object.get_mut("status").filter(|status| status.is_object()) else { return };
        for (field, zero) in schema::zeros(self.schema, "status") {
            set_default(status, field, zero);
        }
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
                let kept_fields: &[&str] = match self.custom {
                    Some(_) => &["resourceVersion", "managedFields"],
                    None => &["resourceVersion", "managedFields", "annotations", "labels"],
                };
                for &field in kept_fields {
                    if let Some(value) = new["metadata"].get(field) {
                        meta::of_mut(&mut kept).insert(field.to_owned(), value.clone());
                    }
                }
                *new = kept;
            }
            Part::Main | Part::Whole => {}
        }
        meta::omit_empty(new);
        self.default(new);
        if self.strategy.generation {
            let changed = part != Part::Status && self.specification(new) != self.specification(old);
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + i64::from(changed);
            meta::of_mut(new).insert("generation".into(), generation.into());
        }
    }

    pub fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        meta::validate(object, self, &mut errors);
        if let Some(custom) = &self.custom {
            custom.validate(object, None, &mut errors);
            return errors;
        }
        schema::check_required(self, object, &mut errors);
        (self.strategy.validate)(object, &mut errors);
        errors
    }

    pub fn validate_update(&self, new: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = Errors::default();
        meta::validate(new, self, &mut errors);
        meta::validate_update(new, old, &mut errors);
        if let Some(custom) = &self.custom {
            custom.validate(new, Some(old), &mut errors);
            return errors;
        }
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

    pub(crate) fn name_form(&self) -> NameForm {
        self.strategy.name
    }

    /// What the generation counts: all but metadata, and but the status where that is written apart.
    fn specification<'a>(&self, object: &'a Value) -> HashMap<&'a String, &'a Value> {
        let is_told_apart = |name: &str| match name {
            "metadata" | "apiVersion" | "kind" => true,
            "status" => self.custom.is_none() || self.has_status(),
            _ => false,
        };
        object.as_object().into_iter().flatten().filter(|(name, _)| !is_told_apart(name)).collect()
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

/// Every built-in kind, in the order of discovery.
pub fn kinds() -> &'static [Kind] {
    table::KINDS
}

type Index = HashMap<(&'static str, &'static str, &'static str), &'static Kind>;

static BY_PLURAL: LazyLock<Index> =
    LazyLock::new(|| kinds().iter().map(|kind| ((kind.group, kind.version, kind.plural), kind)).collect());
static BY_KIND: LazyLock<Index> =
    LazyLock::new(|| kinds().iter().map(|kind| ((kind.group, kind.version, kind.kind), kind)).collect());

/// A built-in kind by the resource's name in a URL.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    BY_PLURAL.get(&(group, version, plural)).copied()
}

/// A built-in kind by the object's own `apiVersion` and `kind`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    BY_KIND.get(&(group, version, kind)).copied()
}
