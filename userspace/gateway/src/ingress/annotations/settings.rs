//! What the annotations of an Ingress say.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;

use super::values::ServiceAddress;
use crate::backend_tls::TlsVersions;
use crate::config::Protocol;
use crate::policy::{CacheRule, ClientDemand, Range, Template};

/// Values of an Ingress. What is `None` was not said.
#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct Settings {
    /// The paths of its rules are patterns.
    pub(in crate::ingress) uses_patterns: bool,
    pub(in crate::ingress) rewrite_target: Option<Box<str>>,
    pub(in crate::ingress) app_root: Option<Template>,
    pub(in crate::ingress) aliases: Vec<Box<str>>,
    pub(in crate::ingress) upstream_host: Option<Box<str>>,
    pub(in crate::ingress) forwarded_prefix: Option<HeaderValue>,
    pub(in crate::ingress) permanent_redirect: Option<Template>,
    pub(in crate::ingress) permanent_status: Option<StatusCode>,
    pub(in crate::ingress) temporal_redirect: Option<Template>,
    pub(in crate::ingress) temporal_status: Option<StatusCode>,
    pub(in crate::ingress) ssl_redirect: Option<bool>,
    pub(in crate::ingress) force_ssl_redirect: bool,
    pub(in crate::ingress) www_redirect: bool,
    pub(in crate::ingress) canary: CanarySettings,
    pub(in crate::ingress) has_sessions: bool,
    pub(in crate::ingress) session: SessionSettings,
    pub(in crate::ingress) hash_by: Option<Template>,
    pub(in crate::ingress) hashes_to_subset: bool,
    pub(in crate::ingress) hash_subset_size: Option<usize>,
    pub(in crate::ingress) clients: ClientSettings,
    pub(in crate::ingress) endpoint_tls: EndpointTlsSettings,
    pub(in crate::ingress) allowed: Vec<Range>,
    pub(in crate::ingress) denied: Vec<Range>,
    pub(in crate::ingress) satisfies_any: bool,
    pub(in crate::ingress) basic: bool,
    pub(in crate::ingress) basic_secret: Option<Box<str>>,
    pub(in crate::ingress) basic_is_map: bool,
    pub(in crate::ingress) basic_realm: Option<Box<str>>,
    pub(in crate::ingress) external: Option<(ServiceAddress, Template)>,
    pub(in crate::ingress) external_method: Option<Method>,
    pub(in crate::ingress) external_headers: Vec<HeaderName>,
    /// A ConfigMap.
    pub(in crate::ingress) external_set_headers: Option<Box<str>>,
    pub(in crate::ingress) cache_key: Option<Template>,
    pub(in crate::ingress) cache_rules: Option<Vec<CacheRule>>,
    pub(in crate::ingress) sign_in: Option<Template>,
    pub(in crate::ingress) sign_in_parameter: Option<Box<str>>,
    pub(in crate::ingress) request_redirect: Option<Template>,
    pub(in crate::ingress) always_sets_cookies: bool,
    pub(in crate::ingress) limit_rps: Option<u32>,
    pub(in crate::ingress) limit_rpm: Option<u32>,
    pub(in crate::ingress) limit_burst: Option<u32>,
    pub(in crate::ingress) limit_connections: Option<u32>,
    pub(in crate::ingress) limit_exempt: Vec<Range>,
    /// In KB a second; 0: none.
    pub(in crate::ingress) limit_rate: u32,
    /// In KB.
    pub(in crate::ingress) limit_rate_after: u32,
    pub(in crate::ingress) body_bytes: Option<u64>,
    pub(in crate::ingress) cors: CorsSettings,
    pub(in crate::ingress) error_statuses: Vec<StatusCode>,
    pub(in crate::ingress) default_backend: Option<Box<str>>,
    pub(in crate::ingress) mirror: Option<ServiceAddress>,
    pub(in crate::ingress) mirror_host: Option<Template>,
    /// A ConfigMap.
    pub(in crate::ingress) response_headers: Option<Box<str>>,
    pub(in crate::ingress) connect_timeout: Option<Duration>,
    pub(in crate::ingress) send_timeout: Option<Duration>,
    pub(in crate::ingress) read_timeout: Option<Duration>,
    pub(in crate::ingress) retry: RetrySettings,
    pub(in crate::ingress) protocol: Option<Protocol>,
    pub(in crate::ingress) by_service: bool,
    /// Handshakes for its hosts are the endpoints'.
    pub(in crate::ingress) passes_tls: bool,
    pub(in crate::ingress) cookie_domain: Option<(Box<str>, Box<str>)>,
    pub(in crate::ingress) cookie_path: Option<(Box<str>, Box<str>)>,
    pub(in crate::ingress) redirect_from: Option<Box<str>>,
    pub(in crate::ingress) redirect_to: Option<Box<str>>,
    pub(in crate::ingress) is_unlogged: bool,
    /// What it asks for and does not get would let requests pass that should not: its rules answer 503.
    pub(in crate::ingress) is_denied: bool,
}

