//! API Priority and Fairness: each request gets seats of its priority level, waits for them, or is refused.
//!
//! In: FlowSchemas and PriorityLevelConfigurations, and each request after authentication. Out: a permit that holds its
//! seats until it is dropped, or 429. [`core`] decides, under one short lock.

mod classify;
mod core;
pub(crate) mod defaults;
mod levels;
mod metrics;
mod shuffle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use skep_api::{Status, meta};
use tokio::sync::oneshot;

use crate::authz::Attributes;
use crate::lock::{Lock, RwLock};
use classify::FlowSchema;
use core::{Core, Decision, LevelId, Refusal, Seats, Started, Ticket};
use levels::Configured;
pub(crate) use metrics::FairnessMetrics;
use metrics::FlowMetrics;

/// The time that a request waits for seats: a quarter of its deadline, as upstream.
const MAX_WAIT: Duration = Duration::from_secs(15);
const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The gate of all requests. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Fairness(Arc<Shared>);

struct Shared {
    core: Lock<Core<Waiter>>,
    /// The schemas by precedence. A change of a configuration replaces them.
    flows: RwLock<Arc<[Arc<Flow>]>>,
    /// Times of the core are since then.
    start: Instant,
    /// Its seed is secret: a user cannot choose a name that hashes to another's queues.
    hasher: RandomState,
    metrics: FairnessMetrics,
}

/// A FlowSchema with its level.
pub(crate) struct Flow {
    schema: FlowSchema,
    level: LevelId,
    is_exempt: bool,
    nominal: u32,
    headers: [(HeaderName, HeaderValue); 2],
    metrics: FlowMetrics,
}

impl Flow {
    /// Names schema and level by their uids, so that a user cannot see how requests are classified.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap) {
        headers.extend(self.headers.iter().cloned());
    }

    /// The seats of a list of this many objects.
    pub(crate) fn list_width(&self, objects: usize) -> u32 {
        levels::list_width(objects as u64, self.nominal)
    }
}

/// What a waiting request gets when it has its seats.
struct Waiter {
    sender: oneshot::Sender<Permit>,
    flow: Arc<Flow>,
}

/// The seats of a running request; given back on drop.
pub(crate) struct Permit {
    fairness: Arc<Shared>,
    flow: Arc<Flow>,
    /// `None` in an exempt level.
    seats: Option<Seats>,
}

impl Permit {
    fn begin(fairness: &Arc<Shared>, flow: Arc<Flow>, seats: Option<Seats>) -> Permit {
        flow.metrics.begun(seats.as_ref().map_or(1, |seats| seats.width));
        Permit { fairness: fairness.clone(), flow, seats }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.flow.metrics.ended(self.seats.as_ref().map_or(1, |seats| seats.width));
        if let Some(seats) = &self.seats {
            let started = self.fairness.core.lock().finish(seats, self.fairness.now());
            self.fairness.start(started);
        }
    }
}

/// A request in a queue; it leaves with its drop.
struct Place<'a> {
    fairness: &'a Arc<Shared>,
    flow: &'a Flow,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.flow.metrics.left_queue();
        let (_, started) = self.fairness.core.lock().cancel(&self.ticket, self.fairness.now());
        self.fairness.start(started);
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Wakes requests that have their seats now. One that is gone gives them back.
    fn start(self: &Arc<Shared>, started: Started<Waiter>) {
        for (Waiter { sender, flow }, seats) in started {
            drop(sender.send(Permit::begin(self, flow, Some(seats))));
        }
    }
}

impl Fairness {
    /// With the mandatory objects only; [`Self::configure`] completes it.
    pub(crate) fn new(metrics: FairnessMetrics) -> Fairness {
        let shared = Shared {
            core: Lock::new(Core::new()),
            flows: RwLock::default(),
            start: Instant::now(),
            hasher: RandomState::new(),
            metrics,
        };
        let fairness = Fairness(Arc::new(shared));
        fairness.configure(&[], &[]);
        fairness
    }

