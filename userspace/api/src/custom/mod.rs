//! Custom resources: the schema, columns and conversion of a CustomResourceDefinition, and the checks and defaults of its
//! objects.
//!
//! In: a definition, then objects of its versions. Out: the same objects pruned and defaulted, or the errors.

pub(crate) mod columns;
mod defaults;
pub mod definition;
mod formats;
mod jsonpath;
mod lazy_schema;
mod lists;
mod numbers;
mod prune;
pub(crate) mod publish;
mod rules;
mod scale;
mod schema;
mod typed;
mod validate;

#[cfg(test)]
mod expressions;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::{Name, Names};
use crate::meta;
use crate::schema::SchemaProblem;
use crate::value::{items, text};
use crate::version_order::compare_versions;

pub use columns::PrinterColumn;
pub use jsonpath::JsonPath;
use lazy_schema::LazySchema;
pub use scale::Scale;
pub use schema::{ListType, Shape, Structural};
pub(crate) use typed::declared;

/// The part of a served kind that comes from its definition: its version, and data that all versions share.
#[derive(Debug)]
pub struct Custom {
    /// `CronTabList`
    pub list_kind: Name,
    pub definition: Arc<Definition>,
    pub version: Arc<Version>,
    /// The schema of the OpenAPI v2 document as JSON, once it was asked for.
    pub(crate) published_v2: OnceLock<Box<str>>,
}

/// The part of a definition that its custom resources need.
#[derive(Debug)]
pub struct Definition {
    /// `crontabs.stable.example.com`
    pub name: String,
    pub storage_version: Name,
    pub conversion: Conversion,
    /// It is being deleted; no custom resources may be created.
    pub terminating: bool,
    versions: HashMap<Name, Arc<Version>>,
}

/// A version of a definition.
#[derive(Debug)]
pub struct Version {
    pub name: Name,
    schema: LazySchema,
    /// Changes with the names, the version and the conversion of the definition. For this process only.
    pub hash: u64,
    pub columns: Vec<PrinterColumn>,
    /// The fields that a `fieldSelector` may name.
    pub selectable: Names,
    pub scale: Option<Scale>,
    /// The warning for clients of a deprecated version.
    pub warning: Option<String>,
}

/// The conversion of objects between versions.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    Nothing,
    /// `clientConfig` and `conversionReviewVersions` of the definition.
    Webhook { client: Value, reviews: Vec<String> },
}

impl Version {
    fn parse(spec: &Value, version: &Value) -> Version {
        let source = version["schema"]["openAPIV3Schema"].to_string();
        let name = Name::from(text(&version["name"]));
        let mut selectable = vec!["metadata.name"];
        if spec["scope"] == "Namespaced" {
            selectable.push("metadata.namespace");
        }
        let more = items(version, "selectableFields");
        selectable.extend(more.map(|field| text(&field["jsonPath"]).trim_start_matches('.')));
        let warning = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
            Some(text) => text.to_owned(),
            None => deprecation(spec, &name),
        });
        let mut hasher = DefaultHasher::new();
        (spec["names"].to_string(), spec["conversion"].to_string(), &source).hash(&mut hasher);
        let others = version.as_object().into_iter().flatten().filter(|(name, _)| *name != "schema");
        others.for_each(|(name, value)| (name, value.to_string()).hash(&mut hasher));
        Version {
            name,
            hash: hasher.finish(),
            schema: LazySchema::new(source),
            columns: PrinterColumn::parse_all(&version["additionalPrinterColumns"]),
            selectable: selectable.into_iter().collect(),
            scale: Scale::parse(&version["subresources"]["scale"]),
            warning,
        }
    }

    /// The schema; parsed when it is first used.
    pub fn schema(&self) -> &Structural {
        self.schema.parsed()
    }

    /// `openAPIV3Schema` as written, for publishing.
    pub(crate) fn source(&self) -> Value {
        self.schema.source()
    }
}

impl Definition {
    /// Reads a definition; `storage_version` is the name of the version that is stored.
    pub(crate) fn parse(definition: &Value, storage_version: &str) -> Definition {
        let spec = &definition["spec"];
        let versions = items(spec, "versions").map(|version| Arc::new(Version::parse(spec, version)));
        Definition {
            name: meta::name(definition).to_owned(),
            storage_version: storage_version.into(),
            conversion: Conversion::parse(&spec["conversion"]),
            terminating: definition["metadata"]["deletionTimestamp"].is_string(),
            versions: versions.map(|version| (version.name.clone(), version)).collect(),
        }
    }

    pub(crate) fn version(&self, name: &str) -> Option<&Arc<Version>> {
        self.versions.get(name)
    }

