//! /metrics/cadvisor: what containers use, by cAdvisor's names.

use std::sync::Arc;

use http::Response;
use jiff::Timestamp;

use super::answer::{self, Body};
use super::exposition::{Exposition, number, seconds, since_epoch};
use crate::context::NodeContext;
use crate::names;
use crate::stats::cgroup::{Details, Memory, Pressure};
use crate::stats::network::{self, Interface};
use crate::stats::{ContainerSample, PodSample, Snapshot};

pub(super) async fn serve(context: &Arc<NodeContext>) -> Response<Body> {
    let snapshot = context.stats.snapshot(context).await;
    let read = tokio::task::spawn_blocking(move || text(&snapshot)).await;
    answer::exposition(read.unwrap_or_default())
}

/// A cgroup with its labels: a container, or the machine's root.
struct Group<'a> {
    labels: Vec<(&'static str, String)>,
    container: Option<&'a ContainerSample>,
    at: Timestamp,
    cpu: u64,
    memory: Memory,
    details: Details,
}

/// A value of one cgroup; `None`: it is not known.
type Read = fn(&Group<'_>) -> Option<f64>;
/// Name, kind, help, value.
type Family = (&'static str, &'static str, &'static str, Read);

fn text(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    let groups = groups(snapshot);
    for (name, kind, help, read) in FAMILIES {
        write(&mut out, &groups, name, kind, help, &[], read);
    }
    write_failures(&mut out, &groups);
    write_network(&mut out, snapshot);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", u64::try_from(cores).unwrap_or(1)),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", snapshot.totals.memory),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", snapshot.totals.swap),
    ] {
        out.family(name, "gauge", help);
        out.sample(name, &[], number(value), None);
    }
    out.family(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("container_scrape_error", &[], f64::from(u8::from(snapshot.incomplete)), None);
    out.finish()
}

fn groups(snapshot: &Snapshot) -> Vec<Group<'_>> {
    let node = &snapshot.node.usage;
    let labels = |id: &str| vec![("id", id.to_owned())];
    let mut groups = vec![Group {
        labels: labels("/"),
        container: None,
        at: node.at,
        cpu: node.cpu,
        memory: node.memory,
        details: Details::default(),
    }];
    for PodSample { pod, containers } in &snapshot.pods {
        let (pod, namespace, _) = names::of(pod);
        for container in containers {
            let group = container.group.as_ref();
            let usage = &container.sample.usage;
            groups.push(Group {
                labels: vec![
                    ("container", container.name.clone()),
                    ("id", group.map_or("", |group| group.folders.name()).to_owned()),
                    ("image", container.image.clone()),
                    ("name", container.id.clone()),
                    ("namespace", namespace.clone()),
                    ("pod", pod.clone()),
                ],
                container: Some(container),
                at: usage.at,
                cpu: usage.cpu,
                memory: usage.memory,
                details: group.map(|group| Details::read(&group.folders)).unwrap_or_default(),
            });
        }
    }
    groups
}

fn write(
    out: &mut Exposition,
    groups: &[Group<'_>],
    name: &str,
    kind: &str,
    help: &str,
    more: &[(&str, &str)],
    read: impl Fn(&Group<'_>) -> Option<f64>,
) {
    if more.is_empty() {
        out.family(name, kind, help);
    }
    for group in groups {
        let Some(value) = read(group) else { continue };
        let own = group.labels.iter().map(|(label, value)| (*label, value.as_str()));
        let labels: Vec<(&str, &str)> = more.iter().copied().chain(own).collect();
        // cAdvisor's series of all CPUs together.
        let labels = match name {
            "container_cpu_usage_seconds_total" => [&[("cpu", "total")], labels.as_slice()].concat(),
            _ => labels,
        };
        out.sample(name, &labels, value, Some(group.at));
    }
}

/// A count of a cgroup's memory.
type OfMemory = fn(&Memory) -> u64;

fn write_failures(out: &mut Exposition, groups: &[Group<'_>]) {
    let name = "container_memory_failures_total";
    out.family(name, "counter", "Cumulative count of memory allocation failures.");
    let types: [(&str, OfMemory); 2] =
        [("pgfault", |memory| memory.page_faults), ("pgmajfault", |memory| memory.major_page_faults)];
    for (kind, read) in types {
        let more = [("failure_type", kind), ("scope", "hierarchy")];
        write(out, groups, name, "", "", &more, |group| Some(number(read(&group.memory))));
    }
}

/// A value of an interface.
type OfInterface = fn(&Interface) -> u64;

const NETWORK: [(&str, &str, OfInterface); 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.received.bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |i| {
        i.received.packets
    }),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |i| i.received.dropped,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.received.errors,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.sent.bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |i| {
        i.sent.packets
    }),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |i| i.sent.dropped,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.sent.errors,
    ),
];

