//! Copies of requests for backends whose responses go nowhere.

use std::sync::Arc;

use http::HeaderValue;

use super::Shared;
use super::exchange::{self, Terms};
use super::request_body::RequestBody;
use super::snapshot::{Cluster, Snapshot};
use crate::config::{Mirror, Protocol};
use crate::counters::RouteCounters;
use crate::outgoing::Outgoing;

/// The clusters that get a copy of this request.
pub(super) fn draw(snapshot: &Snapshot, port: u16, mirrors: &[Mirror]) -> Vec<Arc<Cluster>> {
    let drawn = mirrors.iter().filter(|mirror| {
        let Mirror { numerator, denominator, .. } = **mirror;
        numerator >= denominator || rand::random_range(0..denominator) < numerator
    });
    drawn.filter_map(|mirror| snapshot.cluster_by(port, mirror.backend)).collect()
}

/// Sends a copy. The request itself does not wait for it: a copy that is slower than the body is given up.
/// `host`: of the copy, unless it is that of the request.
pub(super) fn send(
    shared: &Arc<Shared>,
    (route, cluster): (&Arc<RouteCounters>, Arc<Cluster>),
    outgoing: &Outgoing,
    host: Option<&HeaderValue>,
    body: &mut RequestBody,
) {
    let protocol = match outgoing.is_grpc {
        true => Protocol::H2c,
        false => cluster.backend.protocol,
    };
    let (shared, route) = (shared.clone(), route.clone());
    let (mut head, body) = (outgoing.clone(), body.copy());
    if let Some(host) = host {
        head.host = host.clone();
    }
    tokio::spawn(async move {
        // Its response is not used, and what fails here is counted as a failure of the endpoint.
        let terms = Terms::default();
        let _ = exchange::send(&shared, &cluster, protocol, &head, body, (&route, &terms)).await;
    });
}
