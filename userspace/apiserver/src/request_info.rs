//! The request that a path and a method stand for. PURE.
//!
//! A path is parsed and percent-decoded once, here: routing, authorisation, audit and metrics all read the result.

use std::borrow::Cow;

use http::Method;
use skep_api::{KindRef, Registry, flow_log};

use crate::authz::Attributes;
use crate::identity::Identity;
use crate::query::percent_decode;

/// Upstream's RequestInfo: names of the path, whether this server knows them, another server does, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo<'a> {
    /// The whole path, decoded.
    pub(crate) path: Cow<'a, str>,
    /// `list`, `watch`, `create`, ... for a resource; else the method in lower case.
    pub(crate) verb: Cow<'static, str>,
    /// Of a resource or of a discovery path below `/apis`. Empty for the core group.
    pub(crate) group: Cow<'a, str>,
    pub(crate) version: Cow<'a, str>,
    /// A Namespace is in the namespace of its own name.
    pub(crate) namespace: Cow<'a, str>,
    /// The plural name; empty if the request is not for a resource, and then so are the fields below.
    pub(crate) resource: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    pub(crate) subresource: Cow<'a, str>,
    /// The path after the subresource. Not decoded: only a proxied server knows what it means.
    pub(crate) rest: &'a str,
}

const WATCH: &str = "watch";
/// Subresources of a Namespace. Any other name after a namespace is a resource in it.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

impl<'a> RequestInfo<'a> {
    /// `watching`: whether the query asks for a watch.
    pub(crate) fn parse(method: &Method, path: &'a str, watching: bool) -> RequestInfo<'a> {
        // No name contains a slash: with an encoded one, the path is not for a resource.
        let mut info = RequestInfo::parse_resource(method, path).unwrap_or_default();
        info.path = decode(path);
        info.verb = match info.resource.is_empty() {
            true => method_verb(method),
            false if info.verb == WATCH => WATCH.into(),
            false => resource_verb(method, info.name.is_empty(), watching).into(),
        };
        info
    }

    /// Everything but path and verb. The verb is `watch` if the path says so, as those of clients before 1.11 do.
    fn parse_resource(method: &Method, path: &'a str) -> Result<RequestInfo<'a>, EncodedSlash> {
        let (mut segments, mut info) = (Segments(path), RequestInfo::default());
        match &*segments.next()? {
            "api" => {}
            "apis" => info.group = segments.next()?,
            _ => return Ok(info),
        }
        info.version = segments.next()?;
        let mut first = segments.next()?;
        if first == WATCH && method == Method::GET {
            info.verb = WATCH.into();
            first = segments.next()?;
        }
        let (second, third) = (segments.next()?, segments.next()?);
        if first != "namespaces" {
            (info.resource, info.name, info.subresource) = (first, second, third);
        } else if third.is_empty() || OF_NAMESPACES.contains(&&*third) {
            info.namespace = second.clone();
            (info.resource, info.name, info.subresource) = (first, second, third);
        } else {
            (info.namespace, info.resource) = (second, third);
            (info.name, info.subresource) = (segments.next()?, segments.next()?);
        }
        info.rest = segments.0;
        Ok(info)
    }

    /// The attributes under which the request is authorised.
    pub(crate) fn attributes(&'a self, identity: &'a Identity) -> Attributes<'a> {
        let is_resource = !self.resource.is_empty();
        Attributes {
            verb: &self.verb,
            group: if is_resource { &self.group } else { "" },
            version: if is_resource { &self.version } else { "" },
            resource: &self.resource,
            subresource: &self.subresource,
            name: &self.name,
            namespace: &self.namespace,
            path: if is_resource { "" } else { &self.path },
            ..Attributes::of(identity)
        }
    }

    /// Whether the client decides how long the request stays open, as upstream decides it; a flow log is read as long as it likes.
    pub(crate) fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || self.group == flow_log::GROUP
            || matches!(&*self.subresource, "exec" | "attach" | "portforward" | "proxy" | "log")
    }

