//! What the data plane does, as one value. PURE. The APIs that describe routes are translated to it; [`crate::Gateway::apply`] puts it
//! in force as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::acme::Challenges;
use crate::backend_tls::BackendTls;
use crate::certificate::Certificate;
use crate::client_check::ClientCheck;
use crate::counters::RouteCounters;
use crate::filters::{Cors, Filters, Redirect};
use crate::policy::Policy;
use crate::routing::{HostTable, RouteTable};

/// All listeners, and where their routes lead.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// By port of the node.
    pub listeners: BTreeMap<u16, Listener>,
    /// [`RouteBackend::backend`] is an index of it.
    pub backends: Vec<Arc<Backend>>,
    /// Of all routes, for `/metrics`.
    pub counters: Vec<Arc<RouteCounters>>,
    /// They are answered before any route.
    pub challenges: Arc<Challenges>,
}

/// The requests at one port.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The port that clients connect to. It is another one if a Service leads to this port.
    pub public_port: u16,
    /// Routes by the host of a request. Only those of the most specific host count.
    pub hosts: Arc<HostTable<Arc<Routes>>>,
    /// `Some`: the port speaks TLS. A name without a server gets no handshake.
    pub tls: Option<Arc<TlsServers>>,
    /// `Some`: connections without TLS are passed on as they are.
    pub stream: Option<Arc<StreamRoute>>,
    /// What endpoints with TLS are presented for requests that come by this listener.
    pub identity: Option<Arc<Certificate>>,
}

/// The routes of a host.
pub type Routes = RouteTable<Arc<Route>>;

/// Who answers the handshakes at a port, by the name that clients ask for.
#[derive(Clone, Debug, Default)]
pub struct TlsServers {
    by_name: HostTable<Arc<TlsServer>>,
    /// Some pass bytes on, so that the name is read before the handshake.
    pub(crate) passes: bool,
    /// Some ask clients for certificates, so that the name decides how the handshake goes.
    pub(crate) checks_clients: bool,
}

impl TlsServers {
    pub fn new(by_name: HostTable<Arc<TlsServer>>) -> TlsServers {
        let passes = by_name.values().any(|server| !matches!(server.action, TlsAction::Http));
        let checks_clients = by_name.values().any(|server| server.clients.is_some());
        TlsServers { by_name, passes, checks_clients }
    }

    /// The server of a name in lower case; the name is empty if the client asks for none.
    pub fn find(&self, name: &str) -> Option<&Arc<TlsServer>> {
        self.by_name.find(name).next()
    }
}

/// Who answers a TLS handshake. A connection that was opened for a name of one server serves no name of another one.
#[derive(Clone, Debug)]
pub struct TlsServer {
    /// The first one that the client can check is presented.
    pub certificates: Vec<Arc<Certificate>>,
    /// `Some`: clients are asked for a certificate.
    pub clients: Option<Arc<ClientCheck>>,
    pub action: TlsAction,
}

/// What becomes of a connection of TLS.
#[derive(Clone, Debug, Default)]
pub enum TlsAction {
    #[default]
    Http,
    /// What the client says inside goes to endpoints.
    Terminate(Arc<StreamRoute>),
    /// Endpoints answer the handshake.
    Passthrough(Arc<StreamRoute>),
}

/// Where connections go whose bytes are not looked at.
#[derive(Clone, Debug, Default)]
pub struct StreamRoute {
    pub counters: Arc<RouteCounters>,
    pub parts: Vec<Part>,
}

/// A part of a route's connections. `None`: they are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub backend: Option<usize>,
    pub weight: u32,
}

/// Where requests of a rule go.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// They name the route.
    pub counters: Arc<RouteCounters>,
    /// None at all: 500 or 503, see [`Route::unserved`].
    pub backends: Vec<RouteBackend>,
    pub filters: Filters,
    /// Requests get this answer and go nowhere.
    pub redirect: Option<Redirect>,
    pub cors: Option<Cors>,
    pub mirrors: Vec<Mirror>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    /// The answer for requests without a backend; 503 if `None`.
    pub unserved: Option<StatusCode>,
    pub policy: Option<Arc<Policy>>,
}

/// A part of a route's requests.
#[derive(Clone, Debug, Default)]
pub struct RouteBackend {
    /// `None`: a reference that leads nowhere.
    pub backend: Option<usize>,
    pub weight: u32,
    /// Applied after those of the route.
    pub filters: Filters,
}

/// A backend that gets copies of requests; its responses go nowhere. `numerator` of `denominator` requests are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub backend: usize,
    pub numerator: u32,
    pub denominator: u32,
}

/// `None`: the gateway's own limits count. Zero: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the response's head, with all attempts.
    pub request: Option<Duration>,
    /// The same of one attempt.
    pub attempt: Option<Duration>,
}

/// When a request is sent once more, beside what is always safe: after these statuses, a failed connection, and an attempt's timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub statuses: Vec<StatusCode>,
    /// After the first one.
    pub attempts: usize,
    pub backoff: Duration,
}

impl Route {
    /// All requests to one backend.
    pub fn to(counters: Arc<RouteCounters>, backend: usize) -> Route {
        let backends = vec![RouteBackend { backend: Some(backend), weight: 1, filters: Filters::default() }];
        Route { counters, backends, ..Route::default() }
    }
}

/// The endpoints of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// NAMESPACE/SERVICE:PORT.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// `Some`: endpoints are spoken to over TLS.
    pub tls: Option<Arc<BackendTls>>,
    pub demand: EndpointDemand,
    pub endpoints: Vec<SocketAddr>,
}

/// How much endpoints get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointDemand {
    /// For this time an endpoint that joined others gets a part that grows.
    pub slow_start: Duration,
    /// Requests that one endpoint has at once; more are refused.
    pub at_once: Option<usize>,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1; calls of gRPC go over HTTP/2 also here.
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}
