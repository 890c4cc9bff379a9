//! The routes of an Ingress: one for each of its hosts, and those that redirect.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::annotations::Additions;
use super::canaries::Canaries;
use super::gateways::Gateways;
use super::rules::{backend_ref, prefix, rule, rules_of};
use super::source::{GROUP, Note, Ports, Source, slug};

/// The class whose Ingresses with TLS redirect to it unless they say otherwise.
const NGINX: &str = "nginx";
/// What Ingresses are added to.
pub(super) struct Conversion<'c, 'g> {
    pub(super) ports: &'c Ports,
    pub(super) canaries: &'c Canaries,
    pub(super) gateways: &'c mut Gateways<'g>,
    pub(super) routes: &'c mut Vec<Value>,
    pub(super) notes: &'c mut BTreeSet<Note>,
}

impl Conversion<'_, '_> {
    /// `allow_open`: also if an annotation that keeps requests out is lost.
    pub(super) fn add(&mut self, source: &Source<'_>, allow_open: bool) {
        let Some(additions) = Additions::of(source, allow_open, self.notes) else { return };
        let mut hosts: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (host, path) in rules_of(source) {
            let Some(mut rule) = rule(source, path, self.ports, self.notes) else { continue };
            let text = path.path.as_deref().unwrap_or("/");
            let by_header = self.canaries.apply(source, host, text, &mut rule);
            let rules = hosts.entry(host).or_default();
            rules.extend(by_header.into_iter().chain([rule]).map(|rule| additions.add(rule)));
        }
        let default = source.ingress.spec.as_ref().and_then(|spec| spec.default_backend.as_ref());
        if let Some(backend) =
            default.and_then(|backend| backend_ref(source, backend, self.ports, self.notes))
        {
            let rule = json!({"matches": [prefix("/")], "backendRefs": [backend]});
            hosts.entry("").or_default().push(additions.add(rule));
        }
        let Conversion { gateways, routes, notes, .. } = self;
        let mut builder = Builder { source, is_lone: hosts.len() == 1, gateways, routes };
        for (host, rules) in hosts {
            builder.host(host, rules, notes);
        }
    }
}

impl Additions {
    fn add(&self, mut rule: Value) -> Value {
        if !self.filters.is_empty() {
            rule["filters"] = json!(self.filters);
        }
        if let Some(session) = &self.session {
            rule["sessionPersistence"] = session.clone();
        }
        rule
    }
}

struct Builder<'b, 'a, 'g> {
    source: &'b Source<'a>,
    /// The Ingress has one host.
    is_lone: bool,
    gateways: &'b mut Gateways<'g>,
    routes: &'b mut Vec<Value>,
}

