//! Requests that are not for a resource: discovery, schemas, version, metrics, health.

use axum::extract::Request;
use axum::response::Response;
use http::header::ACCEPT;
use http::{Method, StatusCode};
use serde_json::json;
use skep_api::aggregate::Remote;
use skep_api::{Registry, Status, discovery, openapi};

use super::health;
use crate::aggregate;
use crate::audit::Audit;
use crate::authn::token;
use crate::identity::Identity;
use crate::negotiate::{respond, respond_large, respond_value};
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::state::Inner;

/// Part of the URLs of schemas. It changes with the program only, so clients may cache them.
const SCHEMA_HASH: &str = concat!("skep-", env!("CARGO_PKG_VERSION"), "-v1.36");

pub(crate) async fn handle(
    server: &Inner,
    identity: &Identity,
    info: &RequestInfo<'_>,
    query: &Query,
    request: &Request<()>,
) -> Result<Response, Status> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Status::no_such_path());
    }
    let parts: Vec<&str> = info.path.split('/').filter(|part| !part.is_empty()).collect();
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2");
    let (registry, remotes) = (server.storage.caches.registry(), server.aggregator.remotes());
    let document = match parts.as_slice() {
        ["api"] if aggregated => return Ok(aggregated_answer(&registry, &remotes, true)),
        ["apis"] if aggregated => return Ok(aggregated_answer(&registry, &remotes, false)),
        ["api"] => Some(discovery::core_versions(&server.config.advertise.to_string())),
        ["apis"] => Some(discovery::group_list(&registry, &remotes)),
        ["api", version] => discovery::resources(&registry, "", version),
        ["apis", group] => discovery::group(&registry, &remotes, group),
        ["apis", group, version] => discovery::resources(&registry, group, version),
        ["openapi", "v3"] => Some(openapi::v3_index(&registry, &remotes, SCHEMA_HASH)),
        ["openapi", "v3", "api", version] => return schemas(request, openapi::v3(&registry, "", version)),
        ["openapi", "v3", "apis", group, version] => {
            if let Some(answer) = aggregate::openapi(
                (&server.aggregator, &server.storage.caches),
                identity,
                group,
                version,
                request,
            )
            .await
            {
                return answer;
            }
            return schemas(request, openapi::v3(&registry, group, version));
        }
        ["openapi", "v2"] if openapi::accepts_v2_protobuf(accept) => {
            return Ok(openapi_v2_protobuf(&registry));
        }
        ["openapi", "v2"] => return schemas(request, Some(openapi::v2(&registry))),
        ["version"] => Some(version()),
        [".well-known", "openid-configuration"] => {
            Some(token::discovery(&server.tokens, server.config.advertise))
        }
        ["openid", "v1", "jwks"] => return Ok(key_set(server)),
        [which @ ("healthz" | "livez" | "readyz"), check @ ..] => {
            return Ok(health::handle(server, query, which, &check.join("/")).await);
        }
        ["metrics"] => return Ok(metrics(server)),
        ["metrics", "slis"] => {
            health::check_all(server).await;
            return Ok(server.metrics.respond_slis());
        }
        _ => None,
    };
    let document = document.ok_or_else(Status::no_such_path)?.to_string();
    Ok(respond_large(request.headers(), document.into()))
}

fn metrics(server: &Inner) -> Response {
    let audit_errors = server.config.audit.as_ref().map(Audit::lost);
    let neighbours: String = server.config.neighbours.iter().map(|part| part.metrics()).collect();
    server.metrics.respond(&server.storage.caches, &server.dialer, audit_errors, &neighbours)
}

fn schemas(request: &Request<()>, document: Option<String>) -> Result<Response, Status> {
    let document = document.ok_or_else(Status::no_such_path)?;
    Ok(respond_large(request.headers(), document.into()))
}

/// The keys of tokens, as a JSON Web Key Set (RFC 7517).
fn key_set(server: &Inner) -> Response {
    let mut answer = respond_value(StatusCode::OK, &server.tokens.jwks());
    let kind = http::HeaderValue::from_static("application/jwk-set+json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}

fn aggregated_answer(registry: &Registry, remotes: &[Remote], core: bool) -> Response {
    let document = discovery::aggregated(registry, remotes, core);
    let mut response = respond_value(StatusCode::OK, &document);
    let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn openapi_v2_protobuf(registry: &Registry) -> Response {
    let mut response = respond(StatusCode::OK, openapi::v2_protobuf(registry).into());
    let kind = http::HeaderValue::from_static(openapi::V2_PROTOBUF);
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": concat!("v1.36.0+skep-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}
