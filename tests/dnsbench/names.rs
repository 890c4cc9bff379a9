//! The names of the benchmark's Services, as objects and as what its peer reads.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

pub(crate) const DOMAIN: &str = "cluster.local";
/// Services of a namespace.
const NAMESPACE_SERVICES: u32 = 100;
/// A step that meets every number below 10,000 once, far from the one before.
const STRIDE: u32 = 7_919;

pub(crate) fn namespace(number: u32) -> String {
    format!("team-{}", number / NAMESPACE_SERVICES)
}

fn ip(net: u8, number: u32) -> Ipv4Addr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(10, net + b, c, d)
}

/// A Service and its EndpointSlice with two endpoints.
pub(crate) fn objects(number: u32) -> [Value; 2] {
    let (name, namespace, vip) = (format!("app-{number}"), namespace(number), ip(96, number + 256));
    let endpoint = |net| json!({"addresses": [ip(net, number + 256)], "conditions": {"ready": true}});
    [
        json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": vip, "clusterIPs": [vip], "ports": [{"name": "http", "port": 80}]},
        }),
        json!({
            "metadata": {"namespace": namespace, "name": format!("{name}-1"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint(16), endpoint(32)],
        }),
    ]
}

fn full_name(number: u32) -> String {
    format!("app-{number}.{}.svc.{DOMAIN}", namespace(number))
}

/// Lines of hosts(5) for the peer.
pub(crate) fn hosts(services: u32) -> String {
    (0..services).fold(String::new(), |mut text, number| {
        // Writing to a text does not fail.
        let _ = writeln!(text, "{} {}", ip(96, number + 256), full_name(number));
        text
    })
}

/// Questions about all of them, for dnsperf.
pub(crate) fn questions(services: u32) -> String {
    (0..services).fold(String::new(), |mut text, number| {
        let number = (u64::from(number) * u64::from(STRIDE) % u64::from(services)) as u32;
        let _ = writeln!(text, "{} A", full_name(number));
        text
    })
}
