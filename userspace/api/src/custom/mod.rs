//! Kinds that CustomResourceDefinitions make: a definition in, rows like the table's out, each with its schema, columns
//! and conversion. What the generic path asks of a kind, a made one answers from here.

pub(crate) mod columns;
mod defaults;
pub mod definition;
mod formats;
mod jsonpath;
mod lists;
mod prune;
pub(crate) mod publish;
mod rules;
mod scale;
mod schema;
mod typed;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::{ALL, Kind, WITH_GENERATION, intern, intern_all};
use crate::schema::SchemaProblem;
use crate::value::text;
use crate::{Scope, meta};

pub use columns::Column;
pub use jsonpath::JsonPath;
pub use scale::Scale;
pub use schema::{ListType, Shape, Structural};
pub(crate) use typed::type_of_resource;

/// What a served kind has from its definition: the version it is of, and what all versions share.
#[derive(Debug)]
pub struct Custom {
    pub list_kind: &'static str,
    pub definition: Arc<Definition>,
    pub version: Arc<Version>,
}

/// A definition, as far as its instances ask for it.
#[derive(Debug)]
pub struct Definition {
    /// `crontabs.stable.example.com`
    pub name: String,
    pub storage_version: &'static str,
    pub conversion: Conversion,
    /// It goes away: nothing new is made.
    pub terminating: bool,
    versions: HashMap<&'static str, Arc<Version>>,
}

#[derive(Debug)]
pub struct Version {
    pub name: &'static str,
    pub schema: Structural,
    /// `openAPIV3Schema` as it was written, to be published.
    pub source: Value,
    /// Changes when the schema does.
    pub hash: u64,
    pub columns: Vec<Column>,
    pub selectable: &'static [&'static str],
    pub scale: Option<Scale>,
    /// For clients that use a deprecated version.
    pub warning: Option<String>,
}

/// How objects get from one version to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    Nothing,
    /// `clientConfig` and `conversionReviewVersions` of the definition.
    Webhook { client: Value, reviews: Vec<String> },
}

/// The kinds of an established definition that are served, and one of each version for the cache.
#[derive(Clone, Debug, Default)]
pub struct Made {
    pub served: Vec<Arc<Kind>>,
    /// The storage version's, served or not; `None` if the definition cannot be read.
    pub stored: Option<Arc<Kind>>,
}

/// Reads a definition that was validated when it was written.
pub fn made(definition: &Value) -> Made {
    let spec = &definition["spec"];
    let accepted = &definition["status"]["acceptedNames"];
    let names = if accepted["kind"].is_string() { accepted } else { &spec["names"] };
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let Some(storage) = versions.iter().find(|version| version["storage"] == true) else {
        return Made::default();
    };
    let parsed = versions.iter().map(|version| Arc::new(Version::parse(spec, version)));
    let shared = Arc::new(Definition {
        name: meta::name(definition).to_owned(),
        storage_version: intern(text(&storage["name"])),
        conversion: Conversion::parse(&spec["conversion"]),
        terminating: definition["metadata"]["deletionTimestamp"].is_string(),
        versions: parsed.map(|version| (version.name, version)).collect(),
    });
    let row = |version: &Value| Some(Arc::new(row(spec, names, version, &shared)?));
    let established = definition::is_true(definition, "Established");
    let served = versions.iter().filter(|version| established && version["served"] == true);
    Made { served: served.filter_map(|version| row(version)).collect(), stored: row(storage) }
}