    /// Takes on FlowSchemas and PriorityLevelConfigurations. A schema without its level does not count. Mandatory objects
    /// that are missing, because they were deleted just now, are as they should be.
    pub(crate) fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let mandatory: Vec<Value> =
            defaults::all().into_iter().filter(|one| one.is_mandatory).map(|one| one.object).collect();
        let (all_levels, all_schemas) = (
            with_missing(levels, &mandatory, "PriorityLevelConfiguration"),
            with_missing(schemas, &mandatory, "FlowSchema"),
        );
        let configured: Vec<Configured<'_>> = all_levels
            .iter()
            .map(|level| Configured { name: meta::name(level), spec: &level["spec"] })
            .collect();
        let specs = levels::specs(&configured);
        self.0.metrics.set_limits(&specs);
        let (ids, started) = self.0.core.lock().configure(specs.clone(), self.0.now());
        let ids: HashMap<String, LevelId> = ids.into_iter().collect();
        let mut read: Vec<FlowSchema> =
            all_schemas.iter().filter_map(|schema| FlowSchema::read(schema)).collect();
        read.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let flow = |schema: FlowSchema| {
            let level = *ids.get(schema.level())?;
            let spec = specs.iter().find(|spec| spec.name == schema.level())?;
            let object = all_levels.iter().find(|object| meta::name(object) == schema.level())?;
            let header = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
            Some(Arc::new(Flow {
                level,
                is_exempt: spec.response == core::Response::Exempt,
                nominal: spec.nominal,
                headers: [
                    (FLOW_SCHEMA_UID, header(&schema.uid)),
                    (PRIORITY_LEVEL_UID, header(meta::uid(object))),
                ],
                metrics: self.0.metrics.of_flow(schema.level(), &schema.name),
                schema,
            }))
        };
        *self.0.flows.write() = read.into_iter().filter_map(flow).collect();
        self.0.start(started);
    }

    /// The flow of a request. Everything matches the schema `catch-all`, unless a user changes it.
    pub(crate) fn flow_of(&self, request: &Attributes<'_>) -> Option<Arc<Flow>> {
        let flows = self.0.flows.read().clone();
        flows.iter().find(|flow| flow.schema.matches(request)).cloned()
    }

    /// Waits for the seats of a request.
    pub(crate) async fn admit(
        &self,
        flow: &Arc<Flow>,
        request: &Attributes<'_>,
        width: u32,
    ) -> Result<Permit, Status> {
        if flow.is_exempt {
            flow.metrics.dispatched(Duration::ZERO);
            return Ok(Permit::begin(&self.0, flow.clone(), None));
        }
        let hash = self.0.hasher.hash_one((&flow.schema.name, flow.schema.distinguisher(request)));
        let mut receiver = None;
        let token = || {
            let (sender, waiting) = oneshot::channel();
            receiver = Some(waiting);
            Waiter { sender, flow: flow.clone() }
        };
        let decision = self.0.core.lock().arrive(flow.level, hash, width, self.0.now(), token);
        let ticket = match decision {
            Decision::Run(seats) => {
                flow.metrics.dispatched(Duration::ZERO);
                return Ok(Permit::begin(&self.0, flow.clone(), Some(seats)));
            }
            Decision::Refuse(refusal) => {
                let why = match refusal {
                    Refusal::QueueFull => "queue-full",
                    Refusal::ConcurrencyLimit => "concurrency-limit",
                };
                return Err(refused(flow, why, Duration::ZERO));
            }
            Decision::Wait(ticket) => ticket,
        };
        flow.metrics.entered_queue();
        let (since, place) = (Instant::now(), Place { fairness: &self.0, flow, ticket });
        let waited = match receiver {
            Some(waiting) => tokio::time::timeout(MAX_WAIT, waiting).await,
            None => return Err(refused(flow, "cancelled", Duration::ZERO)),
        };
        drop(place);
        match waited {
            Ok(Ok(permit)) => {
                flow.metrics.dispatched(since.elapsed());
                Ok(permit)
            }
            _ => Err(refused(flow, "time-out", since.elapsed())),
        }
    }
}

fn refused(flow: &Flow, why: &'static str, waited: Duration) -> Status {
    flow.metrics.rejected(why, waited);
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

/// These objects, and the mandatory ones of the kind that are not among them.
fn with_missing<'a>(objects: &'a [Value], mandatory: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let is_missing = |wanted: &&Value| {
        wanted["kind"] == kind && !objects.iter().any(|object| meta::name(object) == meta::name(wanted))
    };
    objects.iter().chain(mandatory.iter().filter(is_missing)).collect()
}
