//! /stats/summary: the kubelet's summary API (k8s.io/kubelet/pkg/apis/stats/v1alpha1).
//!
//! `cpu` has a field of our own, `windowSeconds`: the time over which `usageNanoCores` was measured.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Body, json as json_answer};
use super::query::Query;
use crate::context::NodeContext;
use crate::cri::api::ContainerStats;
use crate::eviction::folder_bytes;
use crate::names;
use crate::plan::status::seconds;
use crate::stats::cgroup::{Details, Pressure, Pressures};
use crate::stats::network::{self, Interface};
use crate::stats::{ContainerSample, PodSample, Sample, Snapshot, machine};

/// `only_cpu_and_memory=true` leaves out what takes long.
pub(super) async fn serve(context: &Arc<NodeContext>, query: &Query) -> Response<Body> {
    let whole = !query.flag(&["only_cpu_and_memory"]);
    let snapshot = context.stats.snapshot(context).await;
    let layers = if whole { layers(context).await } else { HashMap::new() };
    let context = context.clone();
    let summary = tokio::task::spawn_blocking(move || summary(&context, &snapshot, whole, &layers)).await;
    json_answer(&summary.unwrap_or_default())
}

/// What the runtime knows of writable layers, by container id.
async fn layers(context: &NodeContext) -> HashMap<String, ContainerStats> {
    let stats = context.cri.container_stats().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "read container statistics failed");
        Vec::new()
    });
    let by_id = |stat: ContainerStats| Some((stat.attributes.as_ref()?.id.clone(), stat));
    stats.into_iter().filter_map(by_id).collect()
}

fn summary(
    context: &NodeContext,
    snapshot: &Snapshot,
    whole: bool,
    layers: &HashMap<String, ContainerStats>,
) -> Value {
    let pods = snapshot.pods.iter().map(|pod| pod_stats(context, pod, whole, layers));
    json!({"node": node_stats(context, snapshot, whole), "pods": pods.collect::<Vec<_>>()})
}

fn node_stats(context: &NodeContext, snapshot: &Snapshot, whole: bool) -> Value {
    let (sample, totals, pressures) = (&snapshot.node, &snapshot.totals, machine::pressures());
    let mut node = json!({
        "nodeName": context.node,
        "startTime": machine::boot_time().map(time),
        "cpu": cpu(sample, pressures.cpu),
        "memory": memory(sample, Some(totals.memory), pressures.memory),
        "io": io(sample, pressures),
        "swap": {"time": time(sample.usage.at), "swapAvailableBytes": totals.swap_free,
            "swapUsageBytes": sample.usage.memory.swap},
    });
    if whole {
        let at = sample.usage.at;
        node["network"] =
            network(at, network::default_interface().as_deref(), network::of_process(std::process::id()));
        node["fs"] = file_system(&context.root, at);
        node["runtime"] =
            json!({"imageFs": file_system(&context.root, at), "containerFs": file_system(&context.root, at)});
        if let Some((greatest, tasks)) = machine::processes() {
            node["rlimit"] = json!({"time": time(at), "maxpid": greatest, "curproc": tasks});
        }
    }
    node
}

fn pod_stats(
    context: &NodeContext,
    pod: &PodSample,
    whole: bool,
    layers: &HashMap<String, ContainerStats>,
) -> Value {
    let (name, namespace, uid) = names::of(&pod.pod);
    let started = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|at| time(at.0));
    let logs = PathBuf::from(&context.settings.log_root).join(names::log_folder(&pod.pod));
    let mut used = 0u64;
    let containers = pod.containers.iter().map(|container| {
        let mut value = container_stats(container);
        if whole {
            let at = container.sample.usage.at;
            let logged = folder_bytes(&logs.join(&container.name));
            let layer = layers.get(&container.id).and_then(|stat| stat.writable_layer.as_ref());
            let bytes = layer.and_then(|layer| layer.used_bytes.as_ref()).map_or(0, |bytes| bytes.value);
            let inodes = layer.and_then(|layer| layer.inodes_used.as_ref()).map(|inodes| inodes.value);
            value["rootfs"] = file_system_used(&context.root, at, bytes, inodes);
            value["logs"] = file_system_used(&context.root, at, logged, None);
            used = used.saturating_add(bytes).saturating_add(logged);
        }
        value
    });
    let mut value = json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "startTime": started,
        "containers": containers.collect::<Vec<_>>(),
    });
    let Some(sum) = pod.sum() else { return value };
    value["cpu"] = cpu(&sum, None);
    value["memory"] = memory(&sum, None, None);
    value["swap"] = json!({"time": time(sum.usage.at), "swapUsageBytes": sum.usage.memory.swap});
    if whole {
        let at = sum.usage.at;
        if let Some(pid) = pod.pid().filter(|_| pod.has_network()) {
            value["network"] = network(at, Some("eth0"), network::of_process(pid));
        }
        let volumes = volumes(context, pod, at, &mut used);
        value["volume"] = volumes.into();
        value["ephemeral-storage"] = file_system_used(&context.root, at, used, None);
        let tasks = pod.containers.iter().filter_map(|container| container.group.as_ref());
        let tasks: u64 = tasks.filter_map(|group| Details::read(&group.folders).tasks).sum();
        value["process_stats"] = json!({"process_count": tasks});
    }
    value
}

