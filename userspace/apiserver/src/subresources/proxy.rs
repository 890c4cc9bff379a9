//! `log`, `exec`, `attach`, `portforward` and `proxy`: passed on to the node, pod or service.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skep_api::{Status, find, meta};

use crate::Inner;
use crate::admission::{self, Operation};
use crate::http::Call;
use crate::node_client::Scheme;
use crate::object::prefix;
use crate::write;

/// Where a request goes on to.
struct Destination {
    scheme: Scheme,
    address: SocketAddr,
    path_and_query: String,
}

pub(super) async fn handle(call: Call, request: Request) -> Result<Response, Status> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let object =
        write::find_latest(&call.server, &call.target.kind, &call.target.namespace, &call.target.name)
            .await?
            .value();
    if call.target.subresource != "log" {
        let (kind, mut options) = options(&call);
        admission::part(&call, Operation::Connect, ("", "v1", kind), &mut options, None, false).await?;
    }
    let to = match (call.target.subresource.as_str(), call.target.kind.kind) {
        ("proxy", "Node") => kubelet(&object, &format!("/{}", call.target.rest), &query)?,
        ("proxy", "Service") => service(&call, &object, &query)?,
        ("proxy", _) => pod(&call, &object, &query)?,
        _ => container(&call, &object, &query)?,
    };
    forward(&call, to, request).await
}

/// What is asked of a connection, as the object that admission sees.
fn options(call: &Call) -> (&'static str, Value) {
    let kind = match (call.target.subresource.as_str(), call.target.kind.kind) {
        ("exec", _) => "PodExecOptions",
        ("attach", _) => "PodAttachOptions",
        ("portforward", _) => "PodPortForwardOptions",
        (_, "Node") => "NodeProxyOptions",
        (_, "Service") => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|flag| call.query.is_true(flag)) {
        options[flag] = true.into();
    }
    if let Some(container) = call.query.get("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let ports: Vec<i64> = call.query.all("ports").filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = json!(ports);
    }
    if !call.target.rest.is_empty() {
        options["path"] = call.target.rest.as_str().into();
    }
    (kind, options)
}

/// The kubelet's path for a part of a pod.
fn container(call: &Call, pod: &Value, query: &str) -> Result<Destination, Status> {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    let node_name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node_name.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let node = node(call, node_name)?;
    if call.target.subresource == "portforward" {
        return kubelet(&node, &format!("/portForward/{namespace}/{name}"), query);
    }
    let container = chosen(call, pod)?;
    let (path, query) = match call.target.subresource.as_str() {
        "log" => (format!("/containerLogs/{namespace}/{name}/{container}"), query.to_owned()),
        part => (format!("/{part}/{namespace}/{name}/{container}"), kubelet_query(query)),
    };
    kubelet(&node, &path, &query)
}

/// The container that was asked for, or the only one.
fn chosen(call: &Call, pod: &Value) -> Result<String, Status> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names: Vec<&str> = lists
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect();
    match call.query.get("container") {
        Some(name) if names.contains(&name) => Ok(name.to_owned()),
        Some(name) => {
            Err(Status::bad_request(format!("container {name} is not valid for pod {}", meta::name(pod))))
        }
        None => match pod["spec"]["containers"].as_array().map(Vec::as_slice) {
            Some([only]) => Ok(only["name"].as_str().unwrap_or_default().to_owned()),
            _ => Err(Status::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                meta::name(pod),
                names.join(" ")
            ))),
        },
    }
}

/// The kubelet names the streams differently from the API.
fn kubelet_query(query: &str) -> String {
    let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("container="));
    let renamed = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = match name {
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            other => other,
        };
        let value = match (name, value) {
            ("input" | "output" | "error" | "tty", "true") => "1",
            (_, value) => value,
        };
        format!("{name}={value}")
    });
    renamed.collect::<Vec<_>>().join("&")
}

fn node(call: &Call, name: &str) -> Result<Value, Status> {
    let kind = find("", "v1", "nodes").ok_or_else(Status::no_such_path)?;
    write::find(&call.server, kind, "", name).map(|node| node.value())
}

fn kubelet(node: &Value, path: &str, query: &str) -> Result<Destination, Status> {
    let name = meta::name(node);
    let address = node["status"]["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str()?.parse::<IpAddr>().ok());
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|p| u16::try_from(p).ok());
    let (Some(ip), Some(port)) = (address, port) else {
        return Err(Status::unavailable(format!(
            "no preferred addresses found; known addresses of node {name}: none"
        )));
    };
    Ok(Destination {
        scheme: Scheme::Https,
        address: SocketAddr::new(ip, port),
        path_and_query: joined(path, query),
    })
}

