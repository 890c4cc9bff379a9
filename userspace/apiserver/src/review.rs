//! Reviews (TokenReview, SubjectAccessReview, ...): a create request whose answer is in the object's status. Nothing is stored.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skep_api::Status;

use crate::authn::by_token_for;
use crate::authz::{Attributes, Decision};
use crate::cache::Caches;
use crate::call::Call;
use crate::identity::Identity;
use crate::negotiate::{View, not_served, respond_value};
use crate::state::Inner;

/// The answer, if the kind is a review.
pub(crate) async fn answer(
    server: &Inner,
    call: &Call,
    view: View,
    object: &Value,
) -> Result<Option<Response>, Status> {
    let caches = &server.storage.caches;
    let status = match (&*call.target.kind.group, &*call.target.kind.kind) {
        ("authentication.k8s.io", "TokenReview") => token(server, object).await,
        ("authentication.k8s.io", "SelfSubjectReview") => json!({"userInfo": user_info(&call.identity)}),
        ("authorization.k8s.io", "SelfSubjectAccessReview") => {
            access(caches, &call.identity, &object["spec"]).await?
        }
        ("authorization.k8s.io", "SubjectAccessReview" | "LocalSubjectAccessReview") => {
            access(caches, &subject(&object["spec"]), &object["spec"]).await?
        }
        ("authorization.k8s.io", "SelfSubjectRulesReview") => rules(caches, call, object),
        _ => return Ok(None),
    };
    // Upstream's reviews have no table and no metadata to show.
    if view != View::Whole {
        return Err(not_served());
    }
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

async fn token(server: &Inner, object: &Value) -> Value {
    let token = object["spec"]["token"].as_str().unwrap_or_default();
    let audiences = object["spec"]["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    match by_token_for(server, token, &audiences).await {
        Some((identity, audiences)) => {
            json!({"authenticated": true, "user": user_info(&identity), "audiences": audiences})
        }
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    }
}

fn subject(spec: &Value) -> Identity {
    let groups = spec["groups"].as_array().into_iter().flatten();
    Identity {
        user: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: groups.filter_map(|group| group.as_str().map(str::to_owned)).collect(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
    }
}

async fn access(caches: &Caches, identity: &Identity, spec: &Value) -> Result<Value, Status> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_null() == path.is_null() {
        return Err(Status::invalid_option(
            "spec.resourceAttributes",
            "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    if !path.is_null() {
        let (verb, path) = (text(&path["verb"]), text(&path["path"]));
        let attributes = Attributes { verb: &verb, path: &path, ..Attributes::of(identity) };
        return Ok(decision(caches, &attributes, true).await);
    }
    let fields = resource;
    let (verb, group, plural) = (text(&fields["verb"]), text(&fields["group"]), text(&fields["resource"]));
    let version = text(&fields["version"]);
    let (subresource, name, namespace) =
        (text(&fields["subresource"]), text(&fields["name"]), text(&fields["namespace"]));
    let field_selector = selector_text(&fields["fieldSelector"], "spec.resourceAttributes.fieldSelector")?;
    let label_selector = selector_text(&fields["labelSelector"], "spec.resourceAttributes.labelSelector")?;
    let attributes = Attributes {
        verb: &verb,
        group: &group,
        version: &version,
        resource: &plural,
        subresource: &subresource,
        name: &name,
        namespace: &namespace,
        field_selector: &field_selector,
        label_selector: &label_selector,
        ..Attributes::of(identity)
    };
    Ok(decision(caches, &attributes, false).await)
}

/// The status of a review. A request for a path is one even if the path is empty, which no rule names.
async fn decision(caches: &Caches, attributes: &Attributes<'_>, of_path: bool) -> Value {
    let path = if of_path && attributes.path.is_empty() { Attributes::NO_PATH } else { attributes.path };
    let attributes = Attributes { path, ..attributes.clone() };
    let decision = caches.authorizer().decide(&attributes).await;
    let mut status = json!({"allowed": decision.allowed()});
    let reason = match decision {
        Decision::Allow(reason) | Decision::NoOpinion(reason) => reason,
        Decision::Deny(reason) => {
            status["denied"] = true.into();
            reason
        }
        Decision::Failed(why) => {
            status["evaluationError"] = why.into();
            String::new()
        }
    };
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// A selector of a review as a query has it: of its requirements with one value, which are those that can narrow a right.
fn selector_text(selector: &Value, field: &str) -> Result<String, Status> {
    let (raw, requirements) = (&selector["rawSelector"], &selector["requirements"]);
    let has_requirements = requirements.as_array().is_some_and(|all| !all.is_empty());
    match raw.as_str().filter(|raw| !raw.is_empty()) {
        Some(_) if has_requirements => {
            let why = "Invalid value: \"\": may not specified at the same time as requirements";
            Err(Status::invalid_option(&format!("{field}.rawSelector"), why))
        }
        Some(raw) => Ok(raw.to_owned()),
        None if selector.is_object() && !has_requirements => Err(Status::invalid_option(
            &format!("{field}.requirements"),
            "Required value: when fieldSelector or labelSelector is specified, requirements or rawSelector is required",
        )),
        None => {
            let requirements = requirements.as_array().into_iter().flatten();
            let terms = requirements.filter_map(|requirement| {
                let [value] = requirement["values"].as_array()?.as_slice() else { return None };
                let is_equality = requirement["operator"] == "In";
                is_equality.then(|| Some(format!("{}={}", requirement["key"].as_str()?, value.as_str()?)))?
            });
            Ok(terms.collect::<Vec<_>>().join(","))
        }
    }
}

fn rules(caches: &Caches, call: &Call, object: &Value) -> Value {
    let namespace = object["spec"]["namespace"].as_str().unwrap_or_default();
    let rules = caches.authorizer().rules_of(&call.identity, namespace);
    let mut status = json!({
        "resourceRules": rules.resources, "nonResourceRules": rules.paths, "incomplete": !rules.incomplete.is_empty(),
    });
    if !rules.incomplete.is_empty() {
        status["evaluationError"] = rules.incomplete.into();
    }
    status
}