impl Settings {
    /// The Secret of the users of the Ingress with this key, if it has basic authentication.
    pub(in crate::ingress) fn users_of(&self, key: &str) -> Result<Option<Arc<str>>, Unnamed> {
        match (self.basic, self.basic_secret.as_deref()) {
            (false, _) => Ok(None),
            (true, None) => Err(Unnamed::NoUsers),
            (true, Some(secret)) => named(key, secret).map(Some),
        }
    }
}

impl Settings {
    /// The Secrets that the Ingress with this key names in its annotations.
    pub(in crate::ingress) fn secrets(&self, key: &str) -> impl Iterator<Item = Arc<str>> {
        let named = |text: &Option<Box<str>>| text.as_deref().and_then(|text| named(key, text).ok());
        let users = self.users_of(key).ok().flatten();
        users.into_iter().chain(named(&self.clients.secret)).chain(named(&self.endpoint_tls.secret))
    }

    /// The ConfigMaps that it names.
    pub(in crate::ingress) fn config_maps(&self, key: &str) -> impl Iterator<Item = Arc<str>> {
        let named = |text: &Option<Box<str>>| text.as_deref().and_then(|text| named(key, text).ok());
        named(&self.external_set_headers).into_iter().chain(named(&self.response_headers))
    }
}

/// The key of what an annotation of the Ingress with this key names: NAME, or NAMESPACE/NAME of the Ingress' own namespace.
pub(in crate::ingress) fn named(key: &str, text: &str) -> Result<Arc<str>, Unnamed> {
    let (namespace, _) = key.split_once('/').unwrap_or_default();
    match text.split_once('/') {
        Some((other, _)) if other != namespace => Err(Unnamed::OtherNamespace),
        Some(_) => Ok(text.into()),
        None => Ok(format!("{namespace}/{text}").into()),
    }
}

/// Why an annotation names no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::ingress) enum Unnamed {
    #[error("there is no annotation auth-secret")]
    NoUsers,
    #[error("objects of another namespace are not read")]
    OtherNamespace,
}

/// Whether clients are asked for certificates, if there are authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingress) enum Demand {
    Off,
    Of(ClientDemand),
}

impl Default for Demand {
    fn default() -> Demand {
        Demand::Of(ClientDemand::Verified)
    }
}

#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct ClientSettings {
    pub(in crate::ingress) secret: Option<Box<str>>,
    pub(in crate::ingress) demand: Demand,
    pub(in crate::ingress) depth: Option<usize>,
    pub(in crate::ingress) error_page: Option<Template>,
    pub(in crate::ingress) subject: Option<Regex>,
    pub(in crate::ingress) passes: bool,
}

#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct EndpointTlsSettings {
    pub(in crate::ingress) is_on: bool,
    pub(in crate::ingress) secret: Option<Box<str>>,
    pub(in crate::ingress) verifies: bool,
    pub(in crate::ingress) depth: Option<usize>,
    pub(in crate::ingress) name: Option<Box<str>>,
    pub(in crate::ingress) sends_name: bool,
    pub(in crate::ingress) versions: TlsVersions,
}

#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct CanarySettings {
    pub(in crate::ingress) is_on: bool,
    pub(in crate::ingress) header: Option<HeaderName>,
    pub(in crate::ingress) value: Option<Box<str>>,
    pub(in crate::ingress) pattern: Option<Regex>,
    pub(in crate::ingress) cookie: Option<Box<str>>,
    pub(in crate::ingress) weight: u32,
    pub(in crate::ingress) total: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct SessionSettings {
    pub(in crate::ingress) name: Option<Box<str>>,
    pub(in crate::ingress) path: Option<Box<str>>,
    pub(in crate::ingress) domain: Option<Box<str>>,
    pub(in crate::ingress) same_site: Option<&'static str>,
    pub(in crate::ingress) is_none_conditional: bool,
    pub(in crate::ingress) expires: Option<u64>,
    pub(in crate::ingress) max_age: Option<u64>,
    pub(in crate::ingress) is_secure: bool,
    pub(in crate::ingress) changes_on_failure: bool,
    pub(in crate::ingress) is_legacy_canary: bool,
}

#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct CorsSettings {
    pub(in crate::ingress) is_on: bool,
    pub(in crate::ingress) origins: Option<Vec<Box<str>>>,
    pub(in crate::ingress) methods: Option<Vec<Box<str>>>,
    pub(in crate::ingress) headers: Option<Vec<Box<str>>>,
    pub(in crate::ingress) expose: Vec<Box<str>>,
    pub(in crate::ingress) credentials: Option<bool>,
    pub(in crate::ingress) max_age: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub(in crate::ingress) struct RetrySettings {
    /// `None`: the gateway's own rules count. Empty: no retries.
    pub(in crate::ingress) conditions: Option<RetryConditions>,
    pub(in crate::ingress) tries: Option<usize>,
    pub(in crate::ingress) within: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::ingress) struct RetryConditions {
    pub(in crate::ingress) is_off: bool,
    pub(in crate::ingress) statuses: Vec<StatusCode>,
    pub(in crate::ingress) also_unsafe: bool,
}
