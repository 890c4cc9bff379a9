//! PURE. Which permission on the Node a request needs.

use http::Method;

/// A verb on subresources of the Node; one of them suffices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) verb: &'static str,
    /// The narrowest first.
    pub(crate) subresources: &'static [&'static str],
}

impl Permission {
    pub(crate) fn of(method: &Method, path: &str) -> Permission {
        let (subresources, runs): (&'static [&'static str], bool) =
            match path.trim_start_matches('/').split('/').next() {
                Some("stats") => (&["stats"], false),
                Some("metrics") => (&["metrics"], false),
                Some("logs") => (&["log"], false),
                Some("checkpoint") => (&["checkpoint"], false),
                Some("pods" | "runningpods") => (&["pods", "proxy"], false),
                Some("healthz") => (&["healthz", "proxy"], false),
                Some("configz") => (&["configz", "proxy"], false),
                Some("exec" | "attach" | "portForward" | "run") => (&["proxy"], true),
                _ => (&["proxy"], false),
            };
        // A WebSocket begins as a GET, and does what a POST does: reading is no permission to run commands.
        let verb = if runs { "create" } else { verb(method) };
        Permission { verb, subresources }
    }
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_the_subresource_of_upstreams_kubelet_and_commands_need_create() {
        for (method, path, verb, subresources) in [
            ("GET", "/metrics", "get", "metrics"),
            ("GET", "/metrics/cadvisor", "get", "metrics"),
            ("GET", "/metricsandmore", "get", "proxy"),
            ("GET", "/stats/summary", "get", "stats"),
            ("GET", "/logs/", "get", "log"),
            ("POST", "/checkpoint/ns/pod/main", "create", "checkpoint"),
            ("GET", "/pods", "get", "pods proxy"),
            ("GET", "/runningpods/", "get", "pods proxy"),
            ("GET", "/healthz/ping", "get", "healthz proxy"),
            ("GET", "/configz", "get", "configz proxy"),
            ("GET", "/containerLogs/ns/pod/main", "get", "proxy"),
            ("GET", "/exec/ns/pod/main", "create", "proxy"),
            ("GET", "/run/ns/pod/main", "create", "proxy"),
            ("POST", "/exec/ns/pod/main", "create", "proxy"),
            ("GET", "/attach/ns/pod/main", "create", "proxy"),
            ("GET", "/portForward/ns/pod", "create", "proxy"),
            ("GET", "//exec/ns/pod/main", "create", "proxy"),
            ("DELETE", "/flows", "delete", "proxy"),
        ] {
            let found = Permission::of(&Method::from_bytes(method.as_bytes()).expect("a method"), path);
            assert_eq!((found.verb, found.subresources.join(" ").as_str()), (verb, subresources), "{path}");
        }
    }
}