impl Builder<'_, '_, '_> {
    fn host(&mut self, host: &str, mut rules: Vec<Value>, notes: &mut BTreeSet<Note>) {
        let source = self.source;
        if host.starts_with("*.") {
            notes.insert(
                source.note(format!(
                    "{host} stands for any number of labels in a route, for one in an Ingress"
                )),
            );
        }
        if source.is("ssl-passthrough") {
            return self.passthrough(host, &rules);
        }
        match redirect(source) {
            Some(Ok(filter)) => {
                for rule in &mut rules {
                    *rule = json!({"matches": rule["matches"], "filters": [filter]});
                }
            }
            Some(Err(note)) => drop(notes.insert(note)),
            None => {}
        }
        if let Some(path) = source.annotations.get("app-root").filter(|path| path.starts_with('/')) {
            let to = json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": path}, "statusCode": 302});
            let filter = json!({"type": "RequestRedirect", "requestRedirect": to});
            rules.insert(
                0,
                json!({"matches": [{"path": {"type": "Exact", "value": "/"}}], "filters": [filter]}),
            );
        }
        let name =
            if self.is_lone { source.name.to_owned() } else { format!("{}-{}", source.name, suffix(host)) };
        let hostnames = self.hostnames(host);
        let http = self.gateways.http(source);
        match self.secret(host) {
            None => self.push(&name, &[http], &hostnames, rules),
            Some(secret) => {
                let https = self.gateways.https(source, host, &secret);
                if redirects_to_tls(source) {
                    let to = json!({"scheme": "https", "statusCode": 308});
                    let filter = json!({"type": "RequestRedirect", "requestRedirect": to});
                    let to_tls = vec![json!({"filters": [filter]})];
                    self.push(&format!("{name}-to-tls"), &[http], &hostnames, to_tls);
                    self.push(&name, &[https], &hostnames, rules);
                } else {
                    self.push(&name, &[http, https], &hostnames, rules);
                }
            }
        }
        self.www(host, &name);
    }

    /// The host, and other names of it.
    fn hostnames(&self, host: &str) -> Vec<String> {
        let aliases = self.source.annotations.get("server-alias").copied().unwrap_or_default();
        let aliases = aliases.split([',', ' ']).map(str::trim).filter(|alias| !alias.is_empty());
        let all = [host].into_iter().chain(aliases);
        if host.is_empty() { Vec::new() } else { all.map(str::to_owned).collect() }
    }

    /// The certificate of the host.
    fn secret(&self, host: &str) -> Option<String> {
        let all = self.source.ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
        let of_host = all.filter(|tls| match tls.hosts.as_deref().unwrap_or_default() {
            [] => true,
            hosts => hosts.iter().any(|known| covers(known, host)),
        });
        of_host.filter_map(|tls| tls.secret_name.clone()).next()
    }

    /// The name with `www.` of one without, and the other way round, if the Ingress says so.
    fn www(&mut self, host: &str, name: &str) {
        if !self.source.is("from-to-www-redirect") || host.is_empty() || host.starts_with('*') {
            return;
        }
        let other = match host.strip_prefix("www.") {
            Some(bare) => bare.to_owned(),
            None => format!("www.{host}"),
        };
        let to = json!({"hostname": host, "statusCode": 308});
        let filter = json!({"type": "RequestRedirect", "requestRedirect": to});
        let mut parents = vec![self.gateways.http(self.source)];
        if let Some(secret) = self.secret(&other) {
            parents.push(self.gateways.https(self.source, &other, &secret));
        }
        self.push(&format!("{name}-www"), &parents, &[other], vec![json!({"filters": [filter]})]);
    }

    fn passthrough(&mut self, host: &str, rules: &[Value]) {
        let parent = self.gateways.passthrough(self.source, host);
        let whole = rules.iter().find(|rule| rule["matches"][0]["path"]["value"] == "/");
        let Some(rule) = whole else { return };
        let mut spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": rule["backendRefs"]}]});
        if !host.is_empty() {
            spec["hostnames"] = json!([host]);
        }
        let name = format!("{}-{}", self.source.name, suffix(host));
        self.routes.push(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "TLSRoute",
            "metadata": self.source.meta(&name), "spec": spec,
        }));
    }

    fn push(&mut self, name: &str, parents: &[Value], hostnames: &[String], rules: Vec<Value>) {
        let mut spec = json!({"parentRefs": parents, "rules": rules});
        if !hostnames.is_empty() {
            spec["hostnames"] = json!(hostnames);
        }
        self.routes.push(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "HTTPRoute",
            "metadata": self.source.meta(name), "spec": spec,
        }));
    }
}

fn suffix(host: &str) -> String {
    if host.is_empty() { "default".to_owned() } else { slug(host) }
}

/// Whether a name of a certificate is that of a host.
fn covers(known: &str, host: &str) -> bool {
    known == host
        || known.strip_prefix("*.").is_some_and(|suffix| {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix)
        })
}

fn redirects_to_tls(source: &Source<'_>) -> bool {
    let said = source.annotations.get("ssl-redirect").map(|_| source.is("ssl-redirect"));
    source.is("force-ssl-redirect") || said.unwrap_or(source.class() == Some(NGINX))
}

/// What all requests are redirected to; the temporal redirect precedes the permanent one.
fn redirect(source: &Source<'_>) -> Option<Result<Value, Note>> {
    let (kind, usual) = match source.annotations.contains_key("temporal-redirect") {
        true => ("temporal-redirect", 302),
        false => ("permanent-redirect", 301),
    };
    let to = source.annotations.get(kind)?;
    let code = source.annotations.get(&*format!("{kind}-code")).and_then(|text| text.parse().ok());
    let unserved = || Err(source.lost(format!("{kind} to {to} has no counterpart")));
    let Some((scheme, rest)) = to.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
    else {
        return Some(unserved());
    };
    let (host, path) = match rest.strip_suffix("$request_uri") {
        // The path stays.
        Some(host) => (host, None),
        None => match rest.find('/') {
            Some(at) => (&rest[..at], Some(&rest[at..])),
            None => (rest, Some("/")),
        },
    };
    if host.contains(['$', '/']) || path.is_some_and(|path| path.contains(['$', '?'])) {
        return Some(unserved());
    }
    let mut filter = json!({"scheme": scheme, "statusCode": code.unwrap_or(usual)});
    match host.split_once(':').map(|(name, port)| (name, port.parse::<u16>())) {
        Some((name, Ok(port))) => {
            filter["hostname"] = json!(name);
            filter["port"] = json!(port);
        }
        Some((_, Err(_))) => return Some(unserved()),
        None => filter["hostname"] = json!(host),
    }
    if let Some(path) = path {
        filter["path"] = json!({"type": "ReplaceFullPath", "replaceFullPath": path});
    }
    Some(Ok(json!({"type": "RequestRedirect", "requestRedirect": filter})))
}
