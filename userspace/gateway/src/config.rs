//! What the data plane does, as one value. PURE. The APIs that describe routes are translated to it; [`crate::Gateway::apply`] puts it
//! in force as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::certificate::Certificate;
use crate::counters::RouteCounters;
use crate::routing::{HostTable, RouteTable};

/// All listeners, and where their routes lead.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// By port.
    pub listeners: BTreeMap<u16, Listener>,
    /// [`Route::backends`] are indexes of it.
    pub backends: Vec<Arc<Backend>>,
    /// Of all routes, for `/metrics`.
    pub counters: Vec<Arc<RouteCounters>>,
}

/// The requests at one port.
#[derive(Clone, Debug)]
pub struct Listener {
    pub routes: Arc<RouteTable<Arc<Route>>>,
    /// `Some`: the port speaks TLS. A name without a certificate gets no handshake.
    pub certificates: Option<Arc<HostTable<Arc<Certificate>>>>,
}

/// Where requests of a rule go.
#[derive(Clone, Debug)]
pub struct Route {
    /// They name the route.
    pub counters: Arc<RouteCounters>,
    /// Index and weight.
    pub backends: Vec<(usize, u32)>,
}

/// The endpoints of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// NAMESPACE/SERVICE:PORT.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub endpoints: Vec<SocketAddr>,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1; calls of gRPC go over HTTP/2 also here.
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}
