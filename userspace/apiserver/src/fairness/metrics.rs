//! Metrics under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::core::{LevelSpec, Response};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

/// Upper bounds in seconds, as upstream's.
const WAIT_BUCKETS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

/// Of all flows.
#[derive(Clone)]
pub(crate) struct FairnessMetrics {
    dispatched: Family<FlowLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    in_queue: Family<FlowLabels, Gauge>,
    executing: Family<FlowLabels, Gauge>,
    seats: Family<FlowLabels, Gauge>,
    waits: Family<WaitLabels, Histogram, fn() -> Histogram>,
    nominal: Family<LevelLabels, Gauge>,
}

impl FairnessMetrics {
    pub(crate) fn register(registry: &mut Registry) -> FairnessMetrics {
        let metrics = FairnessMetrics {
            dispatched: Family::default(),
            rejected: Family::default(),
            in_queue: Family::default(),
            executing: Family::default(),
            seats: Family::default(),
            waits: Family::new_with_constructor(|| Histogram::new(WAIT_BUCKETS)),
            nominal: Family::default(),
        };
        let FairnessMetrics { dispatched, rejected, in_queue, executing, seats, waits, nominal } =
            metrics.clone();
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        registry.register(name("dispatched_requests"), "Requests that got their seats", dispatched);
        registry.register(name("rejected_requests"), "Requests that were refused", rejected);
        registry.register(name("current_inqueue_requests"), "Requests that wait for seats", in_queue);
        registry.register(name("current_executing_requests"), "Requests that have seats", executing);
        registry.register(name("current_executing_seats"), "Seats in use", seats);
        registry.register(name("request_wait_duration_seconds"), "Time in a queue", waits);
        registry.register(name("nominal_limit_seats"), "Seats of a priority level", nominal);
        metrics
    }

    pub(super) fn set_limits(&self, levels: &[LevelSpec]) {
        self.nominal.clear();
        for level in levels {
            let seats = if level.response == Response::Exempt { 0 } else { level.nominal };
            let labels = LevelLabels { priority_level: level.name.clone() };
            self.nominal.get_or_create(&labels).set(i64::from(seats));
        }
    }

    /// Found once for many requests.
    pub(super) fn of_flow(&self, level: &str, schema: &str) -> FlowMetrics {
        let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
        let labels = FlowLabels { priority_level: level.to_owned(), flow_schema: schema.to_owned() };
        let wait = |execute| {
            let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
            self.waits.get_or_create_owned(&WaitLabels { priority_level, flow_schema, execute })
        };
        FlowMetrics {
            dispatched: self.dispatched.get_or_create_owned(&labels),
            in_queue: self.in_queue.get_or_create_owned(&labels),
            executing: self.executing.get_or_create_owned(&labels),
            seats: self.seats.get_or_create_owned(&labels),
            waits: wait("true"),
            refused_waits: wait("false"),
            rejected: self.rejected.clone(),
            rejected_labels: RejectedLabels { priority_level, flow_schema, reason: "" },
        }
    }
}

/// Of one flow schema.
pub(super) struct FlowMetrics {
    dispatched: Counter,
    in_queue: Gauge,
    executing: Gauge,
    seats: Gauge,
    waits: Histogram,
    refused_waits: Histogram,
    rejected: Family<RejectedLabels, Counter>,
    rejected_labels: RejectedLabels,
}

impl FlowMetrics {
    pub(super) fn dispatched(&self, waited: Duration) {
        self.dispatched.inc();
        self.waits.observe(waited.as_secs_f64());
    }

    pub(super) fn rejected(&self, reason: &'static str, waited: Duration) {
        self.rejected.get_or_create(&RejectedLabels { reason, ..self.rejected_labels.clone() }).inc();
        self.refused_waits.observe(waited.as_secs_f64());
    }

    pub(super) fn entered_queue(&self) {
        self.in_queue.inc();
    }

    pub(super) fn left_queue(&self) {
        self.in_queue.dec();
    }

    pub(super) fn begun(&self, seats: u32) {
        self.executing.inc();
        self.seats.inc_by(i64::from(seats));
    }

    pub(super) fn ended(&self, seats: u32) {
        self.executing.dec();
        self.seats.dec_by(i64::from(seats));
    }
}
