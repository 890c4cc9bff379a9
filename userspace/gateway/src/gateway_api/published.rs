//! The Service that leads to a Gateway, as it is. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The label of a Gateway's Service.
pub(super) const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What is known of a Gateway's Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// By port of clients: the port of the nodes.
    pub(super) ports: BTreeMap<u16, u16>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Published {
    /// `None`: the Service is not one of a Gateway.
    pub(super) fn parse(service: &Service) -> Option<Published> {
        let labels = service.metadata.labels.as_ref()?;
        if labels.get(MANAGED_BY).map(String::as_str) != Some("skep") || !labels.contains_key(GATEWAY_LABEL) {
            return None;
        }
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.filter(|port| port.protocol.as_deref() != Some("UDP")).filter_map(|port| {
            let target = match port.target_port.as_ref()? {
                IntOrString::Int(number) => u16::try_from(*number).ok()?,
                IntOrString::String(_) => return None,
            };
            Some((u16::try_from(port.port).ok()?, target))
        });
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let entries = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        Some(Published {
            ports: ports.collect(),
            addresses: entries.filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect(),
        })
    }
}
