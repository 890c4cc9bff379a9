//! [`Settings`] to what a route has of them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::settings::{CanarySettings, Settings};
use crate::config::{Mirror, Retry, Route};
use crate::filters::{Cors, Origin};
use crate::policy::{
    Balance, BasicAuth, CacheRule, Canary, CanaryHeader, CaptureRewrite, ClientCertificates, ErrorPages,
    ExternalAuth, Pace, Policy, Ranges, Rate, RateLimit, Rates, ResponseRewrites, SessionCookie, Template,
    TemplateRedirect, Verdicts,
};

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const INGRESS_NAME: HeaderName = HeaderName::from_static("x-ingress-name");
const NAMESPACE: HeaderName = HeaderName::from_static("x-namespace");
const BURST: u32 = 5;
const CANARY_TOTAL: u32 = 100;
const CORS_METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const CORS_HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
const CORS_MAX_AGE: u32 = 1_728_000;
const SESSION_COOKIE: &str = "INGRESSCOOKIE";
const SIGN_IN_PARAMETER: &str = "rd";
/// Answers of the service that authenticates that are kept, and how long.
const CACHED_STATUSES: [StatusCode; 3] = [StatusCode::OK, StatusCode::ACCEPTED, StatusCode::UNAUTHORIZED];
const CACHE_TIME: Duration = Duration::from_secs(300);
const SUBSET_SIZE: usize = 3;
/// Endpoints in all that a request is sent to.
const TRIES: usize = 3;

/// What the names in [`Settings`] stand for.
#[derive(Default)]
pub(in crate::ingress) struct Resolved<'a> {
    /// NAMESPACE/NAME of the Ingress.
    pub(in crate::ingress) key: &'a str,
    /// Requests without TLS go to this port.
    pub(in crate::ingress) https_port: Option<u16>,
    pub(in crate::ingress) rate: Option<Arc<RateLimit>>,
    pub(in crate::ingress) basic: Option<Arc<BasicAuth>>,
    /// Indexes of backends.
    pub(in crate::ingress) external: Option<usize>,
    pub(in crate::ingress) mirror: Option<usize>,
    pub(in crate::ingress) default_backend: Option<usize>,
    pub(in crate::ingress) canary: Option<(usize, &'a CanarySettings)>,
    /// Of the rule's path.
    pub(in crate::ingress) pattern: Option<Regex>,
    pub(in crate::ingress) clients: Option<ClientCertificates>,
    pub(in crate::ingress) verdicts: Option<Arc<Verdicts>>,
    pub(in crate::ingress) external_headers: Headers,
    pub(in crate::ingress) response_headers: Headers,
}

/// Of a ConfigMap.
pub(in crate::ingress) type Headers = Vec<(HeaderName, HeaderValue)>;

impl Settings {
    pub(in crate::ingress) fn rates(&self) -> Option<Rates> {
        let multiplier = self.limit_burst.unwrap_or(BURST);
        let rate = |count: Option<u32>, period_ms| {
            let count = count.filter(|count| *count > 0)?;
            Some(Rate { count, period_ms, burst: count.saturating_mul(multiplier) })
        };
        let requests: Vec<Rate> =
            rate(self.limit_rpm, 60_000).into_iter().chain(rate(self.limit_rps, 1_000)).collect();
        let at_once = self.limit_connections.filter(|most| *most > 0);
        (!requests.is_empty() || at_once.is_some()).then(|| Rates {
            requests,
            at_once,
            exempt: self.limit_exempt.clone(),
        })
    }

    /// Puts what the annotations say into a route to its backend.
    pub(in crate::ingress) fn apply(&self, route: &mut Route, resolved: Resolved<'_>) {
        route.retry = self.retry();
        route.cors = self.cors();
        route.filters.rewrite.host = self.upstream_host.clone();
        route.filters.response.set.extend(resolved.response_headers.iter().cloned());
        if let Some(prefix) = &self.forwarded_prefix {
            route.filters.request.set.push((FORWARDED_PREFIX, prefix.clone()));
        }
        let mirror = resolved.mirror.map(|backend| Mirror { backend, numerator: 1, denominator: 1 });
        route.mirrors.extend(mirror);
        route.policy = self.policy(resolved).map(Arc::new);
    }