    /// The request as one for its path, if the server has no such resource.
    pub(crate) fn without_resource(&self, method: &Method) -> RequestInfo<'_> {
        RequestInfo { path: (*self.path).into(), verb: method_verb(method), ..RequestInfo::default() }
    }

    /// As audit policies name it: with its subresource.
    pub(crate) fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// A percent-encoded slash in a segment of a path.
#[derive(Debug)]
struct EncodedSlash;

/// The rest of a path.
struct Segments<'a>(&'a str);

impl<'a> Segments<'a> {
    /// The next segment, decoded; empty at the end of the path.
    fn next(&mut self) -> Result<Cow<'a, str>, EncodedSlash> {
        let path = self.0.trim_start_matches('/');
        let (segment, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        if !segment.is_empty() {
            self.0 = rest;
        }
        let decoded = decode(segment);
        if decoded.contains('/') { Err(EncodedSlash) } else { Ok(decoded) }
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if text.contains('%') { percent_decode(text, false).into() } else { text.into() }
}

fn method_verb(method: &Method) -> Cow<'static, str> {
    match *method {
        Method::GET => "get".into(),
        Method::HEAD => "head".into(),
        Method::POST => "post".into(),
        Method::PUT => "put".into(),
        Method::PATCH => "patch".into(),
        Method::DELETE => "delete".into(),
        _ => method.as_str().to_lowercase().into(),
    }
}

fn resource_verb(method: &Method, is_collection: bool, watching: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if is_collection && watching => "watch",
        Method::GET | Method::HEAD if is_collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if is_collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// A resource of this server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: KindRef,
    /// Empty for all namespaces or a cluster-wide kind.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows `proxy`, not decoded.
    pub(crate) rest: String,
}

impl Target {
    /// All objects of a kind.
    pub(crate) fn collection(kind: KindRef) -> Target {
        let none = String::new;
        Target { kind, namespace: none(), name: none(), subresource: none(), rest: none() }
    }