    /// The versions, in no order.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.values().map(Arc::as_ref)
    }

    /// Changes with the versions of the definition. For this process only.
    pub fn hash(&self) -> u64 {
        self.versions.values().fold(0, |all, version| all ^ version.hash)
    }
}

impl Conversion {
    fn parse(conversion: &Value) -> Conversion {
        if conversion["strategy"] != "Webhook" {
            return Conversion::Nothing;
        }
        let webhook = &conversion["webhook"];
        let reviews = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        Conversion::Webhook {
            client: webhook["clientConfig"].clone(),
            reviews: reviews.map(|version| text(version).to_owned()).collect(),
        }
    }
}

impl Custom {
    /// The schema of an object's own version, or of this version if the definition lacks it.
    fn schema_of(&self, object: &Value) -> &Structural {
        self.known_version(object).unwrap_or(&self.version).schema()
    }

    fn known_version(&self, object: &Value) -> Option<&Arc<Version>> {
        self.definition.version(text(&object["apiVersion"]).rsplit('/').next().unwrap_or_default())
    }

    /// The version of an object; empty if the definition does not know it.
    pub fn version_of(&self, object: &Value) -> Name {
        self.known_version(object).map_or(Name::Static(""), |version| version.name.clone())
    }

    /// The selectable fields of an object.
    pub fn selectable_of(&self, object: &Value) -> &Names {
        &self.known_version(object).unwrap_or(&self.version).selectable
    }

    /// Drops fields that the schema of the object's version does not specify.
    pub fn prune(&self, object: &mut Value) {
        prune::prune(self.schema_of(object), object, true);
    }

    /// Applies the defaults of the object's version.
    pub fn default(&self, object: &mut Value) {
        defaults::apply(self.schema_of(object), object);
    }

    /// Prunes and defaults a stored object before it is served.
    pub fn restore(&self, object: &mut Value) {
        self.prune(object);
        numbers::normalize(object);
        defaults::drop_nulls(self.schema_of(object), object);
        self.default(object);
    }

    /// Takes in a decoded object: drops and reports fields that the schema does not know; refuses wrong metadata. Nulls where
    /// the schema allows none and has no default are absent fields.
    pub fn check(&self, object: &mut Value) -> Vec<SchemaProblem> {
        let schema = self.schema_of(object);
        let mut problems = prune::metadata(schema, object);
        problems.extend(prune::prune(schema, object, true).into_iter().map(SchemaProblem::UnknownField));
        numbers::normalize(object);
        defaults::drop_nulls(schema, object);
        problems
    }

    /// As [`Self::check`], for the result of an apply, as upstream: unknown fields that its merge took are dropped without a
    /// word, nulls stay for validation to refuse.
    pub fn check_applied(&self, object: &mut Value) -> Vec<SchemaProblem> {
        let problems = prune::metadata(self.schema_of(object), object);
        self.prune(object);
        numbers::normalize(object);
        problems
    }

    /// Validates by the schema, its list types and its rules; values that an update does not change are not validated.
    pub fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        let schema = self.version.schema();
        let start = errors.0.len();
        validate::validate(schema, object, old, errors);
        if let Some(scale) = &self.version.scale {
            scale.validate(object, errors);
        }
        validate::embedded(schema, object, &Path::new(""), errors);
        let mut before = Errors::default();
        if let Some(old) = old {
            lists::validate(schema, old, &Path::new(""), &mut before);
        }
        if before.is_empty() {
            lists::validate(schema, object, &Path::new(""), errors);
        }
        if errors.0[start..].iter().any(blocks_rules) {
            if schema.has_rules() {
                let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
                errors.invalid(&Path::new(""), &Value::Null, why);
            }
            return;
        }
        rules::validate(schema, object, old, errors);
    }
}

/// The warning of a deprecated version: names the newest version that is not deprecated, if it is newer.
fn deprecation(spec: &Value, version: &str) -> String {
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let good = items(spec, "versions").filter(|other| other["served"] == true && other["deprecated"] != true);
    let newer =
        good.map(|other| text(&other["name"])).filter(|other| compare_versions(other, version).is_lt());
    let replacement = match newer.min_by(|a, b| compare_versions(a, b)) {
        Some(newest) => format!("; use {group}/{newest} {kind}"),
        None => String::new(),
    };
    format!("{group}/{version} {kind} is deprecated{replacement}")
}

/// Whether rules cannot be evaluated on an object with this error.
fn blocks_rules(error: &crate::FieldError) -> bool {
    matches!(
        error.reason,
        "FieldValueNotSupported"
            | "FieldValueRequired"
            | "FieldValueTooLong"
            | "FieldValueTooMany"
            | "FieldValueTypeInvalid"
    )
}
