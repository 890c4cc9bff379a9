//! What a kind is, and the generic path of its objects: defaults, preparation and validation of writes.
//!
//! In: an object as JSON, and the old one for an update. Out: the object as it is stored, or the errors.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

use super::name::{Name, Names};
use crate::custom::Custom;
use crate::field::Errors;
use crate::names::NameForm;
use crate::schema::SchemaProblem;
use crate::table::column::Column;
use crate::{meta, schema};

/// The verbs of an ordinary resource.
pub(crate) const ALL: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The verbs of a custom resource whose definition is being deleted.
pub(crate) const ALL_BUT_CREATE: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A served kind: its names, its place in the API and its rules.
#[derive(Debug)]
pub struct Kind {
    /// Empty for the core group.
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub plural: Name,
    pub singular: Name,
    pub scope: Scope,
    pub short_names: Names,
    pub categories: Names,
    pub subresources: &'static [&'static str],
    pub verbs: &'static [&'static str],
    /// The name of its type in the schema facts; empty for a custom kind.
    pub schema: &'static str,
    /// The fields of the stored form that a `fieldSelector` may read.
    pub selectable_fields: Names,
    /// Their names in this version, with those in the stored form; empty if both have the same.
    pub(crate) field_names: &'static [(&'static str, &'static str)],
    /// The columns of a built-in kind's table.
    pub(crate) columns: &'static [Column],
    pub(crate) strategy: Strategy,
    /// Schema, columns and conversion of a custom kind, from its CustomResourceDefinition.
    pub custom: Option<Arc<Custom>>,
}

/// A kind as requests and caches hold it: a built-in one, or a share of a custom one.
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

/// The rules of a kind that its schema does not express. Every function is pure and idempotent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strategy {
    /// `metadata.generation` counts changes of the specification.
    pub(crate) generation: bool,
    /// The generation also counts changes of the annotations.
    pub(crate) counts_annotations: bool,
    /// The status of a new object is its author's.
    pub(crate) keeps_status: bool,
    pub(crate) default: fn(&mut Value),
    /// What the server gives a new object, after defaults and admission.
    pub(crate) prepare_create: fn(&mut Value),
    /// New object, old object: fields that an update of the main part leaves as they were.
    pub(crate) prepare_update: fn(&mut Value, &Value),
    pub(crate) validate: fn(&Value, &mut Errors),
    /// `validate` reports missing fields itself, in upstream's order; the schema's required fields are not checked.
    pub(crate) own_required: bool,
    /// Beyond `validate`, for a new object.
    pub(crate) validate_create: fn(&Value, &mut Errors),
    /// New object, old object.
    pub(crate) validate_update: fn(&Value, &Value, &mut Errors),
    /// New object, old object: the whole ones, of which only the status differs.
    pub(crate) validate_status: fn(&Value, &Value, &mut Errors),
    /// Warnings for the author of a valid object: the object, and the old one for an update.
    pub(crate) warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// The form of objects' names.
    pub(crate) name: NameForm,
}

impl Strategy {
    /// Accepts every object as it is.
    pub(crate) const NONE: Strategy = Strategy {
        generation: false,
        counts_annotations: false,
        keeps_status: false,
        default: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        validate: |_, _| {},
        own_required: false,
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        validate_status: |_, _, _| {},
        warnings: |_, _| Vec::new(),
        name: NameForm::Subdomain,
    };
}

/// Which part of an object a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but status.
    Main,
    Status,
    /// Everything; for subresources that check themselves what of it changes.
    Whole,
    /// As `Whole`; the generation stays, since the writer only records a decision of the system (KEP-5067).
    Assignment,
}