    /// The target of a request; `None` if this server has no such resource.
    pub(crate) fn of(registry: &Registry, info: &RequestInfo<'_>) -> Option<Target> {
        let kind = registry.find(&info.group, &info.version, &info.resource)?;
        let is_namespace = info.resource == "namespaces";
        let is_placed = match kind.namespaced() {
            // A namespaced object cannot be named without its namespace.
            true => !info.namespace.is_empty() || info.name.is_empty(),
            false => info.namespace.is_empty() || is_namespace,
        };
        let has_subresource = !info.subresource.is_empty();
        let is_proxy = info.subresource == "proxy";
        let is_known = !has_subresource || kind.subresources.contains(&&*info.subresource);
        let has_more = info.rest.contains(|c| c != '/');
        if !is_placed || !is_known || has_more && !is_proxy {
            return None;
        }
        let namespace = if kind.namespaced() { info.namespace.to_string() } else { String::new() };
        Some(Target {
            kind,
            namespace,
            name: info.name.to_string(),
            subresource: info.subresource.to_string(),
            rest: if is_proxy { info.rest.to_owned() } else { String::new() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(info: &RequestInfo<'_>) -> String {
        let version = [&*info.group, &*info.version];
        let version = version.into_iter().filter(|part| !part.is_empty() && !info.resource.is_empty());
        let version = version.collect::<Vec<_>>().join("/");
        [&info.verb, &*version, &info.namespace, &info.resource, &info.name, &info.subresource].join(" ")
    }

    #[test]
    fn paths_and_methods_say_what_is_asked_for() {
        for (method, path, watching, wanted) in [
            (Method::GET, "/api/v1/pods", false, "list v1  pods  "),
            (Method::GET, "/api/v1/pods", true, "watch v1  pods  "),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", false, "get v1 a pods b log"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", false, "create apps/v1 a deployments  "),
            (Method::DELETE, "/api/v1/namespaces/a/pods", false, "deletecollection v1 a pods  "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", false, "update v1 a namespaces a finalize"),
            (Method::PATCH, "/api/v1/namespaces/a", false, "patch v1 a namespaces a "),
            (Method::GET, "/api/v1/namespaces", false, "list v1  namespaces  "),
            (Method::GET, "/apis/example.com/v1/things/x", false, "get example.com/v1  things x "),
            (Method::GET, "/apis/apps/v1", false, "get     "),
            (Method::GET, "/api/v1/watch/pods", false, "watch v1  pods  "),
            (
                Method::GET,
                "/apis/apps/v1/watch/namespaces/a/deployments/b",
                false,
                "watch apps/v1 a deployments b ",
            ),
            (Method::GET, "/api/v1/watch/namespaces", false, "watch v1  namespaces  "),
            (Method::POST, "/api/v1/watch/pods", false, "create v1  watch pods "),
            (Method::POST, "/healthz", false, "post     "),
        ] {
            assert_eq!(shown(&RequestInfo::parse(&method, path, watching)), wanted, "{path}");
        }
    }

    fn target(path: &str) -> Option<Target> {
        Target::of(&Registry::with(Vec::new()), &RequestInfo::parse(&Method::GET, path, false))
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
            ("/api/v1/namespaces/a/pods/b/log/c", "other"),
            ("/api/v1/namespaces/a/nodes/b", "other"),
            ("//api/v1//pods/", "pods||||"),
        ] {
            let shown = target(path).map_or("other".to_owned(), |t| {
                [&*t.kind.plural, &t.namespace, &t.name, &t.subresource, &t.rest].join("|")
            });
            assert_eq!(shown, wanted, "{path}");
        }
    }

    #[test]
    fn an_encoded_path_means_the_same_to_every_part() {
        let identity = Identity::new("jane", &[]);
        for (encoded, plain) in [
            ("/api/v1/nodes/a%2Db", "/api/v1/nodes/a-b"),
            ("/api/v1/namespaces/team%2da/pods/b", "/api/v1/namespaces/team-a/pods/b"),
            ("/api/v1/namespaces/a/p%6Fds/b/l%6fg", "/api/v1/namespaces/a/pods/b/log"),
            ("/api/v1/n%61mespaces/a/secrets", "/api/v1/namespaces/a/secrets"),
            ("/%61pis/%61pps/v%31/namespaces/a/deployments", "/apis/apps/v1/namespaces/a/deployments"),
            ("/apis/example.com/v1/things/a%2Db", "/apis/example.com/v1/things/a-b"),
            ("/api/v1/nodes/a%252Db", "/api/v1/nodes/a%252Db"),
            ("/health%7A", "/healthz"),
        ] {
            let parse = |path| RequestInfo::parse(&Method::GET, path, false);
            let (info, expected) = (parse(encoded), parse(plain));
            assert_eq!(info, expected, "{encoded}");
            let attributes = info.attributes(&identity);
            match target(encoded) {
                Some(target) => {
                    let routed = Attributes::resource(&identity, "", &target);
                    assert_eq!(Attributes { verb: "", ..attributes }, routed, "{encoded}");
                }
                None => assert!(target(plain).is_none(), "{encoded}"),
            }
        }
    }

    #[test]
    fn an_encoded_slash_names_no_resource() {
        for path in [
            "/api/v1/nodes/a%2Fstatus",
            "/apis/example.com/v1%2Fthings/x",
            "/apis/example.com/v1/things/a%2fb",
        ] {
            let info = RequestInfo::parse(&Method::GET, path, false);
            assert!(info.resource.is_empty() && info.group.is_empty() && target(path).is_none(), "{path}");
            assert_eq!(info.path, path.replace("%2F", "/").replace("%2f", "/"));
        }
    }
}