fn row(spec: &Value, names: &Value, version: &Value, shared: &Arc<Definition>) -> Option<Kind> {
    let of_version = shared.versions.get(text(&version["name"]))?.clone();
    let strings = |list: &Value| -> Vec<&'static str> {
        list.as_array().into_iter().flatten().map(|name| intern(text(name))).collect()
    };
    let mut subresources = Vec::new();
    for name in ["scale", "status"] {
        if version["subresources"][name].is_object() {
            subresources.push(intern(name));
        }
    }
    let terminating = |verb: &&&str| !shared.terminating || !matches!(**verb, "create");
    let verbs: Vec<&'static str> = ALL.iter().filter(terminating).copied().collect();
    Some(Kind {
        group: intern(text(&spec["group"])),
        version: of_version.name,
        kind: intern(text(&names["kind"])),
        plural: intern(text(&names["plural"])),
        singular: intern(text(&names["singular"])),
        scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        short_names: intern_all(&strings(&names["shortNames"])),
        categories: intern_all(&strings(&names["categories"])),
        subresources: intern_all(&subresources),
        verbs: intern_all(&verbs),
        schema: "",
        strategy: &WITH_GENERATION,
        custom: Some(Arc::new(Custom {
            list_kind: intern(text(&names["listKind"])),
            definition: shared.clone(),
            version: of_version,
        })),
    })
}

impl Version {
    fn parse(spec: &Value, version: &Value) -> Version {
        let source = version["schema"]["openAPIV3Schema"].clone();
        let (group, name) = (text(&spec["group"]), intern(text(&version["name"])));
        let mut selectable = vec!["metadata.name"];
        if spec["scope"] == "Namespaced" {
            selectable.push("metadata.namespace");
        }
        let more = version["selectableFields"].as_array().into_iter().flatten();
        selectable.extend(more.map(|field| intern(text(&field["jsonPath"]).trim_start_matches('.'))));
        let kind = text(&spec["names"]["kind"]);
        let warning = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
            Some(said) => said.to_owned(),
            None => format!("{group}/{name} {kind} is deprecated"),
        });
        let mut hasher = DefaultHasher::new();
        (spec["names"].to_string(), version.to_string(), spec["conversion"].to_string()).hash(&mut hasher);
        Version {
            name,
            schema: Structural::parse(&source),
            hash: hasher.finish(),
            source,
            columns: Column::parse_all(&version["additionalPrinterColumns"]),
            selectable: intern_all(&selectable),
            scale: Scale::parse(&version["subresources"]["scale"]),
            warning,
        }
    }
}

impl Definition {
    /// Changes when what is kept of instances, or how they are shown, does.
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
    /// The schema that an object is of: its own version's, as long as that is in the definition.
    fn schema_of(&self, object: &Value) -> &Structural {
        let found = self.definition.versions.get(self.version_of(object));
        &found.unwrap_or(&self.version).schema
    }

    /// The version that an object is of; none if the definition does not know it.
    pub fn version_of(&self, object: &Value) -> &'static str {
        let version = text(&object["apiVersion"]).rsplit('/').next().unwrap_or_default();
        self.definition.versions.get(version).map_or("", |version| version.name)
    }

    /// The fields by which an object can be selected.
    pub fn selectable_of(&self, object: &Value) -> &'static [&'static str] {
        self.definition.versions.get(self.version_of(object)).unwrap_or(&self.version).selectable
    }

    /// Drops what the schema of the object's version does not know.
    pub fn prune(&self, object: &mut Value) {
        prune::prune(self.schema_of(object), object, true);
    }

    pub fn default(&self, object: &mut Value) {
        let schema = self.schema_of(object);
        defaults::drop_nulls(schema, object);
        defaults::apply(schema, object);
    }

    /// An object from the store as it is shown: without what its schema does not know, with what it defaults.
    pub fn restore(&self, object: &mut Value) {
        self.prune(object);
        self.default(object);
    }

    /// Drops what the schema does not know and tells of it; wrong metadata is refused.
    pub fn check(&self, kind: &str, object: &mut Value) -> Vec<SchemaProblem> {
        let mut problems = prune::metadata(self.schema_of(object), kind, object);
        let unknown = prune::prune(self.schema_of(object), object, true);
        problems.extend(unknown.into_iter().map(SchemaProblem::UnknownField));
        problems
    }

    /// By the schema, its list types and its rules; unchanged parts of an update keep what they have.
    pub fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        let schema = &self.version.schema;
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

/// Values that rules may fail on for no fault of theirs.
fn blocks_rules(error: &crate::FieldError) -> bool {
    matches!(
        error.reason,
        "FieldValueRequired" | "FieldValueTooLong" | "FieldValueTooMany" | "FieldValueTypeInvalid"
    )
}