    /// `None`: nothing is said that a policy has.
    fn policy(&self, resolved: Resolved<'_>) -> Option<Policy> {
        let Resolved { key, https_port, rate, basic, default_backend, canary, pattern, clients, .. } =
            resolved;
        let (external, external_headers, verdicts) =
            (resolved.external, resolved.external_headers, resolved.verdicts);
        let rewrite =
            self.rewrite_target.clone().zip(pattern).map(|(to, pattern)| CaptureRewrite { pattern, to });
        let redirect = self.redirect();
        let names_objects = rate.is_some() || basic.is_some() || canary.is_some() || clients.is_some();
        let has_backends = external.is_some() || default_backend.is_some();
        let has_targets = https_port.is_some() || rewrite.is_some() || redirect.is_some();
        if self.is_plain_policy() && !names_objects && !has_backends && !has_targets {
            return None;
        }
        Some(Policy {
            https_port,
            clients,
            redirect,
            ranges: Ranges { allowed: self.allowed.clone(), denied: self.denied.clone() },
            any_satisfies: self.satisfies_any,
            rate,
            basic,
            external: external.and_then(|backend| self.external(backend, external_headers, verdicts)),
            max_body_bytes: self.body_bytes.filter(|bytes| *bytes > 0),
            canary: canary.map(|(backend, settings)| settings.compile(backend, self.keeps_canary())),
            balance: self.balance(),
            rewrite,
            responses: self.responses(),
            errors: default_backend.filter(|_| !self.error_statuses.is_empty()).map(|backend| ErrorPages {
                statuses: self.error_statuses.clone(),
                backend,
                about: about(key),
            }),
            fallback: default_backend,
            pace: self.pace(),
            mirror_host: self.mirror_host.clone(),
            is_unlogged: self.is_unlogged,
            connect_timeout: self.connect_timeout,
            body_timeout: self.send_timeout,
            response_timeout: self.read_timeout,
            stream_timeout: self.read_timeout,
            repeats_only_idempotent: self.retry.conditions.as_ref().is_none_or(|said| !said.also_unsafe),
            repeats_within: self.retry.within.filter(|time| !time.is_zero()),
        })
    }

    /// Whether a policy would hold nothing that needs no other object.
    fn is_plain_policy(&self) -> bool {
        self.allowed.is_empty()
            && self.denied.is_empty()
            && self.body_bytes.is_none()
            && self.balance() == Balance::Turns
            && self.responses() == ResponseRewrites::default()
            && !self.is_unlogged
            && self.pace().is_none()
            && self.mirror_host.is_none()
            && self.retry().is_none()
            && (self.connect_timeout, self.send_timeout, self.read_timeout) == (None, None, None)
    }

    /// The temporal redirect precedes the permanent one.
    fn redirect(&self) -> Option<TemplateRedirect> {
        let temporal =
            self.temporal_redirect.clone().map(|to| (to, self.temporal_status.unwrap_or(StatusCode::FOUND)));
        let permanent = self.permanent_redirect.clone();
        let permanent =
            permanent.map(|to| (to, self.permanent_status.unwrap_or(StatusCode::MOVED_PERMANENTLY)));
        temporal.or(permanent).map(|(to, status)| TemplateRedirect { to, status })
    }

    fn pace(&self) -> Option<Pace> {
        let bytes = |kilobytes: u32| u64::from(kilobytes) << 10;
        (self.limit_rate > 0).then(|| Pace {
            free_bytes: bytes(self.limit_rate_after),
            bytes_per_second: bytes(self.limit_rate),
        })
    }

    /// Whether sessions choose between a canary and what it is a part of.
    fn keeps_canary(&self) -> bool {
        self.has_sessions && !self.session.is_legacy_canary
    }

    /// What keeps answers of the service that authenticates.
    pub(in crate::ingress) fn verdicts(&self) -> Option<Verdicts> {
        let key = self.cache_key.clone()?;
        let usual = || CacheRule { statuses: CACHED_STATUSES.to_vec(), time: CACHE_TIME };
        Some(Verdicts::new(key, self.cache_rules.clone().unwrap_or_else(|| vec![usual()])))
    }

    fn external(
        &self,
        backend: usize,
        request_headers: Headers,
        cache: Option<Arc<Verdicts>>,
    ) -> Option<ExternalAuth> {
        let (address, path) = self.external.as_ref()?;
        Some(ExternalAuth {
            backend,
            host: address.host.clone(),
            path: path.clone(),
            method: self.external_method.clone(),
            request_headers,
            cache,
            response_headers: self.external_headers.clone(),
            sign_in: self.sign_in.clone(),
            sign_in_parameter: self.sign_in_parameter.clone().unwrap_or_else(|| SIGN_IN_PARAMETER.into()),
            request_redirect: self.request_redirect.clone(),
            always_sets_cookies: self.always_sets_cookies,
        })
    }

