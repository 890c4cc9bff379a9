//! `exec`, `attach`, `portforward` and `proxy`: forwarded to the node, pod or service. `log` has its own file.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use skep_api::{Status, find, meta};

use crate::admission::{self, Operation};
use crate::call::Call;
use crate::endpoints::{is_address_of_pod, ready_pods};
use crate::proxied_html::{Links, rewritten};
use crate::remote_address::{AddressNotAllowed, RemoteAddress};
use crate::request_info::Target;
use crate::reverse_proxy::{Destination, Security, forward, forwarded_headers};
use crate::state::Inner;

pub(super) async fn handle(server: &Inner, call: Call, request: Request) -> Result<Response, Status> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    if matches!(call.target.subresource.as_str(), "exec" | "attach" | "portforward")
        || runs_commands(&call.target)
    {
        // A WebSocket begins as a GET, which is authorised as `get`. It does what a POST does.
        server.storage.caches.authorizer().check(&call.attributes("create")).await?;
    }
    let is_proxy = call.target.subresource == "proxy";
    let (_, name, _) = if is_proxy { parts(&call.target)? } else { ("", call.target.name.as_str(), "") };
    let object = server.storage.latest(&call.target.kind, &call.target.namespace, name).await?;
    let object = object.value();
    if call.target.subresource != "log" {
        let (kind, mut options) = options(&call);
        admission::part(
            &server.writer.admission,
            &call,
            Operation::Connect,
            ("", "v1", kind),
            &mut options,
            None,
            false,
        )
        .await?;
    }
    let headers = forwarded_headers(&call.headers);
    if call.target.subresource == "log" {
        return super::log::handle(server, &call, &object, &query, headers, request).await;
    }
    if !is_proxy {
        let to = container(server, &call, &object, &query)?;
        let answered = forward(&server.dialer, to, headers, request).await;
        return answered.map_err(|error| Status::internal(format!("error dialing backend: {error}")));
    }
    if call.target.rest.is_empty() && matches!(call.method, Method::GET | Method::HEAD) {
        return Ok(moved(&joined(&format!("{}/", request.uri().path()), &query)));
    }
    let to = match &*call.target.kind.kind {
        "Node" => node(server, &call, &object, &query)?,
        "Service" => service(server, &call, &object, &query)?,
        _ => pod(server, &call, &object, &query)?,
    };
    let host = call.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let links = Links {
        hosts: vec![to.address.get().to_string(), host.to_owned()],
        prefix: prefix_of(request.uri().path(), &call.target.rest).to_owned(),
    };
    let answered = forward(&server.dialer, to, headers, request).await;
    let mut answer =
        answered.map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))?;
    relocate(answer.headers_mut(), &links);
    Ok(rewritten(answer, links))
}

/// Whether it is the node's kubelet API that is asked to run a command or to open a port.
fn runs_commands(target: &Target) -> bool {
    let first = target.rest.trim_start_matches('/').split('/').next();
    &*target.kind.kind == "Node" && matches!(first, Some("exec" | "attach" | "portForward" | "run"))
}

/// A redirection to the path with a slash, so that relative links of the proxied server work.
fn moved(location: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().extend(HeaderValue::from_str(location).ok().map(|value| (LOCATION, value)));
    response
}

/// The path up to and including `proxy`.
fn prefix_of<'a>(path: &'a str, rest: &str) -> &'a str {
    path.strip_suffix(rest).unwrap_or(path)
}

/// Rewrites a redirection within the proxied server, so that it stays below the proxy's path.
fn relocate(headers: &mut HeaderMap, links: &Links) {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let moved = location.and_then(|location| links.moved(location));
    if let Some(value) = moved.and_then(|moved| HeaderValue::from_str(&moved).ok()) {
        headers.insert(LOCATION, value);
    }
}

