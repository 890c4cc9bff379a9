//! A request in the version that a webhook or a policy matched: the object and the old object, converted.

use serde_json::Value;
use skep_api::schema::SchemaProblem;
use skep_api::{Kind, KindRef, Status, conversion};

use super::request::Request;
use crate::convert;

pub(super) struct VersionedAttributes {
    /// The kind that the hook's rule names.
    pub(super) kind: KindRef,
    /// Null for a deletion.
    pub(super) object: Value,
    /// Null for a creation.
    pub(super) old_object: Value,
}

impl VersionedAttributes {
    pub(super) async fn of(
        request: &Request<'_>,
        kind: KindRef,
        object: &Value,
    ) -> Result<VersionedAttributes, Status> {
        let old_object = request.old.cloned().unwrap_or_default();
        let mut versioned = VersionedAttributes { kind, object: object.clone(), old_object };
        if versioned.is_other_version(request) {
            let values = [&mut versioned.object, &mut versioned.old_object];
            for value in values.into_iter().filter(|value| value.is_object()) {
                let (webhooks, from) = (&request.admission.storage.webhooks, storage_kind(request));
                *value = convert::value(webhooks, from, &versioned.kind, value.take()).await?;
            }
        }
        Ok(versioned)
    }

    /// Whether the hook's version differs from the request's. An object with a kind of its own (Scale, Eviction) has one version.
    fn is_other_version(&self, request: &Request<'_>) -> bool {
        let (kind, own) = (&self.kind, storage_kind(request));
        request.shape.is_none() && (&*kind.group, &*kind.version) != (&*own.group, &*own.version)
    }

    /// Converts a changed object back to the version of the request.
    pub(super) async fn to_request_version(
        &self,
        request: &Request<'_>,
        new: Value,
    ) -> Result<Value, Status> {
        if !self.is_other_version(request) {
            return Ok(new);
        }
        convert::value(&request.admission.storage.webhooks, &self.kind, storage_kind(request), new).await
    }

    /// Sets the defaults of a changed object and removes unknown fields; also returns the problems that the schema found.
    /// Fails if the object is no longer of its kind.
    pub(super) fn complete(
        &self,
        request: &Request<'_>,
        mut new: Value,
    ) -> Result<(Value, Vec<String>), String> {
        if new["kind"] != self.object["kind"] || new["apiVersion"] != self.object["apiVersion"] {
            return Err("it makes the object one of another kind".to_owned());
        }
        if request.shape.is_some() {
            return Ok((new, Vec::new()));
        }
        let kind = &*self.kind;
        let problems = kind.check_schema(&mut new);
        if let Some(wrong) = SchemaProblem::undecodable(&problems) {
            return Err(format!("{} cannot be handled as a {}: {wrong}", kind.kind, kind.kind));
        }
        kind.default(&mut new);
        Ok((new, problems.iter().map(ToString::to_string).collect()))
    }
}

/// The kind in whose form the request has its object.
fn storage_kind<'a>(request: &Request<'a>) -> &'a Kind {
    conversion::storage_kind(request.kind()).unwrap_or(request.kind())
}
