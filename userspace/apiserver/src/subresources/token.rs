//! `token`: a TokenRequest for a service account.

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skep_api::{Status, find, meta};

use super::edit::posted;
use crate::admission::{self, Operation};
use crate::authn::token::{Claims, sign};
use crate::cache::Caches;
use crate::call::Call;
use crate::clock::{now, timestamp};
use crate::negotiate::respond_value;
use crate::state::Inner;

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
    if audiences.is_empty() {
        audiences.push(server.config.tokens.issuer.clone());
    }
    let pod = bound_pod(&server.storage.caches, &call, &account, &token_request["spec"]["boundObjectRef"])?;
    let claims = Claims {
        namespace: &target.namespace,
        account: &account,
        audiences: audiences.clone(),
        seconds,
        pod: pod.as_ref(),
    };
    let (token, expires) = sign(&server.config.tokens, &claims).map_err(Status::internal)?;
    token_request["apiVersion"] = "authentication.k8s.io/v1".into();
    token_request["kind"] = "TokenRequest".into();
    token_request["metadata"] =
        json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": now()});
    token_request["spec"]["audiences"] = json!(audiences);
    token_request["spec"]["expirationSeconds"] = seconds.into();
    token_request["status"] = json!({"token": token, "expirationTimestamp": timestamp(expires)});
    Ok(respond_value(StatusCode::CREATED, &token_request))
}

/// The pod in `boundObjectRef`; it must exist and run as the account.
fn bound_pod(
    caches: &Caches,
    call: &Call,
    account: &Value,
    reference: &Value,
) -> Result<Option<Value>, Status> {
    if reference.is_null() {
        return Ok(None);
    }
    let name = reference["name"].as_str().unwrap_or_default();
    let Some(pods) = find("", "v1", "pods").filter(|_| reference["kind"] == "Pod") else {
        return Err(Status::bad_request(format!(
            "cannot bind token to object of type {}",
            reference["kind"]
        )));
    };
    let pod = caches.get_or_404(pods, &call.target.namespace, name)?.value();
    let uid = reference["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != meta::uid(&pod) {
        return Err(Status::conflict(
            pods,
            name,
            &format!("the UID in the bound object reference ({uid}) does not match the UID in record"),
        ));
    }
    if pod["spec"]["serviceAccountName"] != account["metadata"]["name"] {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            meta::name(account)
        )));
    }
    Ok(Some(pod))
}
