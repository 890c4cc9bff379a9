//! What of an Ingress matters to the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressTLS};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::acme_facts::AcmeFacts;
use super::annotations::{PREFIX, Settings, pattern};
use super::problem::Problem;
use crate::counters::RouteCounters;
use crate::policy::{RateLimit, Verdicts};
use crate::routing::{HostPattern, PathMatch, normalise};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// What a path of an Ingress may have, and one of a request has only escaped.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'#').add(b'?');

/// Of an Ingress without annotations.
static UNSET: LazyLock<Arc<Settings>> = LazyLock::new(Arc::default);

pub(super) struct IngressFacts {
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) class: Option<Arc<str>>,
    pub(super) rules: Vec<RuleFacts>,
    pub(super) default: Option<BackendFacts>,
    pub(super) tls: Vec<TlsFacts>,
    /// Found while parsing.
    pub(super) problems: Vec<Problem>,
    pub(super) status: BTreeSet<IpAddr>,
    pub(super) counters: Arc<RouteCounters>,
    /// `None`: it asks for no certificates.
    pub(super) acme: Option<Box<AcmeFacts>>,
    /// Ingresses without annotations of the gateway share them.
    pub(super) settings: Arc<Settings>,
    /// Of the settings, and at work since the Ingress had them first.
    pub(super) rate: Option<Arc<RateLimit>>,
    /// Answers of the service that authenticates, since the Ingress had its annotations.
    pub(super) verdicts: Option<Arc<Verdicts>>,
    /// Those that the settings are made from.
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct RuleFacts {
    pub(super) host: HostPattern,
    pub(super) path: PathMatch,
    /// As the Ingress has it.
    pub(super) text: Box<str>,
    pub(super) backend: BackendFacts,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum BackendFacts {
    /// Key and port.
    Service(Arc<str>, PortName),
    /// A resource, which is not served.
    Nothing,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum PortName {
    Number(i32),
    Name(Box<str>),
    /// The first one, whatever its name.
    First,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct TlsFacts {
    pub(super) hosts: Vec<HostPattern>,
    /// Without one the hosts use what other Ingresses have for them.
    pub(super) secret: Option<Arc<str>>,
}

/// One that says the same goes on.
fn rate(settings: &Settings, old: Option<&IngressFacts>) -> Option<Arc<RateLimit>> {
    let rates = settings.rates();
    let kept = old.and_then(|old| old.rate.clone()).filter(|kept| Some(kept.rates()) == rates.as_ref());
    kept.or_else(|| rates.map(|rates| Arc::new(RateLimit::new(rates))))
}

/// Those that the gateway reads.
fn own_annotations(meta: &ObjectMeta) -> BTreeMap<String, String> {
    let is_own = |(name, _): &(&String, &String)| name.starts_with(PREFIX);
    let own = meta.annotations.iter().flatten().filter(is_own);
    own.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl IngressFacts {
    /// `old`: its earlier version, whose counters go on.
    pub(super) fn parse(key: &Arc<str>, ingress: &Ingress, old: Option<&IngressFacts>) -> IngressFacts {
        let meta = &ingress.metadata;
        let annotation = || meta.annotations.as_ref()?.get(CLASS_ANNOTATION);
        let spec = ingress.spec.as_ref();
        let class = spec.and_then(|spec| spec.ingress_class_name.as_ref()).or_else(annotation);
        let annotations = own_annotations(meta);
        let (settings, findings) = match annotations.is_empty() {
            true => (UNSET.clone(), Vec::new()),
            false => {
                let (settings, findings) = Settings::parse(meta.annotations.as_ref());
                (Arc::new(settings), findings)
            }
        };
        let mut facts = IngressFacts {
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            class: class.map(|class| class.as_str().into()),
            rules: Vec::new(),
            default: None,
            tls: Vec::new(),
            problems: findings.into_iter().map(|finding| Problem::annotation(key, finding)).collect(),
            status: status(ingress),
            counters: match old {
                Some(old) => old.counters.clone(),
                None => Arc::new(RouteCounters::new(format!("ingress/{key}"))),
            },
            acme: AcmeFacts::parse(ingress),
            rate: rate(&settings, old),
            verdicts: match old.filter(|old| old.annotations == annotations) {
                Some(old) => old.verdicts.clone(),
                None => settings.verdicts().map(Arc::new),
            },
            annotations,
            settings,
        };
        let Some(spec) = spec else { return facts };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        facts.default = spec.default_backend.as_ref().map(|backend| match facts.settings.is_denied {
            true => BackendFacts::Nothing,
            false => facts.backend(key, namespace, backend),
        });
        for rule in spec.rules.iter().flatten() {
            let host = HostPattern::of_ingress(rule.host.as_deref().unwrap_or_default());
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                facts.add_rule(key, namespace, &host, path);
            }
        }
        let of_tls = |tls: &IngressTLS| TlsFacts {
            hosts: match tls.hosts.as_deref().unwrap_or_default() {
                [] => vec![HostPattern::Any],
                hosts => hosts.iter().map(|host| HostPattern::of_ingress(host)).collect(),
            },
            secret: tls
                .secret_name
                .as_ref()
                .filter(|name| !name.is_empty())
                .map(|name| format!("{namespace}/{name}").into()),
        };
        facts.tls = spec.tls.iter().flatten().map(of_tls).collect();
        facts
    }

    fn add_rule(&mut self, key: &Arc<str>, namespace: &str, host: &HostPattern, path: &HTTPIngressPath) {
        let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let is_exact = path.path_type == "Exact";
        if !is_exact && (self.settings.uses_patterns || self.settings.rewrite_target.is_some()) {
            let from_begin = format!("(?i)^{text}");
            if let Err(error) = pattern(&from_begin) {
                return self.problems.push(Problem::bad_pattern(key, text, error));
            }
            return self.push_rule(key, namespace, host, PathMatch::Pattern(from_begin.into()), path);
        }
        let escaped = utf8_percent_encode(text, ESCAPED).to_string();
        let normal = match normalise(&escaped) {
            Ok(path) => path.matched.into_owned().into_boxed_str(),
            Err(error) => return self.problems.push(Problem::bad_path(key, text, error)),
        };
        let path_match = if is_exact { PathMatch::Exact(normal) } else { PathMatch::Prefix(normal) };
        self.push_rule(key, namespace, host, path_match, path);
    }

    fn push_rule(
        &mut self,
        key: &Arc<str>,
        namespace: &str,
        host: &HostPattern,
        path_match: PathMatch,
        path: &HTTPIngressPath,
    ) {
        let backend = match self.settings.is_denied {
            true => BackendFacts::Nothing,
            false => self.backend(key, namespace, &path.backend),
        };
        let text = path.path.as_deref().unwrap_or_default().into();
        self.rules.push(RuleFacts { host: host.clone(), path: path_match, text, backend });
    }

    fn backend(&mut self, key: &Arc<str>, namespace: &str, backend: &IngressBackend) -> BackendFacts {
        let Some(service) = &backend.service else {
            self.problems.push(Problem::resource_backend(key));
            return BackendFacts::Nothing;
        };
        let port = service.port.as_ref();
        let name = port.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
        let port = match name {
            Some(name) => PortName::Name(name.into()),
            None => PortName::Number(port.and_then(|port| port.number).unwrap_or_default()),
        };
        BackendFacts::Service(format!("{namespace}/{}", service.name).into(), port)
    }

    /// Whether TLS towards clients depends on it.
    pub(super) fn concerns_handshakes(&self) -> bool {
        !self.tls.is_empty() || self.settings.clients.secret.is_some()
    }

    /// Whether both lead requests to the same Services.
    pub(super) fn has_equal_rules(&self, other: &IngressFacts) -> bool {
        let IngressFacts { created, class, rules, default, tls, problems, annotations, .. } = self;
        *annotations == other.annotations
            && *created == other.created
            && *class == other.class
            && *rules == other.rules
            && *default == other.default
            && *tls == other.tls
            && *problems == other.problems
    }
}

fn status(ingress: &Ingress) -> BTreeSet<IpAddr> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    entries.filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}
