//! Annotations that become parts of rules.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::source::{Note, Source};
use crate::ingress::annotations::{PREFIX, Support, is_lock, support};

/// Handled where routes are made.
const ELSEWHERE: [&str; 13] = [
    "canary",
    "ssl-redirect",
    "force-ssl-redirect",
    "permanent-redirect",
    "permanent-redirect-code",
    "temporal-redirect",
    "temporal-redirect-code",
    "app-root",
    "server-alias",
    "from-to-www-redirect",
    "ssl-passthrough",
    "load-balance",
    "affinity-canary-behavior",
];

/// What annotations add to each rule of an Ingress.
#[derive(Default)]
pub(super) struct Additions {
    pub(super) filters: Vec<Value>,
    pub(super) session: Option<Value>,
}

impl Additions {
    /// With notes of what is lost. `None`: a lock is lost.
    pub(super) fn of(source: &Source<'_>, allow_open: bool, notes: &mut BTreeSet<Note>) -> Option<Additions> {
        let mut found = Additions::default();
        let (mut handled, mut is_open) = (BTreeSet::from(ELSEWHERE), false);
        handled.extend(found.rewrites(source));
        handled.extend(found.headers(source));
        handled.extend(found.cors(source));
        handled.extend(found.mirror(source));
        handled.extend(found.sessions(source));
        let rest = source.annotations.keys().filter(|name| !handled.contains(**name));
        for name in rest {
            // What is so anyway is so here too.
            if support(&format!("{PREFIX}{name}")).is_some_and(|(found, _)| found == Support::Implied) {
                continue;
            }
            let is_lost_lock = is_lock(name);
            is_open |= is_lost_lock;
            notes.insert(source.lost(match (is_lost_lock, allow_open) {
                (false, _) => format!("{name} has no counterpart"),
                (true, true) => format!("{name} has no counterpart: its routes are open"),
                (true, false) => {
                    format!("{name} has no counterpart: its routes would be open, and are left out")
                }
            }));
        }
        (allow_open || !is_open).then_some(found)
    }

    fn rewrites(&mut self, source: &Source<'_>) -> Vec<&'static str> {
        let mut handled = Vec::new();
        let mut rewrite = json!({});
        if let Some(target) = plain(source, "rewrite-target") {
            rewrite["path"] = json!({"type": "ReplaceFullPath", "replaceFullPath": target});
            handled.push("rewrite-target");
        }
        if let Some(host) = plain(source, "upstream-vhost") {
            rewrite["hostname"] = json!(host);
            handled.push("upstream-vhost");
        }
        if rewrite != json!({}) {
            self.filters.push(json!({"type": "URLRewrite", "urlRewrite": rewrite}));
        }
        handled
    }

    fn headers(&mut self, source: &Source<'_>) -> Option<&'static str> {
        let prefix = plain(source, "x-forwarded-prefix")?;
        let set = json!([{"name": "X-Forwarded-Prefix", "value": prefix}]);
        self.filters.push(json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set}}));
        Some("x-forwarded-prefix")
    }

    fn cors(&mut self, source: &Source<'_>) -> Vec<&'static str> {
        const NAMES: [&str; 7] = [
            "enable-cors",
            "cors-allow-origin",
            "cors-allow-methods",
            "cors-allow-headers",
            "cors-expose-headers",
            "cors-allow-credentials",
            "cors-max-age",
        ];
        if !source.is("enable-cors") {
            return NAMES.to_vec();
        }
        let list = |name: &str, usual: &str| -> Vec<String> {
            let text = source.annotations.get(name).copied().unwrap_or(usual);
            text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
        };
        let max_age = source.annotations.get("cors-max-age").and_then(|text| text.parse::<u32>().ok());
        let credentials =
            source.annotations.get("cors-allow-credentials").is_none_or(|text| *text != "false");
        let cors = json!({
            "allowOrigins": list("cors-allow-origin", "*"),
            "allowMethods": list("cors-allow-methods", "GET, PUT, POST, DELETE, PATCH, OPTIONS"),
            "allowHeaders": list("cors-allow-headers", "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"),
            "exposeHeaders": list("cors-expose-headers", ""),
            "allowCredentials": credentials,
            "maxAge": max_age.unwrap_or(1_728_000),
        });
        self.filters.push(json!({"type": "CORS", "cors": cors}));
        NAMES.to_vec()
    }

    /// `http://SERVICE.NAMESPACE.svc:PORT$request_uri`.
    fn mirror(&mut self, source: &Source<'_>) -> Vec<&'static str> {
        let Some(backend) = source.annotations.get("mirror-target").and_then(|target| {
            let target = target.strip_prefix("http://")?.strip_suffix("$request_uri")?;
            let (host, port) = target.split_once(':').unwrap_or((target, "80"));
            let mut labels = host.split('.');
            let (name, namespace) = (labels.next()?, labels.next().unwrap_or(source.namespace));
            let port: u16 = port.parse().ok()?;
            (namespace == source.namespace).then(|| json!({"name": name, "port": port}))
        }) else {
            return Vec::new();
        };
        self.filters.push(json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}}));
        vec!["mirror-target", "mirror-request-body"]
    }

    fn sessions(&mut self, source: &Source<'_>) -> Vec<&'static str> {
        if source.annotations.get("affinity") != Some(&"cookie") {
            return Vec::new();
        }
        let name = source.annotations.get("session-cookie-name").copied().unwrap_or("INGRESSCOOKIE");
        let mut session = json!({"type": "Cookie", "sessionName": name});
        let seconds = ["session-cookie-max-age", "session-cookie-expires"].into_iter();
        let seconds = seconds.filter_map(|name| source.annotations.get(name)?.parse::<u32>().ok()).next();
        if let Some(seconds) = seconds {
            session["absoluteTimeout"] = json!(format!("{seconds}s"));
            session["cookieConfig"] = json!({"lifetimeType": "Permanent"});
        }
        self.session = Some(session);
        vec![
            "affinity",
            "affinity-mode",
            "session-cookie-name",
            "session-cookie-max-age",
            "session-cookie-expires",
        ]
    }
}

/// The value of an annotation without variables.
fn plain<'a>(source: &Source<'a>, name: &str) -> Option<&'a str> {
    source.annotations.get(name).copied().filter(|value| !value.contains('$') && !value.is_empty())
}
