//! Measures the pure part: compiles and diffs many services from an empty kernel, then single EndpointSlice changes.
//!
//! Usage: `cargo run --release -p skep-netplan --example measure -- [services] [endpoints each]`.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use skep_netplan::{Observed, Planner};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u32| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (services, endpoints) = (number(10_000), number(3));
    let mut planner = Planner::new("node-a", vec![[10, 86, 0, 11].into()], Observed::default());
    planner.synced();
    for n in 0..services {
        planner.index.apply_service(&service(n));
        planner.index.apply_slice(&slice(n, endpoints, 0));
    }
    let start = Instant::now();
    let mut plan = planner.plan();
    let planned = start.elapsed();
    let writes = plan.writes.len();
    plan.done(writes);
    planner.commit(plan);
    println!("{services} services, {endpoints} endpoints each: {writes} writes");
    println!("  compile and diff {planned:?}, with commit {:?}", start.elapsed());
    println!("  resident memory {} MB", resident_kib() / 1024);

    let mut times: Vec<Duration> = (0..1_000)
        .map(|round| {
            let changed = slice(round * 7 % services, endpoints, round as u8 % 100 + 1);
            let start = Instant::now();
            planner.index.apply_slice(&changed);
            let mut plan = planner.plan();
            plan.done(plan.writes.len());
            planner.commit(plan);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("one EndpointSlice change: median {:?}, p99 {:?}", times[500], times[990]);
    let start = Instant::now();
    planner.collect();
    let plan = planner.collect();
    println!("collect: {} deletes in {:?}", plan.writes.len(), start.elapsed());
}

fn service(n: u32) -> Service {
    let ip = format!("10.{}.{}.{}", 96 + (n >> 16), n >> 8 & 255, n & 255);
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": format!("service-{n}")},
        "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]},
    }))
    .expect("a service")
}

fn slice(n: u32, endpoints: u32, version: u8) -> EndpointSlice {
    let address = |e: u32| format!("10.{}.{}.{}", 128 + e % 64, n >> 8 & 255, n & 255);
    let endpoints: Vec<_> = (0..endpoints)
        .map(|e| json!({"addresses": [address(e + u32::from(version))], "nodeName": "node-b"}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": format!("service-{n}-abcde"),
                     "labels": {"kubernetes.io/service-name": format!("service-{n}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
    .expect("a slice")
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