impl Kind {
    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, or `pods` for the core group: as messages and RBAC name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
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
            Some(custom) => custom.list_kind.to_string(),
            None => format!("{}List", self.kind),
        }
    }

    /// Fills in fields that the user may leave out.
    pub fn default(&self, object: &mut Value) {
        match &self.custom {
            Some(custom) => custom.default(object),
            None => (self.strategy.default)(object),
        }
    }

    /// Takes in what the author of a new object says: without its status, with the defaults. Its fields have this author.
    pub fn default_new(&self, object: &mut Value) {
        if self.has_status()
            && !self.strategy.keeps_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        self.default(object);
    }

    /// Adds what the server gives a new object, after defaults and admission; these fields have no author.
    pub fn prepare_create(&self, object: &mut Value) {
        if self.strategy.generation {
            meta::of_mut(object).insert("generation".into(), 1.into());
        }
        (self.strategy.prepare_create)(object);
        if self.custom.is_none() {
            schema::complete_status(self.schema, object);
        }
    }

    /// Both steps, for an object that passes no admission.
    pub fn complete_new(&self, object: &mut Value) {
        self.default_new(object);
        self.prepare_create(object);
    }

    /// Prepares an update, after defaults and admission: the other part of the object stays as it was; the generation follows
    /// the specification.
    pub fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) {
        match part {
            Part::Main if self.has_status() => copy(new, old, "status"),
            Part::Status => {
                let mut kept = old.clone();
                copy(&mut kept, new, "status");
                // As upstream: a status write keeps the stored metadata, except for these fields.
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
            Part::Main | Part::Whole | Part::Assignment => {}
        }
        if part == Part::Main {
            (self.strategy.prepare_update)(new, old);
        }
        if self.strategy.generation {
            let annotated = self.strategy.counts_annotations
                && new["metadata"]["annotations"] != old["metadata"]["annotations"];
            let changed = matches!(part, Part::Main | Part::Whole)
                && (annotated || self.specification(new) != self.specification(old));
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + i64::from(changed);
            meta::of_mut(new).insert("generation".into(), generation.into());
        }
    }

    pub fn validate_create(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        meta::validate(object, self.namespaced(), self.strategy.name, self.custom.is_none(), &mut errors);
        if let Some(custom) = &self.custom {
            custom.validate(object, None, &mut errors);
            return errors;
        }
        let mut own = Errors::default();
        (self.strategy.validate)(object, &mut own);
        (self.strategy.validate_create)(object, &mut own);
        self.check_required(object, &own, &mut errors);
        errors.0.append(&mut own.0);
        errors
    }

    /// Reports required fields that are missing, and that the kind's own rules do not report.
    fn check_required(&self, object: &Value, own: &Errors, errors: &mut Errors) {
        if self.strategy.own_required {
            return;
        }
        let mut missing = Errors::default();
        schema::check_required(self.schema, object, &mut missing);
        missing.0.retain(|error| own.0.iter().all(|other| other.field != error.field));
        errors.0.append(&mut missing.0);
    }

    pub fn validate_update(&self, new: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = Errors::default();
        // A name cannot change; an older version may have taken it by another rule.
        meta::validate(new, self.namespaced(), NameForm::PathSegment, self.custom.is_none(), &mut errors);
        meta::validate_update(new, old, &mut errors);
        if let Some(custom) = &self.custom {
            custom.validate(new, Some(old), &mut errors);
            return errors;
        }
        if part != Part::Status {
            let mut own = Errors::default();
            (self.strategy.validate)(new, &mut own);
            self.check_required(new, &own, &mut errors);
            errors.0.append(&mut own.0);
        }
        match part {
            Part::Main => (self.strategy.validate_update)(new, old, &mut errors),
            Part::Status | Part::Whole | Part::Assignment => {
                (self.strategy.validate_status)(new, old, &mut errors)
            }
        }
        errors
    }

    /// Takes in a decoded object: makes it canonical, drops and reports unknown fields, reports what has a wrong type.
    pub fn check_schema(&self, object: &mut Value) -> Vec<SchemaProblem> {
        match &self.custom {
            Some(custom) => custom.check(object),
            None => schema::check(self.schema, object),
        }
    }

    /// As [`Self::check_schema`], for the result of an apply.
    pub fn check_applied(&self, object: &mut Value) -> Vec<SchemaProblem> {
        match &self.custom {
            Some(custom) => custom.check_applied(object),
            None => schema::check(self.schema, object),
        }
    }

    /// Brings an object that an older version stored into the form of today, as upstream's decoder does with what it stored.
    pub fn restore(&self, object: &mut Value) {
        if self.custom.is_none() {
            schema::check(self.schema, object);
            self.default(object);
        }
    }

    /// Warns of fields that a valid object may carry and that have no effect, and of deprecated ones.
    pub fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = (self.strategy.warnings)(object, old);
        if self.custom.is_some() {
            warnings.extend(meta::finalizer_warnings(object, old));
        }
        let mut seen = HashSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        warnings
    }

    /// The fields whose changes the generation counts: all but metadata, and status where it is written separately.
    fn specification<'a>(&self, object: &'a Value) -> HashMap<&'a String, &'a Value> {
        let is_excluded = |name: &str| match name {
            "metadata" | "apiVersion" | "kind" => true,
            "status" => self.custom.is_none() || self.has_status(),
            _ => false,
        };
        object.as_object().into_iter().flatten().filter(|(name, _)| !is_excluded(name)).collect()
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    }
}
