//! A request as who registered for it sees it: the object and the one before it, in the version that his rule names.

use serde_json::Value;
use skep_api::schema::SchemaProblem;
use skep_api::{Kind, KindRef, Status, conversion};

use super::Request;
use crate::convert;

pub(super) struct Seen {
    pub(super) kind: KindRef,
    /// Null after a deletion.
    pub(super) object: Value,
    /// Null before a creation.
    pub(super) old: Value,
}

impl Seen {
    pub(super) async fn of(request: &Request<'_>, kind: KindRef, object: &Value) -> Result<Seen, Status> {
        let old = request.old.cloned().unwrap_or_default();
        let mut seen = Seen { kind, object: object.clone(), old };
        if seen.is_other(request) {
            for value in [&mut seen.object, &mut seen.old].into_iter().filter(|value| value.is_object()) {
                let (server, own) = (&request.call.server, stored_kind(request));
                *value = convert::value(server, own, &seen.kind, value.take()).await?;
            }
        }
        Ok(seen)
    }

    /// Whether the object is in another version than the request has it. A Scale or an Eviction has but one.
    fn is_other(&self, request: &Request<'_>) -> bool {
        let (kind, own) = (&self.kind, stored_kind(request));
        request.shape.is_none() && (kind.group, kind.version) != (own.group, own.version)
    }

    /// What became of the object, in the version of the request.
    pub(super) async fn back(&self, request: &Request<'_>, new: Value) -> Result<Value, Status> {
        if !self.is_other(request) {
            return Ok(new);
        }
        convert::value(&request.call.server, &self.kind, stored_kind(request), new).await
    }

    /// A changed object: still of its kind, and with its defaults. Beside it the fields that its kind does not have; they
    /// are gone.
    pub(super) fn completed(
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
        if let Some(wrong) =
            problems.iter().find(|problem| matches!(problem, SchemaProblem::WrongType { .. }))
        {
            return Err(format!("{} cannot be handled as a {}: {wrong}", kind.kind, kind.kind));
        }
        kind.default(&mut new);
        Ok((new, problems.iter().map(ToString::to_string).collect()))
    }
}

/// The kind in whose form the request has its object.
fn stored_kind<'a>(request: &Request<'a>) -> &'a Kind {
    conversion::storage_kind(request.kind()).unwrap_or(request.kind())
}
