//! The facts about a Service: what its name stands for.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;

use crate::name;

/// What answers need of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub kind: ServiceKind,
    pub ports: Box<[PortFacts]>,
}

/// What the name of a Service stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Its cluster IPs.
    Cluster(Box<[IpAddr]>),
    /// Its endpoints; with `publish_not_ready` also those that are not ready.
    Headless { publish_not_ready: bool },
    /// Another name.
    External(Box<Name>),
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: Box<str>,
    /// In lower case.
    pub protocol: Box<str>,
    pub port: u16,
}

impl ServiceFacts {
    /// `None`: the Service has no address yet, or its external name is none. Such a name does not exist.
    pub(crate) fn extract(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let first = spec.cluster_ip.as_deref().unwrap_or_default();
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            // An address as the external name is text that no name server would answer with an address.
            let target = spec.external_name.as_deref().filter(|text| text.parse::<IpAddr>().is_err())?;
            ServiceKind::External(Box::new(name::parse(target)?))
        } else if first == "None" {
            let publish_not_ready = spec.publish_not_ready_addresses == Some(true);
            ServiceKind::Headless { publish_not_ready }
        } else {
            let all = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
            let only = [first.to_owned()];
            let ips: Box<[IpAddr]> =
                all.unwrap_or(&only).iter().filter_map(|text| text.parse().ok()).collect();
            if ips.is_empty() {
                return None;
            }
            ServiceKind::Cluster(ips)
        };
        let ports =
            spec.ports.iter().flatten().filter_map(|port| {
                PortFacts::extract(port.name.as_deref(), port.protocol.as_deref(), port.port)
            });
        Some(ServiceFacts { kind, ports: ports.collect() })
    }

    pub(crate) fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            ServiceKind::Cluster(ips) => ips,
            ServiceKind::Headless { .. } | ServiceKind::External(_) => &[],
        }
    }
}

impl PortFacts {
    pub(crate) fn extract(name: Option<&str>, protocol: Option<&str>, port: i32) -> Option<Self> {
        Some(PortFacts {
            name: name.unwrap_or_default().into(),
            protocol: protocol.unwrap_or("TCP").to_ascii_lowercase().into(),
            port: u16::try_from(port).ok().filter(|port| *port != 0)?,
        })
    }
}