/// The interfaces of pods, which belong to no container, and of the machine.
fn write_network(out: &mut Exposition, snapshot: &Snapshot) {
    let mut all: Vec<(String, String, Timestamp, Vec<Interface>)> = Vec::new();
    let machine = network::of_process(std::process::id());
    all.push((String::new(), String::new(), snapshot.node.usage.at, machine));
    for pod in &snapshot.pods {
        let (name, namespace, _) = names::of(&pod.pod);
        let (Some(pid), Some(sum)) = (pod.pid().filter(|_| pod.has_network()), pod.sum()) else { continue };
        all.push((namespace, name, sum.usage.at, network::of_process(pid)));
    }
    for (name, help, read) in NETWORK {
        out.family(name, "counter", help);
        for (namespace, pod, at, interfaces) in &all {
            for interface in interfaces {
                let own = [("interface", interface.name.as_str()), ("namespace", namespace), ("pod", pod)];
                let root = [("id", "/"), ("interface", interface.name.as_str())];
                let labels = if pod.is_empty() { root.as_slice() } else { own.as_slice() };
                out.sample(name, labels, number(read(interface)), Some(*at));
            }
        }
    }
}

fn nanoseconds(value: Option<u64>) -> Option<f64> {
    value.map(seconds)
}

fn quota(group: &Group<'_>, at: usize) -> Option<u64> {
    group.details.quota_limit.and(group.details.quota)?.get(at).copied()
}

fn input_output(group: &Group<'_>, at: usize) -> Option<f64> {
    group.details.io?.get(at).copied().map(number)
}

fn stalled(pressure: Option<Pressure>) -> Option<f64> {
    pressure.map(|pressure| seconds(pressure.full.total))
}

fn waiting(pressure: Option<Pressure>) -> Option<f64> {
    pressure.map(|pressure| seconds(pressure.some.total))
}

const FAMILIES: &[Family] = &[
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |g| {
        Some(seconds(g.cpu))
    }),
    ("container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", |g| {
        nanoseconds(g.details.user)
    }),
    (
        "container_cpu_system_seconds_total",
        "counter",
        "Cumulative system cpu time consumed in seconds.",
        |g| nanoseconds(g.details.system),
    ),
    ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |g| {
        quota(g, 0).map(number)
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |g| {
        quota(g, 1).map(number)
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |g| quota(g, 2).map(seconds),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |g| Some(number(g.memory.usage)),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |g| {
        Some(number(g.memory.working_set))
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |g| Some(number(g.memory.rss))),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |g| {
        Some(number(g.memory.cache))
    }),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |g| {
        Some(number(g.memory.mapped_file))
    }),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |g| Some(number(g.memory.swap))),
    ("container_memory_total_active_file_bytes", "gauge", "Current total active file in bytes.", |g| {
        Some(number(g.memory.active_file))
    }),
    ("container_memory_total_inactive_file_bytes", "gauge", "Current total inactive file in bytes.", |g| {
        Some(number(g.memory.inactive_file))
    }),
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |g| {
        g.details.memory_peak.map(number)
    }),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", |g| {
        g.details.memory_failures.map(number)
    }),
    (
        "container_oom_events_total",
        "counter",
        "Count of out of memory events observed for the container",
        |g| g.details.oom_kills.map(number),
    ),
    ("container_fs_reads_bytes_total", "counter", "Cumulative count of bytes read", |g| input_output(g, 0)),
    ("container_fs_writes_bytes_total", "counter", "Cumulative count of bytes written", |g| {
        input_output(g, 1)
    }),
    ("container_fs_reads_total", "counter", "Cumulative count of reads completed", |g| input_output(g, 2)),
    ("container_fs_writes_total", "counter", "Cumulative count of writes completed", |g| input_output(g, 3)),
    (
        "container_pressure_cpu_stalled_seconds_total",
        "counter",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |g| stalled(g.details.pressure.cpu),
    ),
    (
        "container_pressure_cpu_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |g| waiting(g.details.pressure.cpu),
    ),
    (
        "container_pressure_memory_stalled_seconds_total",
        "counter",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |g| stalled(g.details.pressure.memory),
    ),
    (
        "container_pressure_memory_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |g| waiting(g.details.pressure.memory),
    ),
    (
        "container_pressure_io_stalled_seconds_total",
        "counter",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |g| stalled(g.details.pressure.io),
    ),
    (
        "container_pressure_io_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |g| waiting(g.details.pressure.io),
    ),
    ("container_processes", "gauge", "Number of processes running inside the container.", |g| {
        g.details.processes.map(number)
    }),
    ("container_threads", "gauge", "Number of threads running inside the container", |g| {
        g.details.tasks.map(number)
    }),
    (
        "container_threads_max",
        "gauge",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |g| g.container.map(|_| number(g.details.tasks_limit.unwrap_or(0))),
    ),
    ("container_spec_cpu_shares", "gauge", "CPU share of the container.", |g| g.details.shares.map(number)),
    ("container_spec_cpu_quota", "gauge", "CPU quota of the container.", |g| {
        g.details.quota_limit.map(|(quota, _)| number(quota))
    }),
    ("container_spec_cpu_period", "gauge", "CPU period of the container.", |g| {
        g.details.quota_limit.map(|(_, period)| number(period))
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |g| {
        g.container.map(|_| number(g.details.memory_limit.unwrap_or(0)))
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |g| g.container?.started.map(since_epoch),
    ),
    ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |g| {
        g.container.map(|_| since_epoch(g.at))
    }),
];
