//! The facts about a pod of this node that asks: the search list of its resolv.conf.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// A pod with `dnsPolicy: ClusterFirst` and a network of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub namespace: Box<str>,
    pub ips: Box<[IpAddr]>,
    /// `dnsConfig.searches`: the end of its search list.
    pub searches: Box<[Box<str>]>,
}

impl Client {
    /// `None`: the search list does not begin with the pod's namespace, or its address is the node's, or it has none yet.
    pub(crate) fn extract(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        // With host networking the policy means ClusterFirst only as ClusterFirstWithHostNet, and the address is the node's.
        if ended
            || spec.host_network == Some(true)
            || !matches!(
                spec.dns_policy.as_deref(),
                None | Some("ClusterFirst") | Some("ClusterFirstWithHostNet")
            )
        {
            return None;
        }
        let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        let ips: Box<[IpAddr]> =
            all.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()).collect();
        let config = spec.dns_config.as_ref();
        let searches = config.and_then(|config| config.searches.as_ref()).into_iter().flatten();
        (!ips.is_empty()).then(|| Client {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            ips,
            searches: searches.map(|search| search.as_str().into()).collect(),
        })
    }
}
