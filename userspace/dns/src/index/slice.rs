//! The facts about an EndpointSlice: addresses, host names and ports.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::service::PortFacts;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What answers need of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// Key of the service.
    pub service: Arc<str>,
    pub ports: Box<[PortFacts]>,
    pub endpoints: Box<[EndpointFacts]>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    pub ip: IpAddr,
    /// In lower case.
    pub hostname: Option<Box<str>>,
    pub ready: bool,
}

impl SliceFacts {
    /// `None` for slices without a service, or of domain names.
    pub(crate) fn extract(slice: &EndpointSlice) -> Option<Self> {
        let meta = &slice.metadata;
        let service = meta.labels.as_ref()?.get(SERVICE_NAME)?;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|port| {
            PortFacts::extract(port.name.as_deref(), port.protocol.as_deref(), port.port?)
        });
        Some(SliceFacts {
            service: format!("{namespace}/{service}").into(),
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().flatten().flat_map(EndpointFacts::extract).collect(),
        })
    }
}

impl EndpointFacts {
    /// One for each address.
    fn extract(endpoint: &Endpoint) -> impl Iterator<Item = EndpointFacts> {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
        let hostname: Option<Box<str>> = hostname.map(|name| name.to_ascii_lowercase().into());
        endpoint.addresses.iter().filter_map(|text| text.parse().ok()).map(move |ip| EndpointFacts {
            ip,
            hostname: hostname.clone(),
            ready,
        })
    }

    /// The label by which the endpoint is a name below its service.
    pub(crate) fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.to_string(),
            None => dashed(&self.ip),
        }
    }
}

/// The address with dashes, as in names of pods and of endpoints without a host name.
pub(crate) fn dashed(ip: &IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}
