//! Reviews (TokenReview, SubjectAccessReview, ...): a create request whose answer is in the object's status. Nothing is stored.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skep_api::Status;

use crate::authn::by_token_for;
use crate::authz::Attributes;
use crate::cache::Caches;
use crate::call::Call;
use crate::identity::Identity;
use crate::negotiate::respond_value;
use crate::state::Inner;

/// The answer, if the kind is a review.
pub(crate) fn answer(server: &Inner, call: &Call, object: &Value) -> Result<Option<Response>, Status> {
    let caches = &server.storage.caches;
    let status = match (&*call.target.kind.group, &*call.target.kind.kind) {
        ("authentication.k8s.io", "TokenReview") => token(server, object),
        ("authentication.k8s.io", "SelfSubjectReview") => json!({"userInfo": user_info(&call.identity)}),
        ("authorization.k8s.io", "SelfSubjectAccessReview") => {
            access(caches, &call.identity, &object["spec"])?
        }
        ("authorization.k8s.io", "SubjectAccessReview" | "LocalSubjectAccessReview") => {
            access(caches, &subject(&object["spec"]), &object["spec"])?
        }
        ("authorization.k8s.io", "SelfSubjectRulesReview") => rules(caches, call, object),
        _ => return Ok(None),
    };
    let mut answer = object.clone();
    answer["metadata"]["creationTimestamp"] = Value::Null;
    answer["status"] = status;
    Ok(Some(respond_value(StatusCode::CREATED, &answer)))
}

fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

fn token(server: &Inner, object: &Value) -> Value {
    let (caches, keys) = (&server.storage.caches, &server.config.tokens);
    let token = object["spec"]["token"].as_str().unwrap_or_default();
    let audiences: Vec<&str> =
        object["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let found = if audiences.is_empty() {
        let issuer = keys.issuer.clone();
        by_token_for(caches, keys, token, None).map(|identity| (identity, issuer))
    } else {
        audiences.iter().find_map(|audience| {
            Some((by_token_for(caches, keys, token, Some(audience))?, (*audience).to_owned()))
        })
    };
    match found {
        Some((identity, audience)) => {
            json!({"authenticated": true, "user": user_info(&identity), "audiences": [audience]})
        }
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    }
}

fn subject(spec: &Value) -> Identity {
    let groups = spec["groups"].as_array().into_iter().flatten();
    Identity {
        user: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: groups.filter_map(|group| group.as_str().map(str::to_owned)).collect(),
        ..Identity::default()
    }
}

fn access(caches: &Caches, identity: &Identity, spec: &Value) -> Result<Value, Status> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_null() == path.is_null() {
        return Err(Status::invalid_option(
            "spec.resourceAttributes",
            "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let fields = if path.is_null() { resource } else { path };
    let (verb, group, plural) = (text(&fields["verb"]), text(&fields["group"]), text(&fields["resource"]));
    let (subresource, name, namespace) =
        (text(&fields["subresource"]), text(&fields["name"]), text(&fields["namespace"]));
    let path = text(&fields["path"]);
    let attributes = Attributes {
        user: &identity.user,
        groups: &identity.groups,
        verb: &verb,
        group: &group,
        resource: &plural,
        subresource: &subresource,
        name: &name,
        namespace: &namespace,
        path: &path,
        field_selector: "",
    };
    Ok(json!({"allowed": caches.authorizer().allows(&attributes)}))
}

fn rules(caches: &Caches, call: &Call, object: &Value) -> Value {
    let namespace = object["spec"]["namespace"].as_str().unwrap_or_default();
    let (resources, paths) = caches.authorizer().rules_of(&call.identity, namespace);
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
