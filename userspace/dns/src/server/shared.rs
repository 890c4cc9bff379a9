//! What every question needs, and the way from a packet to its answer.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::runtime::Handle;

use super::seats::{Seat, Seats};
use crate::forward::{Asked, Forwarder, Start};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::query::{self, Parsed};
use crate::question::Query;
use crate::reply::Reply;
use crate::resolution::{Next, Resolution};
use crate::settings::Settings;

/// Questions of all clients, and of one, that wait for upstreams; more get SERVFAIL at once. The limit of one is far below the number
/// of questions that upstreams are asked at once: a client that asks for many names leaves room for others.
pub(super) const MAX_WAITING: usize = 8192;
pub(super) const MAX_WAITING_OF_CLIENT: usize = 512;
/// How long a new server leaves packets in the sockets until it knows the cluster.
const LISTING_TIMEOUT: Duration = Duration::from_secs(5);
const LISTING_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// What every question needs.
pub(super) struct Shared {
    pub(super) view: RwLock<View>,
    /// Every kind of the index was listed.
    pub(super) listed: AtomicBool,
    pub(super) forwarder: Forwarder,
    pub(super) waiting: Seats,
    pub(super) runtime: Handle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) seed: AtomicU32,
}

pub(super) struct View {
    pub(super) index: Index,
    pub(super) settings: Arc<Settings>,
}

/// What is sent back.
pub(super) enum Answer {
    None,
    Now(Vec<u8>),
    Later(Box<Pending>),
}

/// A question that upstreams are being asked for.
pub(super) struct Pending {
    pub(super) query: Query,
    pub(super) resolution: Resolution,
    pub(super) start: Start,
    pub(super) settings: Arc<Settings>,
    pub(super) begun: Instant,
    pub(super) limit: usize,
    /// Freed with the answer.
    pub(super) seat: Seat,
}

/// How a packet came; it bounds the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    /// Bytes of an answer.
    fn limit(self, query: &Query) -> usize {
        match self {
            Protocol::Udp => query.udp_limit(),
            Protocol::Tcp => u16::MAX.into(),
        }
    }
}

impl Shared {
    /// Leaves questions where they are for as long as the answer would be that nothing is known.
    pub(super) async fn wait_until_listed(&self) {
        let end = Instant::now() + LISTING_TIMEOUT;
        while !self.listed.load(Ordering::Acquire) && Instant::now() < end {
            tokio::time::sleep(LISTING_CHECK_INTERVAL).await;
        }
    }

    pub(super) fn answer(&self, packet: &[u8], from: IpAddr, protocol: Protocol) -> Answer {
        let begun = Instant::now();
        let query = match query::parse(packet) {
            Parsed::Ignore => {
                self.metrics.ignored();
                return Answer::None;
            }
            Parsed::Refuse(packet) => {
                let code =
                    packet.get(3).map_or(ResponseCode::ServFail, |byte| ResponseCode::from(0, byte & 0x0f));
                self.metrics.answered(RecordType::ZERO, code, begun.elapsed());
                return Answer::Now(packet);
            }
            Parsed::Ask(query) => query,
        };
        let limit = protocol.limit(&query);
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let settings = &view.settings;
        if settings.log {
            tracing::info!(client = %from, name = %query.name, kind = %query.kind, "question");
        }
        let client = view.index.client_at(&from);
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let mut resolution = Resolution::new(&query, client, &view.index, settings, seed);
        let mut next = resolution.next(&view.index, settings);
        let mut seat = None;
        loop {
            match next {
                Next::Done(reply) => return Answer::Now(self.finish(&query, reply, begun, limit)),
                Next::Forward(name) => {
                    if !query.recursion_desired {
                        let reply = Reply::of(ResponseCode::Refused);
                        return Answer::Now(self.finish(&query, reply, begun, limit));
                    }
                    // Before an upstream is asked: a client without a seat opens no question there.
                    let Some(taken) = seat.take().or_else(|| self.waiting.take(from)) else {
                        return self.overloaded(&query, begun, limit);
                    };
                    match self.forwarder.start(asked(&query, &name), settings) {
                        Start::Known(said) => {
                            seat = Some(taken);
                            next = resolution.forwarded(said, &view.index, settings);
                        }
                        start => {
                            let settings = settings.clone();
                            return Answer::Later(Box::new(Pending {
                                query,
                                resolution,
                                start,
                                settings,
                                begun,
                                limit,
                                seat: taken,
                            }));
                        }
                    }
                }
            }
        }
    }

    fn overloaded(&self, query: &Query, begun: Instant, limit: usize) -> Answer {
        self.metrics.overloaded();
        Answer::Now(self.finish(query, Reply::of(ResponseCode::ServFail), begun, limit))
    }

    /// The answer, once upstreams have answered.
    pub(super) async fn resolve(&self, pending: Box<Pending>) -> Vec<u8> {
        let Pending { query, mut resolution, mut start, settings, begun, limit, seat: _seat } = *pending;
        loop {
            let said = match start {
                Start::Known(said) => said,
                Start::Waiting(flight) => Forwarder::wait(flight).await,
            };
            let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
            match resolution.forwarded(said, &view.index, &settings) {
                Next::Done(reply) => return self.finish(&query, reply, begun, limit),
                Next::Forward(name) => start = self.forwarder.start(asked(&query, &name), &settings),
            }
        }
    }

    pub(super) fn finish(&self, query: &Query, mut reply: Reply, begun: Instant, limit: usize) -> Vec<u8> {
        // Until the cluster is known, no name of it is known not to exist.
        if reply.authoritative && !self.listed.load(Ordering::Acquire) && is_negative(&reply) {
            reply = Reply::of(ResponseCode::ServFail);
        }
        self.metrics.answered(query.kind, reply.code, begun.elapsed());
        reply.encode(query, limit)
    }
}

fn is_negative(reply: &Reply) -> bool {
    reply.code == ResponseCode::NXDomain || reply.answers.is_empty()
}

fn asked(query: &Query, name: &Name) -> Asked {
    Asked {
        name: name.to_lowercase(),
        kind: query.kind,
        dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
        checking_disabled: query.checking_disabled,
    }
}
