//! Checks of an object from a request body: its schema, and its identity against the path and the stored object.

use serde_json::Value;
use skep_api::schema::{self, SchemaProblem};
use skep_api::{Kind, Reason, Status, meta};

use crate::admission::Shape;
use crate::call::Call;
use crate::object::Object;
use crate::write_options::Options;

/// Checks a decoded body by the kind's schema; `duplicates` are fields that its text has twice. Unknown fields are dropped, and warned of or refused; wrong types are refused.
pub(crate) fn check_schema(
    call: &Call,
    kind: &Kind,
    object: &mut Value,
    duplicates: Vec<String>,
    options: &Options,
) -> Result<(), Status> {
    let problems = kind.check_schema(object);
    refuse_undecodable(&problems, (&kind.kind, &kind.version))?;
    let mut found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    found.extend(duplicates);
    options.report_fields(&call.notes, found, |all| {
        Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {all}",
            kind.kind, kind.version, kind.kind
        ))
    })
}

/// As [`check_schema`], for the result of an apply: upstream converts it from an untyped object, and says so when it cannot.
pub(crate) fn check_applied(call: &Call, object: &mut Value, options: &Options) -> Result<(), Status> {
    let kind = &call.target.kind;
    let problems = kind.check_applied(object);
    if let Some(wrong) = SchemaProblem::undecodable(&problems) {
        let type_name = format!("{}, Kind={}", group_version(kind), kind.kind);
        let (namespace, name) = (meta::namespace(object), meta::name(object));
        let message = format!(
            "failed to convert new object ({namespace}/{name}; {type_name}) to proper version: \
             unable to convert unstructured object to {type_name}: {}",
            conversion_failure(&wrong.to_string())
        );
        return Err(Status::new(Reason::Unknown, message));
    }
    let found = problems.iter().map(ToString::to_string).collect();
    options.report_fields(&call.notes, found, |all| Status::bad_request(all))
}

/// `/v1` or `apps/v1`, as Go writes a GroupVersion in a type's name.
fn group_version(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.version)
}

/// The failure of a decoder in the words of Go's converter.
fn conversion_failure(why: &str) -> String {
    if why.starts_with("illegal base64") {
        return format!("error decoding from json: {why}");
    }
    match why.strip_prefix("json: cannot unmarshal number ").and_then(|rest| rest.rsplit_once(" of type ")) {
        Some((_, wanted)) => format!("cannot convert float64 to {wanted}"),
        None => why.to_owned(),
    }
}

fn refuse_undecodable(problems: &[SchemaProblem], (kind, version): (&str, &str)) -> Result<(), Status> {
    match SchemaProblem::undecodable(problems) {
        Some(wrong) => Err(Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {wrong}"
        ))),
        None => Ok(()),
    }
}

/// Checks the body of a subresource that has a kind of its own, such as a Scale: drops unknown fields, refuses wrong types.
pub(crate) fn check_part((group, version, kind): Shape, object: &mut Value) -> Result<(), Status> {
    if object.is_null() {
        return Ok(());
    }
    let Some(schema) = schema::of_kind(&format!("{group}/{version}/{kind}")) else { return Ok(()) };
    refuse_undecodable(&schema::check(schema.name, object), (kind, version))
}

/// Refuses what admission left, if upstream's types cannot decode it.
pub(crate) fn check_admitted(kind: &Kind, object: &mut Value) -> Result<(), Status> {
    refuse_undecodable(&kind.check_schema(object), (&kind.kind, &kind.version))
        .map_err(|status| Status::internal(format!("admission changed the object: {}", status.message)))
}

/// Refuses a body of another kind than the path's.
pub(crate) fn check_kind(kind: &Kind, object: &mut Value) -> Result<(), Status> {
    let wanted = (kind.api_version(), &*kind.kind);
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let found = object["kind"].as_str().unwrap_or_default();
    if !api_version.is_empty() && api_version != wanted.0 {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            wanted.0
        )));
    }
    if !found.is_empty() && found != wanted.1 {
        return Err(Status::bad_request(format!(
            "{found} in version \"{}\" cannot be handled as a {}: no kind \"{found}\" is registered for this path",
            kind.version, kind.kind
        )));
    }
    object["apiVersion"] = wanted.0.into();
    object["kind"] = wanted.1.into();
    Ok(())
}

/// Refuses a body with another namespace or name than the path's.
pub(crate) fn check_identity(call: &Call, object: &mut Value) -> Result<(), Status> {
    let target = &call.target;
    let metadata = meta::of_mut(object);
    if target.kind.namespaced() {
        let found = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if !found.is_empty() && found != target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata.insert("namespace".into(), target.namespace.as_str().into());
    } else {
        metadata.remove("namespace");
    }
    if !target.name.is_empty() {
        let found = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
        if !found.is_empty() && found != target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({})",
                target.name
            )));
        }
        metadata.insert("name".into(), target.name.as_str().into());
    }
    Ok(())
}

/// The resourceVersion that a write requires; empty if it names none.
pub(crate) fn wanted_revision(object: &Value) -> &str {
    match object["metadata"]["resourceVersion"].as_str() {
        None | Some("0") => "",
        Some(revision) => revision,
    }
}

/// Refuses a write whose object names another resourceVersion or uid than the stored one.
pub(crate) fn check_preconditions(kind: &Kind, object: &Value, old: &Object) -> Result<(), Status> {
    let wanted = wanted_revision(object);
    if !wanted.is_empty() && wanted.parse::<u64>().is_err() {
        return Err(Status::bad_request(format!(
            "metadata.resourceVersion: Invalid value: \"{wanted}\": must be an unsigned integer"
        )));
    }
    if !wanted.is_empty() && wanted != old.revision.to_string() {
        return Err(Status::stale(kind, meta::name(object)));
    }
    let uid = meta::uid(object);
    if uid.is_empty() {
        return Ok(());
    }
    let present = old.value();
    if uid != meta::uid(&present) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(&present)
        );
        return Err(Status::conflict(kind, meta::name(object), &why));
    }
    Ok(())
}
