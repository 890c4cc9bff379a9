//! The network's metrics, in Prometheus' text format.
//!
//! In: the programs' counters, figures of the engine's work. Out: lines for `/metrics`. Names are in docs/operations.md.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use skep_abi::{
    BACKEND_PAGES_MAX, CLASSES_MAX, DropReason, MAGLEV_MAX, PODS_MAX, SERVICES_MAX, SLOTS_MAX, table_of,
};
use skep_datapath::{Counters, DatapathError};
use skep_netplan::Observed;

use crate::dataplane::FlowTableState;

/// Clones share one state.
#[derive(Clone, Default)]
pub struct Metrics(Arc<State>);

#[derive(Default)]
struct State {
    counters: OnceLock<Counters>,
    live_flows: AtomicU64,
    flows_capacity: AtomicU64,
    expired_flows: AtomicU64,
    failed_writes: AtomicU64,
    /// Entries by map, in the order of [`MAPS`].
    entries: [AtomicU64; MAPS.len()],
    plan: Histogram,
    apply: Histogram,
    latency: Histogram,
}

/// The number of a map's entries.
type Entries = fn(&Observed) -> usize;

/// Maps that the agent fills, each with its number of entries and its limit.
const MAPS: [(&str, Entries, u32); 7] = [
    ("SERVICES", |maps| maps.services.len(), SERVICES_MAX),
    ("BACKEND_PAGES", |maps| maps.backends.len(), BACKEND_PAGES_MAX),
    ("MAGLEV", |maps| maps.maglev.len(), MAGLEV_MAX),
    ("PODS", |maps| maps.pods.len(), PODS_MAX),
    ("VERDICTS", |maps| maps.verdicts.len(), 2 * SLOTS_MAX),
    ("CLASSES", classes, CLASSES_MAX),
    ("CLUSTER", |maps| maps.cluster.len(), skep_abi::CLUSTER_MAX),
];

/// Of the generation in force.
fn classes(maps: &Observed) -> usize {
    maps.classes.get(table_of(maps.generation) as usize).map_or(0, |classes| classes.len())
}

impl Metrics {
    /// The counters of the programs, which are there once the datapath is open; later ones are ignored.
    pub(crate) fn set_counters(&self, counters: Counters) {
        let _ = self.0.counters.set(counters);
    }

    pub(crate) fn expired(&self, table: FlowTableState) {
        let State { live_flows, flows_capacity, expired_flows, .. } = &*self.0;
        live_flows.store(table.live as u64, Ordering::Relaxed);
        flows_capacity.store(table.size as u64, Ordering::Relaxed);
        expired_flows.fetch_add(table.removed as u64, Ordering::Relaxed);
    }