/// The emptyDirs of a pod; those on disk are added to `used`.
fn volumes(context: &NodeContext, pod: &PodSample, at: Timestamp, used: &mut u64) -> Vec<Value> {
    let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let empty = volumes.filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)));
    let measured = empty.filter_map(|(volume, source)| {
        let path = context.volumes.host_path(&pod.pod, volume)?;
        let in_memory = source.medium.as_deref() == Some("Memory");
        let bytes = folder_bytes(&path);
        if !in_memory {
            *used = used.saturating_add(bytes);
        }
        let mut value = file_system_used(&path, at, bytes, None);
        value["name"] = volume.name.as_str().into();
        Some(value)
    });
    measured.collect()
}

fn container_stats(container: &ContainerSample) -> Value {
    let sample = &container.sample;
    let details = container.group.as_ref().map(|group| Details::read(&group.folders)).unwrap_or_default();
    json!({
        "name": container.name,
        "startTime": container.started.map(time),
        "cpu": cpu(sample, details.pressure.cpu),
        "memory": memory(sample, details.memory_limit, details.pressure.memory),
        "io": io(sample, details.pressure),
        "swap": {"time": time(sample.usage.at), "swapUsageBytes": sample.usage.memory.swap},
    })
}

fn cpu(sample: &Sample, pressure: Option<Pressure>) -> Value {
    let mut value = json!({"time": time(sample.usage.at), "usageCoreNanoSeconds": sample.usage.cpu});
    if let Some(rate) = sample.rate {
        value["usageNanoCores"] = rate.nano_cores.into();
        value["windowSeconds"] = rate.window.as_secs_f64().into();
    }
    with_pressure(value, pressure)
}

/// `limit` bounds what is available.
fn memory(sample: &Sample, limit: Option<u64>, pressure: Option<Pressure>) -> Value {
    let memory = &sample.usage.memory;
    let mut value = json!({
        "time": time(sample.usage.at),
        "usageBytes": memory.usage,
        "workingSetBytes": memory.working_set,
        "rssBytes": memory.rss,
        "pageFaults": memory.page_faults,
        "majorPageFaults": memory.major_page_faults,
    });
    if let Some(limit) = limit {
        value["availableBytes"] = limit.saturating_sub(memory.working_set).into();
    }
    with_pressure(value, pressure)
}

fn io(sample: &Sample, pressures: Pressures) -> Value {
    with_pressure(json!({"time": time(sample.usage.at)}), pressures.io)
}

fn with_pressure(mut value: Value, pressure: Option<Pressure>) -> Value {
    if let Some(Pressure { some, full }) = pressure {
        let [full, some] = [full, some].map(|stall| {
            let [avg10, avg60, avg300] = stall.averages;
            json!({"total": stall.total, "avg10": avg10, "avg60": avg60, "avg300": avg300})
        });
        value["psi"] = json!({"full": full, "some": some});
    }
    value
}

/// `main`: the interface whose counters stand for all.
fn network(at: Timestamp, main: Option<&str>, interfaces: Vec<Interface>) -> Value {
    let stats = |interface: &Interface| {
        json!({"name": interface.name,
            "rxBytes": interface.received.bytes, "rxErrors": interface.received.errors,
            "txBytes": interface.sent.bytes, "txErrors": interface.sent.errors})
    };
    let chosen = interfaces.iter().find(|interface| Some(interface.name.as_str()) == main);
    let mut value = chosen.map_or_else(|| json!({"name": ""}), stats);
    value["time"] = time(at).into();
    value["interfaces"] = interfaces.iter().map(stats).collect();
    value
}

/// The file system of a path, in bytes and inodes; null if it cannot be read.
fn file_system(path: &Path, at: Timestamp) -> Value {
    let Ok(stat) = rustix::fs::statvfs(path) else { return Value::Null };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    json!({
        "time": time(at),
        "capacityBytes": bytes(stat.f_blocks),
        "availableBytes": bytes(stat.f_bavail),
        "usedBytes": bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        "inodes": stat.f_files,
        "inodesFree": stat.f_ffree,
        "inodesUsed": stat.f_files.saturating_sub(stat.f_ffree),
    })
}

/// The same, where the caller knows how much a part of it takes.
fn file_system_used(path: &Path, at: Timestamp, bytes: u64, inodes: Option<u64>) -> Value {
    let mut value = file_system(path, at);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("usedBytes".to_owned(), bytes.into());
        match inodes {
            Some(inodes) => drop(fields.insert("inodesUsed".to_owned(), inodes.into())),
            None => drop(fields.remove("inodesUsed")),
        }
    }
    value
}

fn time(at: Timestamp) -> String {
    seconds(at).0.to_string()
}
