//! A node's flow log: forwarded to the node's agent. A log of a namespace has what concerns its pods.

use axum::extract::Request;
use axum::response::Response;
use http::Method;
use skep_api::Status;
use skep_api::flow_log::{FlowQuery, RESOURCE, VERSION};

use crate::request_info::RequestInfo;
use crate::reverse_proxy::{forward, forwarded_headers};
use crate::state::Inner;
use crate::subresources::proxy::{kubelet, node_named};

/// Where an agent serves it.
const PATH: &str = "/flows";

/// Answers an authorised request.
pub(crate) async fn handle(
    server: &Inner,
    info: &RequestInfo<'_>,
    request: Request,
) -> Result<Response, Status> {
    let is_known = info.version == VERSION
        && info.resource == RESOURCE
        && !info.name.is_empty()
        && info.subresource.is_empty()
        && request.method() == Method::GET;
    if !is_known {
        return Err(Status::no_such_path());
    }
    let query = query(info, request.uri().query().unwrap_or_default())?;
    let node = node_named(server, &info.name)?;
    let to = kubelet(server, &node, PATH, &query.to_string())?;
    let headers = forwarded_headers(request.headers());
    let answered = forward(&server.dialer, to, headers, request).await;
    answered.map_err(|error| Status::unavailable(format!("read the flow log of node {}: {error}", info.name)))
}

/// What the user was authorised for; his own namespace in the query does not count then.
fn query(info: &RequestInfo<'_>, text: &str) -> Result<FlowQuery, Status> {
    let query = FlowQuery::parse(text).map_err(|error| Status::bad_request(error.to_string()))?;
    if info.namespace.is_empty() {
        return Ok(query);
    }
    // Any other text could be more than the value of one parameter.
    if !is_namespace_name(&info.namespace) {
        return Err(Status::no_such_path());
    }
    Ok(FlowQuery { namespace: Some(info.namespace.to_string()), ..query })
}

fn is_namespace_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_namespace_has_nothing_of_others() {
        let of = |path: &str, text: &str| {
            let info = RequestInfo::parse(&Method::GET, path, false);
            query(&info, text).map(|query| query.namespace)
        };
        let (all, own) = ("/apis/flows.skep.io/v1/flows/n", "/apis/flows.skep.io/v1/namespaces/a/flows/n");
        assert_eq!(of(all, "").unwrap(), None);
        assert_eq!(of(all, "namespace=b").unwrap(), Some("b".into()));
        assert_eq!(of(own, "").unwrap(), Some("a".into()));
        assert_eq!(of(own, "namespace=b").unwrap(), Some("a".into()));
        assert!(of("/apis/flows.skep.io/v1/namespaces/a%26namespace=b/flows/n", "").is_err());
        assert!(of(own, "colour=red").is_err());
    }
}
