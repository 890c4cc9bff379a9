//! `token`: a TokenRequest for a service account.

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skep_api::{Status, find, meta};

use super::edit::posted;
use crate::admission::{self, Operation};
use crate::authn::token::{Bound, Reference, Signed, credential_id};
use crate::cache::Caches;
use crate::call::Call;
use crate::clock::{now, timestamp};
use crate::negotiate::respond_value;
use crate::state::Inner;

/// Audit annotation with the id of the new token, as upstream.
const ISSUED_CREDENTIAL: &str = "authentication.kubernetes.io/issued-credential-id";
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

pub(super) async fn handle(server: &Inner, call: Call, request: Request) -> Result<Response, Status> {
    let shape = ("authentication.k8s.io", "v1", "TokenRequest");
    let mut token_request = posted(&call, request, shape).await?;
    admission::part(
        &server.writer.admission,
        &call,
        Operation::Create,
        shape,
        &mut token_request,
        None,
        false,
    )
    .await?;
    let target = &call.target;
    let account = server.storage.latest(&target.kind, &target.namespace, &target.name).await?.value();
    let seconds = token_request["spec"]["expirationSeconds"].as_i64().unwrap_or(3_600);
    if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) {
        let why = format!(
            "spec.expirationSeconds: Invalid value: {seconds}: may not specify a duration less than 10 minutes"
        );
        return Err(Status::invalid_body("TokenRequest.authentication.k8s.io", &target.name, &why));
    }
    let mut audiences: Vec<String> = token_request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    audiences.retain(|audience| !audience.is_empty());
    let bound = bound(&server.storage.caches, &call, &account, &token_request["spec"]["boundObjectRef"])?;
    let Signed { token, audiences, expires, id } =
        server.tokens.sign(audiences, seconds, bound).map_err(Status::internal)?;
    call.notes.annotate(ISSUED_CREDENTIAL, credential_id(&id));
    token_request["apiVersion"] = "authentication.k8s.io/v1".into();
    token_request["kind"] = "TokenRequest".into();
    token_request["metadata"] =
        json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": now()});
    token_request["spec"]["audiences"] = json!(audiences);
    token_request["spec"]["expirationSeconds"] = seconds.into();
    token_request["status"] = json!({"token": token, "expirationTimestamp": timestamp(expires)});
    Ok(respond_value(StatusCode::CREATED, &token_request))
}

/// The object in `boundObjectRef` must exist; a pod must run as the account.
fn bound(caches: &Caches, call: &Call, account: &Value, reference: &Value) -> Result<Bound, Status> {
    let namespace = call.target.namespace.as_str();
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        serviceaccount: Reference::to(account),
        pod: None,
        secret: None,
        node: None,
    };
    if reference.is_null() {
        return Ok(bound);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (plural, namespace) = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => ("pods", namespace),
        ("v1", "Secret") => ("secrets", namespace),
        ("v1", "Node") => ("nodes", ""),
        (version, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let what = format!("{group}/{version}, Kind={kind}");
            return Err(Status::bad_request(format!("cannot bind token to object of type {what}")));
        }
    };
    let kind = find("", "v1", plural).ok_or_else(Status::no_such_path)?;
    let object = caches.get_or_404(kind, namespace, text("name"))?.value();
    let uid = text("uid");
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(kind, text("name"), &why));
    }
    let to = Some(Reference::to(&object));
    match plural {
        "secrets" => bound.secret = to,
        "nodes" => bound.node = to,
        _ if object["spec"]["serviceAccountName"] != account["metadata"]["name"] => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                meta::name(account)
            )));
        }
        _ => (bound.pod, bound.node) = (to, node_of(caches, &object)),
    }
    Ok(bound)
}

/// The node of a pod; without a uid if it does not exist.
fn node_of(caches: &Caches, pod: &Value) -> Option<Reference> {
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
    let node = find("", "v1", "nodes").and_then(|kind| caches.get_or_404(kind, "", name).ok());
    Some(node.map_or_else(
        || Reference { name: name.to_owned(), ..Reference::default() },
        |node| Reference::to(&node.value()),
    ))
}