fn joined(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// `[scheme:]name[:port]` as proxied names are written.
fn parts(name: &str) -> (Scheme, &str, &str) {
    let (scheme, rest) = match name.split_once(':') {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        _ => (Scheme::Http, name),
    };
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    (scheme, name, port)
}

fn pod(call: &Call, pod: &Value, query: &str) -> Result<Destination, Status> {
    let (scheme, _, port) = parts(&call.target.name);
    let first = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|c| c["ports"][0]["containerPort"].as_u64());
    let port = port.parse().ok().or_else(|| u16::try_from(first?).ok()).unwrap_or(80);
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.ok_or_else(|| {
        Status::bad_request(format!("address not allowed: pod {} has no address", meta::name(pod)))
    })?;
    let path_and_query = joined(&format!("/{}", call.target.rest), query);
    Ok(Destination { scheme, address: SocketAddr::new(ip, port), path_and_query })
}

/// A ready endpoint of the service, behind the port that was named.
fn service(call: &Call, service: &Value, query: &str) -> Result<Destination, Status> {
    let (scheme, name, wanted) = parts(&call.target.name);
    let unavailable = || Status::unavailable(format!("no endpoints available for service \"{name}\""));
    let address = ready_endpoint(&call.server, service, wanted).ok_or_else(unavailable)?;
    Ok(Destination { scheme, address, path_and_query: joined(&format!("/{}", call.target.rest), query) })
}

/// Where a service's port, by its name or number, is answered; the first port if none is named.
pub(crate) fn ready_endpoint(server: &Inner, service: &Value, wanted: &str) -> Option<SocketAddr> {
    let ports = service["spec"]["ports"].as_array()?;
    let port = ports.iter().find(|port| {
        wanted.is_empty() || port["name"] == wanted || port["port"].as_u64() == wanted.parse().ok()
    })?;
    let port_name = port["name"].as_str().unwrap_or_default();
    let kind = find("discovery.k8s.io", "v1", "endpointslices")?;
    let slices =
        server.caches.of(kind).map(|r| r.list(&format!("{}{}/", prefix(kind), meta::namespace(service))));
    slices.into_iter().flatten().map(|slice| slice.value()).find_map(|slice| {
        let ours = slice["metadata"]["labels"]["kubernetes.io/service-name"] == meta::name(service);
        let ports = slice["ports"].as_array().filter(|_| ours)?;
        let port = ports.iter().find(|port| port["name"].as_str().unwrap_or_default() == port_name)?["port"]
            .as_u64()?;
        let endpoint = slice["endpoints"]
            .as_array()?
            .iter()
            .find(|endpoint| endpoint["conditions"]["ready"] != false)?;
        let ip: IpAddr = endpoint["addresses"][0].as_str()?.parse().ok()?;
        Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
    })
}

/// Sends the request on and the answer back; an upgraded connection becomes a pipe.
async fn forward(call: &Call, to: Destination, mut request: Request) -> Result<Response, Status> {
    let upgrading = request.headers().contains_key(UPGRADE);
    let client = upgrading.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let uri: Uri =
        to.path_and_query.parse().map_err(|_| Status::bad_request("the path cannot be passed on"))?;
    let mut onward = http::Request::new(if upgrading { Body::empty() } else { body });
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = uri;
    *onward.headers_mut() = onward_headers(&parts.headers, upgrading);
    if let Ok(host) = http::HeaderValue::from_str(&to.address.to_string()) {
        onward.headers_mut().insert(HOST, host);
    }
    let sent = call.server.node_client.send(to.scheme, to.address, onward).await;
    let mut answer = sent.map_err(|error| Status::internal(format!("error dialing backend: {error}")))?;
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (answer.status(), client) {
        let backend = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(backend)) = (client.await, backend.await) {
                // Either end closing ends the pipe; there is nobody left to tell.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(backend))
                    .await;
            }
        });
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    for hop in ["connection", "transfer-encoding", "keep-alive"] {
        parts.headers.remove(hop);
    }
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Credentials stay here; the node trusts the server, not its clients.
fn onward_headers(headers: &HeaderMap, upgrading: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let hop = name == CONNECTION || name == UPGRADE;
        if name == AUTHORIZATION
            || name == HOST
            || hop && !upgrading
            || name.as_str().starts_with("impersonate-")
        {
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    out
}