    fn balance(&self) -> Balance {
        match (self.has_sessions, &self.hash_by) {
            (true, _) => Balance::Cookie(session_cookie(self)),
            (false, Some(key)) if *key != Template::default() => match self.hashes_to_subset {
                true => Balance::Subset(key.clone(), self.hash_subset_size.unwrap_or(SUBSET_SIZE).max(1)),
                false => Balance::Hash(key.clone()),
            },
            (false, _) => Balance::Turns,
        }
    }

    fn responses(&self) -> ResponseRewrites {
        ResponseRewrites {
            cookie_domain: self.cookie_domain.clone(),
            cookie_path: self.cookie_path.clone(),
            location: self.redirect_from.clone().zip(self.redirect_to.clone()),
        }
    }

    fn retry(&self) -> Option<Retry> {
        let said = &self.retry;
        let tries = said.tries.filter(|tries| *tries > 0);
        if said.conditions.is_none() && tries.is_none() && said.within.is_none() {
            return None;
        }
        let conditions = said.conditions.clone().unwrap_or_default();
        let attempts = if conditions.is_off { 0 } else { tries.unwrap_or(TRIES) - 1 };
        Some(Retry { statuses: conditions.statuses, attempts, backoff: Duration::ZERO })
    }

    fn cors(&self) -> Option<Cors> {
        let cors = Some(&self.cors).filter(|cors| cors.is_on)?;
        let texts = |given: &Option<Vec<Box<str>>>, usual: &str| match given {
            Some(given) => given.clone(),
            None => super::values::names(usual),
        };
        Some(Cors {
            origins: texts(&cors.origins, "*").iter().map(|origin| Origin::parse(origin)).collect(),
            methods: texts(&cors.methods, CORS_METHODS),
            headers: texts(&cors.headers, CORS_HEADERS),
            expose: cors.expose.clone(),
            credentials: cors.credentials.unwrap_or(true),
            max_age: Some(cors.max_age.unwrap_or(CORS_MAX_AGE)),
        })
    }
}

impl CanarySettings {
    fn compile(&self, backend: usize, keeps_sessions: bool) -> Canary {
        let header = self.header.clone().map(|name| {
            let wanted = match (&self.value, &self.pattern) {
                (Some(value), _) => CanaryHeader::Value(value.clone()),
                (None, Some(pattern)) => CanaryHeader::Pattern(pattern.clone()),
                (None, None) => CanaryHeader::Switch,
            };
            (name, wanted)
        });
        let total = self.total.unwrap_or(CANARY_TOTAL);
        Canary { backend, header, cookie: self.cookie.clone(), weight: self.weight, total, keeps_sessions }
    }
}

fn session_cookie(settings: &Settings) -> SessionCookie {
    let said = &settings.session;
    let mut attributes = format!("; Path={}", said.path.as_deref().unwrap_or("/"));
    if let Some(domain) = &said.domain {
        attributes.push_str(&format!("; Domain={domain}"));
    }
    if let Some(seconds) = said.max_age.or(said.expires) {
        attributes.push_str(&format!("; Max-Age={seconds}"));
    }
    if said.is_secure {
        attributes.push_str("; Secure");
    }
    attributes.push_str("; HttpOnly");
    if let Some(same_site) = said.same_site {
        attributes.push_str(&format!("; SameSite={same_site}"));
    }
    SessionCookie {
        name: said.name.clone().unwrap_or_else(|| SESSION_COOKIE.into()),
        attributes: attributes.into(),
        lifetime: None,
        changes_on_failure: said.changes_on_failure,
        is_none_conditional: said.is_none_conditional,
    }
}

/// Headers by which the backend for errors knows the Ingress.
fn about(key: &str) -> Vec<(HeaderName, HeaderValue)> {
    let (namespace, name) = key.split_once('/').unwrap_or_default();
    let pairs = [(NAMESPACE, namespace), (INGRESS_NAME, name)];
    pairs.into_iter().filter_map(|(header, text)| Some((header, HeaderValue::from_str(text).ok()?))).collect()
}