    /// A plan took `plan` to make and `apply` to perform. It is in force `latency` after its first event came.
    pub(crate) fn applied(
        &self,
        plan: Duration,
        apply: Duration,
        latency: Option<Duration>,
        maps: &Observed,
    ) {
        self.0.plan.observe(plan);
        self.0.apply.observe(apply);
        if let Some(latency) = latency {
            self.0.latency.observe(latency);
        }
        for ((_, count, _), entries) in MAPS.iter().zip(&self.0.entries) {
            entries.store(count(maps) as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn write_failed(&self) {
        self.0.failed_writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends all metrics.
    pub fn write(&self, out: &mut String) {
        if let Some(counters) = self.0.counters.get()
            && let Err(error) = write_counters(counters, out)
        {
            tracing::warn!(%error, "read the programs' counters failed");
        }
        // Writing to a text never fails.
        let _ = self.0.write(out);
    }
}

impl State {
    fn write(&self, out: &mut String) -> fmt::Result {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut number = |name: &str, kind: &str, help: &str, value: u64| {
            head(out, name, kind, help).and_then(|()| writeln!(out, "{name} {value}"))
        };
        number(
            "skep_datapath_flows",
            "gauge",
            "Entries of the table of flows at its last walk",
            value(&self.live_flows),
        )?;
        number(
            "skep_datapath_flows_capacity",
            "gauge",
            "Entries that the table of flows has room for",
            value(&self.flows_capacity),
        )?;
        number(
            "skep_datapath_flows_expired_total",
            "counter",
            "Entries of flows that a walk removed",
            value(&self.expired_flows),
        )?;
        number(
            "skep_network_failed_writes_total",
            "counter",
            "Writes that the kernel refused; each is tried again",
            value(&self.failed_writes),
        )?;
        let name = "skep_network_map_entries";
        head(out, name, "gauge", "Entries of a map that the agent fills")?;
        for ((map, _, _), entries) in MAPS.iter().zip(&self.entries) {
            writeln!(out, "{name}{{map=\"{map}\"}} {}", value(entries))?;
        }
        let name = "skep_network_map_capacity";
        head(out, name, "gauge", "Entries that fit into the map")?;
        for (map, _, capacity) in &MAPS {
            writeln!(out, "{name}{{map=\"{map}\"}} {capacity}")?;
        }
        self.plan.write("skep_network_plan_seconds", "Time to plan a change", out)?;
        self.apply.write("skep_network_apply_seconds", "Time to write a change to the kernel", out)?;
        let help = "Time from the arrival of a watch event until the kernel has the change";
        self.latency.write("skep_network_programming_seconds", help, out)
    }
}

fn write_counters(counters: &Counters, out: &mut String) -> Result<(), DatapathError> {
    let (drops, evictions, events) = (counters.drops()?, counters.evictions()?, counters.events()?);
    let no_port = drops.iter().filter(|count| count.reason == DropReason::NoPort);
    let no_port: u64 = no_port.map(|count| count.packets).sum();
    let mut write = || -> fmt::Result {
        let name = "skep_datapath_drops_total";
        head(out, name, "counter", "Packets that the programs dropped, by reason and direction")?;
        for count in drops.iter().filter(|count| count.packets > 0) {
            let (reason, direction) = (count.reason.name(), count.hook.name());
            writeln!(out, "{name}{{reason=\"{reason}\",direction=\"{direction}\"}} {}", count.packets)?;
        }
        let name = "skep_datapath_flow_evictions_total";
        head(out, name, "counter", "Entries of unanswered flows that made room for newer ones")?;
        writeln!(out, "{name} {evictions}")?;
        let name = "skep_datapath_port_allocation_failures_total";
        head(out, name, "counter", "Packets for whose translation no source port was free")?;
        writeln!(out, "{name} {no_port}")?;
        let name = "skep_flow_events_total";
        head(out, name, "counter", "Flow events that the programs sent, by kind")?;
        for event in &events {
            writeln!(out, "{name}{{kind=\"{}\"}} {}", event.kind.name(), event.sent)?;
        }
        let name = "skep_flow_events_lost_total";
        head(out, name, "counter", "Flow events that were not sent, by kind and cause")?;
        for event in &events {
            for (cause, count) in [("rate", event.limited), ("full", event.full)] {
                writeln!(out, "{name}{{kind=\"{}\",cause=\"{cause}\"}} {count}", event.kind.name())?;
            }
        }
        Ok(())
    };
    // Writing to a text never fails.
    let _ = write();
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// Upper bounds in microseconds: from what one write takes to what operators notice.
const BOUNDS_US: [u64; 11] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000, 500_000, 2_000_000];

#[derive(Default)]
struct Histogram {
    /// Not cumulative; the last one has no bound.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) -> fmt::Result {
        head(out, name, "histogram", help)?;
        let mut total = 0;
        let bounds = BOUNDS_US.iter().map(|us| seconds(*us).to_string()).chain(["+Inf".to_owned()]);
        for (count, bound) in self.counts.iter().zip(bounds) {
            total += count.load(Ordering::Relaxed);
            writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}")?;
        }
        let sum = seconds(self.sum_us.load(Ordering::Relaxed));
        writeln!(out, "{name}_sum {sum}\n{name}_count {total}")
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative() {
        let metrics = Metrics::default();
        let maps = Observed::default();
        let ms = Duration::from_millis;
        metrics.applied(ms(2), ms(60_000), None, &maps);
        metrics.applied(ms(1), ms(0), Some(ms(4)), &maps);
        let mut text = String::new();
        metrics.write(&mut text);
        for line in [
            "skep_network_plan_seconds_bucket{le=\"0.001\"} 1",
            "skep_network_plan_seconds_bucket{le=\"0.0025\"} 2",
            "skep_network_plan_seconds_sum 0.003",
            "skep_network_apply_seconds_bucket{le=\"2\"} 1",
            "skep_network_apply_seconds_bucket{le=\"+Inf\"} 2",
            "skep_network_programming_seconds_count 1",
            "skep_network_map_capacity{map=\"PODS\"} 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_walk_of_the_table_counts_what_it_removed() {
        let metrics = Metrics::default();
        metrics.expired(FlowTableState { live: 7, removed: 2, size: 100 });
        metrics.expired(FlowTableState { live: 5, removed: 3, size: 100 });
        let mut text = String::new();
        metrics.write(&mut text);
        for line in [
            "skep_datapath_flows 5",
            "skep_datapath_flows_capacity 100",
            "skep_datapath_flows_expired_total 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