/// The options object of a connection, for admission.
fn options(call: &Call) -> (&'static str, Value) {
    let kind = match (call.target.subresource.as_str(), &*call.target.kind.kind) {
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

/// The kubelet's URL for a subresource of a pod.
pub(super) fn container(
    server: &Inner,
    call: &Call,
    pod: &Value,
    query: &str,
) -> Result<Destination, Status> {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    let node_name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node_name.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let node = node_named(server, node_name)?;
    if call.target.subresource == "portforward" {
        return kubelet(server, &node, &format!("/portForward/{namespace}/{name}"), query);
    }
    let container = chosen(call, pod)?;
    let (path, query) = match call.target.subresource.as_str() {
        "log" => (format!("/containerLogs/{namespace}/{name}/{container}"), query.to_owned()),
        part => (format!("/{part}/{namespace}/{name}/{container}"), kubelet_query(query)),
    };
    kubelet(server, &node, &path, &query)
}

/// The container in the query, or the only one.
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

pub(crate) fn node_named(server: &Inner, name: &str) -> Result<Value, Status> {
    let kind = find("", "v1", "nodes").ok_or_else(Status::no_such_path)?;
    server.storage.caches.get_or_404(kind, "", name).map(|node| node.value())
}

/// The address of a node's kubelet.
fn address_of(node: &Value) -> Option<SocketAddr> {
    let mut addresses = node["status"]["addresses"].as_array()?.iter();
    let ip = addresses.find(|address| address["type"] == "InternalIP")?["address"].as_str()?.parse().ok()?;
    let port = u16::try_from(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

/// The kubelet of the node, at a path of its API.
pub(crate) fn kubelet(server: &Inner, node: &Value, path: &str, query: &str) -> Result<Destination, Status> {
    let name = meta::name(node);
    let address = address_of(node).ok_or_else(|| {
        Status::unavailable(format!("no preferred addresses found; known addresses of node {name}: none"))
    })?;
    let address = allowed(server, address)?.of_node(name);
    Ok(Destination {
        security: Security::of_address(server.credentials.peers().nodes.clone(), &address),
        address,
        path_and_query: joined(path, query),
    })
}

/// A path at the kubelet of a node.
pub(crate) fn kubelet_of(server: &Inner, node: &str, path: &str, query: &str) -> Result<Destination, Status> {
    kubelet(server, &node_named(server, node)?, path, query)
}

/// The address of a node, as its own report has it: never this server's, nor a Service's, which may lead to this server.
fn allowed(server: &Inner, address: SocketAddr) -> Result<RemoteAddress, Status> {
    let is_service = server.config.services.cidrs.iter().any(|cidr| cidr.contains(address.ip()));
    if is_service || address == server.config.advertise {
        return Err(not_allowed(AddressNotAllowed));
    }
    RemoteAddress::new(address).map_err(not_allowed)
}

fn not_allowed(error: AddressNotAllowed) -> Status {
    Status::bad_request(error.to_string())
}

/// The kubelet, or another port of its node.
fn node(server: &Inner, call: &Call, node: &Value, query: &str) -> Result<Destination, Status> {
    let (scheme, _, port) = parts(&call.target)?;
    let to = kubelet(server, node, path(call), query)?;
    match port.parse() {
        Ok(port) if port != to.address.get().port() => {
            let address = allowed(server, SocketAddr::new(to.address.get().ip(), port))?;
            let address = address.of_node(meta::name(node));
            Ok(unverified(server, call, scheme, address, query))
        }
        Err(_) if !port.is_empty() => {
            Err(Status::bad_request(format!("invalid node request \"{}\"", call.target.name)))
        }
        _ => Ok(to),
    }
}

/// A pod or service; its certificate is not verified.
fn unverified(server: &Inner, call: &Call, scheme: &str, address: RemoteAddress, query: &str) -> Destination {
    let security = match scheme {
        "https" => Security::of_address(server.credentials.peers().unverified.clone(), &address),
        _ => Security::Plain,
    };
    Destination { security, address, path_and_query: joined(path(call), query) }
}

/// The path after `proxy`.
fn path(call: &Call) -> &str {
    if call.target.rest.is_empty() { "/" } else { &call.target.rest }
}

fn joined(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Splits the name of a proxied object: `name`, `name:port` or `scheme:name:port`.
fn parts(target: &Target) -> Result<(&str, &str, &str), Status> {
    let parts: Vec<&str> = target.name.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(("", *name, "")),
        [name, port] if !name.is_empty() => Ok(("", *name, *port)),
        [scheme @ ("" | "http" | "https"), name, port] if !name.is_empty() => Ok((*scheme, *name, *port)),
        _ => {
            let kind = &*target.kind.singular;
            Err(Status::bad_request(format!("invalid {kind} request \"{}\"", target.name)))
        }
    }
}

fn pod(server: &Inner, call: &Call, pod: &Value, query: &str) -> Result<Destination, Status> {
    let (scheme, name, port) = parts(&call.target)?;
    let mut containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut first = || containers.find_map(|c| u16::try_from(c["ports"][0]["containerPort"].as_u64()?).ok());
    let port = match port {
        "" => first().unwrap_or(if scheme == "https" { 443 } else { 80 }),
        port => port
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid pod request \"{}\"", call.target.name)))?,
    };
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip =
        ip.ok_or_else(|| Status::bad_request(format!("address not allowed: pod {name} has no address")))?;
    if !is_address_of_pod(&server.storage.caches, pod, ip) {
        return Err(not_allowed(AddressNotAllowed));
    }
    let address = RemoteAddress::new(SocketAddr::new(ip, port)).map_err(not_allowed)?;
    let address = address.of_node(pod["spec"]["nodeName"].as_str().unwrap_or_default());
    Ok(unverified(server, call, scheme, address, query))
}

/// A ready endpoint of the named port of a service.
fn service(server: &Inner, call: &Call, service: &Value, query: &str) -> Result<Destination, Status> {
    let (scheme, name, wanted) = parts(&call.target)?;
    let numbers = || service["spec"]["ports"].as_array().into_iter().flatten().map(|port| &port["port"]);
    if let Ok(number) = wanted.parse::<u64>()
        && !numbers().any(|port| port.as_u64() == Some(number))
    {
        let why = format!("no service port {number} found for service \"{name}\"");
        return Err(Status::unavailable(why));
    }
    let found = ready_pods(&server.storage.caches, service, wanted).into_iter().next();
    let address =
        found.ok_or_else(|| Status::unavailable(format!("no endpoints available for service \"{name}\"")))?;
    Ok(unverified(server, call, scheme, address, query))
}

#[cfg(test)]
mod tests {
    use skep_api::KindRef;

    use super::*;

    #[test]
    fn a_proxied_name_may_have_a_scheme_and_a_port() {
        let target = |name: &str| Target {
            name: name.to_owned(),
            ..Target::collection(KindRef::from(find("", "v1", "services").unwrap()))
        };
        for (name, wanted) in [
            ("web", Some(("", "web", ""))),
            ("web:http", Some(("", "web", "http"))),
            ("https:web:443", Some(("https", "web", "443"))),
            (":web:", Some(("", "web", ""))),
            ("ftp:web:21", None),
            ("a:b:c:d", None),
            (":80", None),
        ] {
            assert_eq!(parts(&target(name)).ok(), wanted, "{name}");
        }
        assert_eq!(parts(&target("a:b:c:d")).unwrap_err().message, "invalid service request \"a:b:c:d\"");
    }

    #[test]
    fn redirections_stay_below_the_proxy() {
        for (location, wanted) in [
            ("/x?y", "/p/proxy/x?y"),
            ("http://10.0.0.1:80/x", "/p/proxy/x"),
            ("http://other/x", "http://other/x"),
            ("//other/x", "//other/x"),
            ("/p/proxy/x", "/p/proxy/x"),
            ("x", "x"),
        ] {
            let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            let links = Links { hosts: vec!["10.0.0.1:80".into()], prefix: "/p/proxy".into() };
            relocate(&mut headers, &links);
            assert_eq!(headers[LOCATION], wanted, "{location}");
        }
        assert_eq!(prefix_of("/p/proxy/a/b", "/a/b"), "/p/proxy");
    }
}
