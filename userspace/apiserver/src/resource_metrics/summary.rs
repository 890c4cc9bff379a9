//! What a node's summary says about CPU and memory. PURE.
//!
//! In: the answer to `/stats/summary` (k8s.io/kubelet/pkg/apis/stats/v1alpha1). Out: usage of the node and of its pods, and
//! the objects of `metrics.k8s.io`.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_api::quantity::Quantity;
use skep_api::time::go_duration;

/// The window of a kubelet that does not say it: cAdvisor's usual interval.
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Summary {
    node: NodeStats,
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Deserialize)]
struct NodeStats {
    cpu: Option<CpuStats>,
    memory: Option<MemoryStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodReference,
    #[serde(default)]
    containers: Vec<ContainerStats>,
}

#[derive(Deserialize)]
struct PodReference {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct ContainerStats {
    name: String,
    cpu: Option<CpuStats>,
    memory: Option<MemoryStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuStats {
    time: Timestamp,
    usage_nano_cores: Option<u64>,
    /// Skep's own field.
    window_seconds: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    working_set_bytes: Option<u64>,
}

/// Billionths of a core over a window, and bytes at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    at: Timestamp,
    window: Duration,
    nano_cores: u64,
    memory: u64,
}

impl Usage {
    /// `None`: one of the numbers is not known.
    fn of(cpu: Option<&CpuStats>, memory: Option<&MemoryStats>) -> Option<Usage> {
        let (cpu, memory) = (cpu?, memory?);
        let window = cpu.window_seconds.map(Duration::try_from_secs_f64);
        Some(Usage {
            at: cpu.time,
            window: window.and_then(Result::ok).unwrap_or(DEFAULT_WINDOW),
            nano_cores: cpu.usage_nano_cores?,
            memory: memory.working_set_bytes?,
        })
    }

    fn quantities(&self) -> Value {
        json!({
            "cpu": Quantity::from_nanos(self.nano_cores.into()).to_string(),
            "memory": Quantity::from_bytes(self.memory.into()).to_string(),
        })
    }
}

/// What a node and its pods use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodeUsage {
    node: Option<Usage>,
    /// By namespace and name: the usage of each container. Pods of which one is not known are left out.
    pods: HashMap<(String, String), Vec<(String, Usage)>>,
}

impl NodeUsage {
    pub(super) fn parse(summary: &[u8]) -> serde_json::Result<NodeUsage> {
        let Summary { node, pods } = serde_json::from_slice(summary)?;
        let of_pod = |pod: PodStats| {
            let usages = pod.containers.into_iter().map(|container| {
                let usage = Usage::of(container.cpu.as_ref(), container.memory.as_ref())?;
                Some((container.name, usage))
            });
            let usages: Vec<(String, Usage)> = usages.collect::<Option<_>>()?;
            (!usages.is_empty()).then_some(((pod.pod_ref.namespace, pod.pod_ref.name), usages))
        };
        Ok(NodeUsage {
            node: Usage::of(node.cpu.as_ref(), node.memory.as_ref()),
            pods: pods.into_iter().filter_map(of_pod).collect(),
        })
    }

    /// NodeMetrics with this metadata; `None` if they are not known.
    pub(super) fn node_metrics(&self, metadata: Value) -> Option<Value> {
        let usage = self.node.as_ref()?;
        Some(json!({
            "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
            "timestamp": time(usage.at), "window": window(usage.window), "usage": usage.quantities(),
        }))
    }

    /// PodMetrics with this metadata; `None` if they are not known.
    pub(super) fn pod_metrics(&self, namespace: &str, name: &str, metadata: Value) -> Option<Value> {
        let usages = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        let earliest = usages.iter().map(|(_, usage)| usage).min_by_key(|usage| usage.at)?;
        let containers =
            usages.iter().map(|(name, usage)| json!({"name": name, "usage": usage.quantities()}));
        Some(json!({
            "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
            "timestamp": time(earliest.at), "window": window(earliest.window),
            "containers": containers.collect::<Vec<_>>(),
        }))
    }
}

/// In whole seconds, as the API's times are.
fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// To the millisecond.
fn window(window: Duration) -> String {
    let millis = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
    go_duration(millis.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str, nano_cores: Option<u64>, window: Option<f64>) -> Value {
        json!({"name": name,
            "cpu": {"time": "2026-05-01T10:00:07Z", "usageNanoCores": nano_cores, "windowSeconds": window},
            "memory": {"time": "2026-05-01T10:00:07Z", "workingSetBytes": 3 << 20}})
    }

    fn parsed(pods: &Value) -> NodeUsage {
        let mut node = stats("", Some(1_500_000_000), Some(9.9996));
        node["nodeName"] = "n".into();
        NodeUsage::parse(json!({"node": node, "pods": pods}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn quantities_are_those_of_metrics_server() {
        let usage = parsed(&json!([{"podRef": {"name": "p", "namespace": "a", "uid": "u"},
            "containers": [stats("main", Some(2_500_123), Some(10.25))]}]));
        let node = usage.node_metrics(json!({"name": "n"})).unwrap();
        let shown = (&node["timestamp"], &node["window"], &node["usage"]);
        let wanted =
            (&json!("2026-05-01T10:00:07Z"), &json!("9.999s"), &json!({"cpu": "1500m", "memory": "3Mi"}));
        assert_eq!(shown, wanted);
        let pod = usage.pod_metrics("a", "p", json!({})).unwrap();
        assert_eq!(pod["window"], "10.25s");
        assert_eq!(
            pod["containers"],
            json!([{"name": "main", "usage": {"cpu": "2500123n", "memory": "3Mi"}}])
        );
        assert_eq!(usage.pod_metrics("b", "p", json!({})), None);
    }

    #[test]
    fn a_pod_of_which_a_container_is_not_known_has_no_metrics() {
        let pods = json!([{"podRef": {"name": "p", "namespace": "a"},
            "containers": [stats("main", Some(1), None), stats("new", None, None)]},
            {"podRef": {"name": "none", "namespace": "a"}}]);
        assert!(parsed(&pods).pods.is_empty());
    }

    #[test]
    fn what_is_no_summary_is_an_error() {
        for text in ["", "[]", r#"{"pods": []}"#, r#"{"node": {"cpu": {"time": "then"}}}"#] {
            assert!(NodeUsage::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(NodeUsage::parse(br#"{"node": {}}"#).unwrap(), NodeUsage::default());
    }
}
