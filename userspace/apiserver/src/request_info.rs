//! What a request asks for, by its path alone: of kinds too that this server does not know. PURE.

use http::{Method, Uri};

/// Empty fields: the request is for no resource, or not for one of that sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo<'a> {
    pub(crate) path: &'a str,
    pub(crate) verb: &'static str,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}

/// Parts of a namespace itself; all else behind one's name is a resource in it.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

impl<'a> RequestInfo<'a> {
    pub(crate) fn parse(method: &Method, uri: &'a Uri) -> RequestInfo<'a> {
        let path = uri.path();
        let mut info = RequestInfo { path, verb: method_verb(method), ..RequestInfo::default() };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = version;
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                (info.group, info.version) = (group, version);
                rest
            }
            _ => return info,
        };
        let (resource, rest) = match rest {
            ["namespaces", namespace, resource, more @ ..] if !OF_NAMESPACES.contains(resource) => {
                info.namespace = namespace;
                (*resource, more)
            }
            ["namespaces", more @ ..] => {
                info.namespace = more.first().copied().unwrap_or_default();
                ("namespaces", more)
            }
            [resource, more @ ..] => (*resource, more),
            [] => return info,
        };
        info.resource = resource;
        info.name = rest.first().copied().unwrap_or_default();
        info.subresource = rest.get(1).copied().unwrap_or_default();
        info.verb = resource_verb(method, uri, info.name.is_empty());
        info
    }

    /// As policies name it: with its subresource.
    pub(crate) fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Of a path that is no resource: the method.
fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

fn resource_verb(method: &Method, uri: &Uri, collection: bool) -> &'static str {
    let watching =
        || uri.query().unwrap_or_default().split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"));
    match *method {
        Method::GET | Method::HEAD if collection && watching() => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::DELETE if collection => "deletecollection",
        _ => method_verb(method),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_say_what_is_asked_for() {
        for (method, uri, wanted) in [
            (Method::GET, "/api/v1/pods", "list v1  pods  "),
            (Method::GET, "/api/v1/pods?x=1&watch=1", "watch v1  pods  "),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "get v1 a pods b log"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 a deployments  "),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection v1 a pods  "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update v1 a namespaces a finalize"),
            (Method::PATCH, "/api/v1/namespaces/a", "patch v1 a namespaces a "),
            (Method::GET, "/api/v1/namespaces", "list v1  namespaces  "),
            (Method::GET, "/apis/example.com/v1/things/x", "get example.com/v1  things x "),
            (Method::GET, "/apis/apps/v1", "get     "),
            (Method::POST, "/healthz", "post     "),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let info = RequestInfo::parse(&method, &uri);
            let version = [info.group, info.version].into_iter().filter(|part| !part.is_empty());
            let version = version.collect::<Vec<_>>().join("/");
            let shown =
                [info.verb, &version, info.namespace, info.resource, info.name, info.subresource].join(" ");
            assert_eq!(shown, wanted, "{uri}");
        }
    }
}
