//! A request's path and method to what it asks for. Pure.

use http::Method;
use skep_api::{KindRef, Registry};

use crate::query::percent_decode;

/// What a path names.
#[derive(Debug)]
pub(crate) enum Route {
    Resource(Target),
    /// Anything that is no resource: `/healthz`, `/api`, `/apis/apps`, `/openapi/v3`.
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: KindRef,
    /// Empty for all namespaces or a cluster-wide kind.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows `proxy`, as it stands in the path.
    pub(crate) rest: String,
}

impl Target {
    /// All objects of a kind.
    pub(crate) fn collection(kind: KindRef) -> Target {
        let none = String::new;
        Target { kind, namespace: none(), name: none(), subresource: none(), rest: none() }
    }
}

pub(crate) fn route(registry: &Registry, path: &str) -> Route {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let (group, version) = match parts.next() {
        Some("api") => ("", parts.next()),
        Some("apis") => match (parts.next(), parts.next()) {
            (Some(group), version) => (group, version),
            _ => return Route::Other,
        },
        _ => return Route::Other,
    };
    let Some(version) = version else { return Route::Other };
    let parts: Vec<&str> = parts.collect();
    let found = target(registry, group, version, &parts).and_then(|mut target| {
        if target.subresource == "proxy" {
            let namespace = if target.namespace.is_empty() { 0 } else { 2 };
            target.rest = behind(path, if group.is_empty() { 5 } else { 6 } + namespace).to_owned();
        }
        if path.contains('%') {
            target.name = decoded(&target.name)?;
            target.namespace = decoded(&target.namespace)?;
        }
        Some(target)
    });
    found.map_or(Route::Other, Route::Resource)
}

/// A part of a path, of which none may turn out to be several.
fn decoded(part: &str) -> Option<String> {
    Some(percent_decode(part, false)).filter(|decoded| !decoded.contains('/'))
}

/// What follows so many parts of a path.
fn behind(path: &str, parts: usize) -> &str {
    let mut rest = path;
    for _ in 0..parts {
        rest = rest.trim_start_matches('/');
        rest = &rest[rest.find('/').unwrap_or(rest.len())..];
    }
    rest
}

fn target(registry: &Registry, group: &str, version: &str, parts: &[&str]) -> Option<Target> {
    let find = |plural: &str| registry.find(group, version, plural);
    // `namespaces/x/pods` is pods in x, but `namespaces/x/status` is a part of the namespace itself.
    let (kind, namespace, rest) = match parts {
        ["namespaces", namespace, plural, rest @ ..]
            if find(plural).is_some_and(|kind| kind.namespaced()) =>
        {
            (find(plural)?, *namespace, rest)
        }
        [plural, rest @ ..] => (find(plural)?, "", rest),
        [] => return None,
    };
    // A namespaced object cannot be named without its namespace.
    if kind.namespaced() && namespace.is_empty() && !rest.is_empty() {
        return None;
    }
    let (name, subresource) = match rest {
        [] => ("", ""),
        [name] => (*name, ""),
        [name, subresource, ..] => {
            let known = kind.subresources.contains(subresource);
            if !known || rest.len() > 2 && *subresource != "proxy" {
                return None;
            }
            (*name, *subresource)
        }
    };
    Some(Target {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        rest: String::new(),
    })
}

/// The verb that policies name.
pub(crate) fn verb(method: &Method, target: &Target, watching: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if target.name.is_empty() && watching => "watch",
        Method::GET | Method::HEAD if target.name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        match route(&Registry::with(Vec::new()), path) {
            Route::Other => "other".to_owned(),
            Route::Resource(t) => [&*t.kind.plural, &t.namespace, &t.name, &t.subresource, &t.rest].join("|"),
        }
    }

    #[test]
    fn paths_lead_to_their_targets() {
        for (path, wanted) in [
            ("/api/v1/pods", "pods||||"),
            ("/api/v1/namespaces/a/pods/b/log", "pods|a|b|log|"),
            ("/api/v1/namespaces/a", "namespaces||a||"),
            ("/api/v1/namespaces/a/finalize", "namespaces||a|finalize|"),
            ("/apis/apps/v1/namespaces/a/deployments/b/scale", "deployments|a|b|scale|"),
            ("/api/v1/nodes/n/proxy/x/y", "nodes||n|proxy|/x/y"),
            ("/api/v1/namespaces/proxy/pods/proxy:80/proxy//%2Fx/", "pods|proxy|proxy:80|proxy|//%2Fx/"),
            ("/api/v1/nodes/n/proxy", "nodes||n|proxy|"),
            ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "clusterroles||system:node||"),
            ("/api/v1/nodes/a%2Fb", "other"),
            ("/api/v1/pods/b", "other"),
            ("/apis/apps/v1/nonsense", "other"),
            ("/apis/apps/v1", "other"),
            ("/healthz", "other"),
            ("/api/v1/namespaces/a/pods/b/nonsense", "other"),
        ] {
            assert_eq!(shown(path), wanted, "{path}");
        }
    }
}
