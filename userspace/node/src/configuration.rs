//! PURE. The agent's settings as a KubeletConfiguration, which /configz shows.

use serde_json::{Value, json};

use crate::config::AgentConfig;

/// The answer of /configz. Fields that the agent has no setting for are absent.
pub(crate) fn document(config: &AgentConfig) -> Value {
    let seconds = |duration: std::time::Duration| format!("{}s", duration.as_secs());
    let limits = &config.limits;
    json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.listen.ip().to_string(),
        "port": config.listen.port(),
        "authentication": {
            "x509": {},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
            "anonymous": {"enabled": false},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "cgroupRoot": config.cgroup_parent,
        "containerRuntimeEndpoint": format!("unix://{}", config.containerd_socket.display()),
        "maxPods": config.max_pods,
        "podPidsLimit": limits.max_pids.map_or(-1, |max| i64::try_from(max).unwrap_or(i64::MAX)),
        "seccompDefault": limits.seccomp_default,
        "allowedUnsafeSysctls": limits.allowed_unsafe_sysctls,
        "streamingConnectionIdleTimeout": seconds(limits.streaming_idle_timeout),
        "nodeStatusReportFrequency": seconds(config.status_interval),
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "containerLogMaxSize": config.log_max_size.to_string(),
        "containerLogMaxFiles": config.log_max_files,
        "imageGCHighThresholdPercent": config.images.high_percent,
        "imageGCLowThresholdPercent": config.images.low_percent,
        "staticPodPath": config.static_pods.as_ref().map(|folder| folder.display().to_string()).unwrap_or_default(),
        "enableSystemLogHandler": true,
        "enableSystemLogQuery": config.system_logs.query,
    }})
}
