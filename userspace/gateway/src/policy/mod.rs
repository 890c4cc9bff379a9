//! What a route asks of its requests and says of their responses beyond [`crate::filters`]: clients, passwords, rates, sessions, errors.
//! PURE.

mod apr1;
mod balance;
mod basic_auth;
mod canary;
mod captures;
mod client_certificate;
mod pace;
mod ranges;
mod rate;
mod responses;
mod template;
mod verdicts;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

pub use balance::{Balance, SessionCookie, SessionHeader};
pub(crate) use balance::{Preference, hash, weight};
pub use basic_auth::{BasicAuth, UsersError};
pub use canary::{Canary, CanaryHeader};
pub use captures::CaptureRewrite;
pub(crate) use client_certificate::Introduction;
pub use client_certificate::{ClientCertificates, ClientDemand};
pub use pace::Pace;
pub use ranges::{Range, Ranges};
pub(crate) use rate::Admitted;
pub use rate::{Rate, RateLimit, Rates};
pub use responses::ResponseRewrites;
pub(crate) use template::Values;
pub use template::{Template, UnknownVariable};
pub(crate) use verdicts::Key;
pub use verdicts::{CacheRule, Verdicts};

/// The order is that of a request: redirects, clients, rates, authentication, then what its endpoint and its client get.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Requests without TLS are sent to this port.
    pub https_port: Option<u16>,
    pub clients: Option<ClientCertificates>,
    pub redirect: Option<TemplateRedirect>,
    pub ranges: Ranges,
    /// The client's address or its authentication is enough.
    pub any_satisfies: bool,
    pub rate: Option<Arc<RateLimit>>,
    pub basic: Option<Arc<BasicAuth>>,
    pub external: Option<ExternalAuth>,
    /// Of a request's body.
    pub max_body_bytes: Option<u64>,
    pub canary: Option<Canary>,
    pub balance: Balance,
    pub rewrite: Option<CaptureRewrite>,
    pub responses: ResponseRewrites,
    pub errors: Option<ErrorPages>,
    /// The backend of requests while the route's has no endpoint.
    pub fallback: Option<usize>,
    /// How fast the body of a response is sent.
    pub pace: Option<Pace>,
    /// The host of copies of requests; `None`: that of the request.
    pub mirror_host: Option<Template>,
    /// Requests are not in the access log.
    pub is_unlogged: bool,
    /// For a connection to an endpoint.
    pub connect_timeout: Option<Duration>,
    /// For the head of a response, after the request was sent.
    pub response_timeout: Option<Duration>,
    /// Between two pieces of a request's body.
    pub body_timeout: Option<Duration>,
    /// Between two pieces of a response's body.
    pub stream_timeout: Option<Duration>,
    /// A request that an endpoint may have received is sent again only if its method is idempotent.
    pub repeats_only_idempotent: bool,
    /// After this time no other endpoint is tried.
    pub repeats_within: Option<Duration>,
}

/// Requests get this answer and go nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRedirect {
    pub to: Template,
    pub status: StatusCode,
}

/// Responses with these statuses are replaced by that of another backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPages {
    pub statuses: Vec<StatusCode>,
    pub backend: usize,
    /// Headers of its request that name the route.
    pub about: Vec<(HeaderName, http::HeaderValue)>,
}

/// A service that says whether a request may go on.
#[derive(Clone, Debug)]
pub struct ExternalAuth {
    pub backend: usize,
    pub host: Box<str>,
    /// Path and query.
    pub path: Template,
    /// `None`: GET.
    pub method: Option<Method>,
    /// Headers of the question beside those of the request.
    pub request_headers: Vec<(HeaderName, http::HeaderValue)>,
    /// What it said of requests that were like the one that is asked for.
    pub cache: Option<Arc<Verdicts>>,
    /// Of its response, for the endpoint. What the client says there is removed.
    pub response_headers: Vec<HeaderName>,
    /// Where clients go that it does not know.
    pub sign_in: Option<Template>,
    /// The parameter of that address with the address of the request.
    pub sign_in_parameter: Box<str>,
    /// The value of `X-Auth-Request-Redirect`.
    pub request_redirect: Option<Template>,
    /// Its cookies are for the client whatever the endpoint answers.
    pub always_sets_cookies: bool,
}
