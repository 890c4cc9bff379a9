//! /metrics/resource: CPU and memory of the node, its pods and their containers, by the kubelet's names.

use std::sync::Arc;

use http::Response;

use super::answer::{self, Body};
use super::exposition::{Exposition, number, seconds, since_epoch};
use crate::context::NodeContext;
use crate::names;
use crate::stats::{ContainerSample, PodSample, Sample, Snapshot};

pub(super) async fn serve(context: &Arc<NodeContext>) -> Response<Body> {
    let snapshot = context.stats.snapshot(context).await;
    answer::exposition(text(&snapshot))
}

/// What is read of a sample.
type Read = fn(&Sample) -> f64;
/// The end of the name, the kind, the help with `%s` for what is measured.
type Family = (&'static str, &'static str, &'static str, Read);

const CPU: Family = (
    "cpu_usage_seconds_total",
    "counter",
    "[STABLE] Cumulative cpu time consumed by the %s in core-seconds",
    |sample| seconds(sample.usage.cpu),
);
const MEMORY: Family =
    ("memory_working_set_bytes", "gauge", "[STABLE] Current working set of the %s in bytes", |sample| {
        number(sample.usage.memory.working_set)
    });
const SWAP: Family = (
    "swap_usage_bytes",
    "gauge",
    "[ALPHA] Current swap usage of the %s in bytes. Reported only on non-windows systems",
    |sample| number(sample.usage.memory.swap),
);

fn text(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    for family in [CPU, MEMORY, SWAP] {
        write_family(&mut out, snapshot, family);
    }
    let name = "container_start_time_seconds";
    out.family(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    each_container(snapshot, |pod, namespace, container| {
        let labels = [("container", container.name.as_str()), ("namespace", namespace), ("pod", pod)];
        if let Some(started) = container.started {
            out.sample(name, &labels, since_epoch(started), None);
        }
    });
    let failed = f64::from(u8::from(snapshot.incomplete));
    for name in ["resource_scrape_error", "scrape_error"] {
        out.family(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
        out.sample(name, &[], failed, None);
    }
    out.finish()
}

/// One quantity of containers, the node and pods.
fn write_family(out: &mut Exposition, snapshot: &Snapshot, (name, kind, help, read): Family) {
    let begin = |out: &mut Exposition, of: &str| {
        let name = format!("{of}_{name}");
        out.family(&name, kind, &help.replace("%s", of));
        name
    };
    let full_name = begin(out, "container");
    each_container(snapshot, |pod, namespace, container| {
        let labels = [("container", container.name.as_str()), ("namespace", namespace), ("pod", pod)];
        out.sample(&full_name, &labels, read(&container.sample), Some(container.sample.usage.at));
    });
    let full_name = begin(out, "node");
    out.sample(&full_name, &[], read(&snapshot.node), Some(snapshot.node.usage.at));
    let full_name = begin(out, "pod");
    for pod in &snapshot.pods {
        let Some(sum) = pod.sum() else { continue };
        let (name, namespace, _) = names::of(&pod.pod);
        let labels = [("namespace", namespace.as_str()), ("pod", name.as_str())];
        out.sample(&full_name, &labels, read(&sum), Some(sum.usage.at));
    }
}

/// Calls with the names of the pod and its namespace, and each of its containers.
fn each_container(snapshot: &Snapshot, mut each: impl FnMut(&str, &str, &ContainerSample)) {
    for PodSample { pod, containers } in &snapshot.pods {
        let (name, namespace, _) = names::of(pod);
        containers.iter().for_each(|container| each(&name, &namespace, container));
    }
}
