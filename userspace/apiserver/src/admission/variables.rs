//! The variables that expressions of webhooks and policies can use.

use serde_json::{Value, json};
use skep_api::Kind;
use skep_api::cel::{self, Bindings};

use super::authorizer;
use super::request::{Operation, Request};
use super::versioned_attributes::VersionedAttributes;

/// The variables of every expression: object, old object, request, and an authorizer for the requester.
pub(super) fn bindings<'a>(request: &Request<'_>, versioned: &'a VersionedAttributes) -> Bindings<'a> {
    Bindings::from([
        ("object", cel::of_json(&versioned.object)),
        ("oldObject", cel::of_json(&versioned.old_object)),
        ("request", cel::of_owned_json(&request_fields(request, versioned))),
        ("namespaceObject", cel::Value::Null),
        ("authorizer", authorizer::variable(request, request.known_name(&versioned.object))),
    ])
}

/// The `request` variable of expressions, and the request of an AdmissionReview without its uid and objects.
pub(super) fn request_fields(request: &Request<'_>, versioned: &VersionedAttributes) -> Value {
    let identity = &request.call.identity;
    let kind_of = |kind: &Kind| {
        let (group, version, of) = request.shape.unwrap_or((&*kind.group, &*kind.version, &*kind.kind));
        json!({"group": group, "version": version, "kind": of})
    };
    let resource =
        |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let mut user = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    let mut fields = json!({
        "kind": kind_of(&versioned.kind), "resource": resource(&versioned.kind),
        "requestKind": kind_of(request.kind()), "requestResource": resource(request.kind()),
        "operation": request.operation.name(), "userInfo": user, "dryRun": request.dry_run, "options": options(request),
    });
    let name = request.known_name(&versioned.object);
    // As upstream: a Namespace object counts as in the namespace of its own name.
    let namespace = if request.is_resource("", "namespaces") { name } else { request.namespace() };
    for (field, value) in [
        ("subResource", request.subresource()),
        ("requestSubResource", request.subresource()),
        ("name", name),
        ("namespace", namespace),
    ] {
        if !value.is_empty() {
            fields[field] = value.into();
        }
    }
    fields
}

/// The options object of the request's verb, with the options that the query has.
fn options(request: &Request<'_>) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    for field in ["fieldManager", "fieldValidation", "propagationPolicy"] {
        if let Some(value) = request.call.query.get(field) {
            options[field] = value.into();
        }
    }
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}
