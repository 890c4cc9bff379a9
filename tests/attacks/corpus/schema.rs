//! The served OpenAPI document, as far as objects are generated from it.

use serde_json::Value;

/// A collection that takes POST.
pub(super) struct Collection {
    /// `/apis/apps/v1/namespaces/{namespace}/deployments`
    pub(super) path: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    /// The name of the object's definition.
    pub(super) definition: String,
}

impl Collection {
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

pub(super) struct Schemas<'a> {
    document: &'a Value,
}

impl<'a> Schemas<'a> {
    pub(super) fn of(document: &'a Value) -> Schemas<'a> {
        Schemas { document }
    }

    pub(super) fn collections(&self) -> Vec<Collection> {
        let paths = self.document["paths"].as_object().into_iter().flatten();
        paths.filter_map(|(path, operations)| collection(path, &operations["post"])).collect()
    }

    pub(super) fn definition(&self, name: &str) -> &'a Value {
        &self.document["definitions"][name]
    }

    /// The schema behind a reference, or the schema itself.
    pub(super) fn resolve(&self, schema: &'a Value) -> &'a Value {
        schema["$ref"].as_str().map_or(schema, |reference| self.definition(last(reference)))
    }
}

fn last(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or_default()
}

fn collection(path: &str, post: &Value) -> Option<Collection> {
    let kind = &post["x-kubernetes-group-version-kind"];
    let text = |field: &str| kind[field].as_str().map(str::to_owned);
    let definition = post["responses"]["200"]["schema"]["$ref"].as_str()?;
    Some(Collection {
        path: path.to_owned(),
        group: text("group")?,
        version: text("version")?,
        kind: text("kind")?,
        definition: last(definition).to_owned(),
    })
}
