//! A TCPRoute: a pod that connects to a Gateway's address, whose packets go from eBPF to the endpoint, beside one that connects to the
//! endpoint itself.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_gateway::ingress::{Index as Routes, Ports};
use skep_netplan::Index;

use crate::cluster::{OPEN, REQUESTS, services};
use crate::skep::Skep;
use crate::world::{Subject, Way};

/// The Gateway's address, as a pool gives it, and that of its Service.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 1);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);
const NAMESPACE: &str = "default";

/// Two nodes that are alike: on one the client addresses the Gateway, on the other one the pod.
pub(crate) struct TcpRoute {
    by_gateway: Skep,
    direct: Skep,
}

/// The subjects. Nothing but requests is measured of them.
pub(crate) const SUBJECTS: [&str; 2] = ["tcp_route", "pod"];

impl TcpRoute {
    /// On nodes with so many services.
    pub(crate) fn new(services: u32) -> Result<TcpRoute> {
        let (service, slices) = published()?;
        let add = |index: &mut Index| {
            index.apply_service(&service);
            slices.iter().for_each(|slice| index.apply_slice(slice));
        };
        let by_gateway = Skep::with_objects("nb-route", services, add)?;
        Ok(TcpRoute { by_gateway, direct: Skep::with_objects("nb-pod", services, add)? })
    }

    pub(crate) fn ways(&self) -> Vec<Way> {
        let addressed = [(GATEWAY, REQUESTS.port), (OPEN.server.1, REQUESTS.target)];
        let nodes = [&self.by_gateway, &self.direct].into_iter().zip(SUBJECTS).zip(addressed);
        nodes
            .filter_map(|((node, name), to)| {
                let way = node.ways().into_iter().find(|way| way.subject.policy == Some(false))?;
                Some(Way { subject: Subject::plain(name), requests: to.into(), ..way })
            })
            .collect()
    }
}

/// What the gateway makes of a Gateway and a TCPRoute to the server, as the API server and the announcer complete it.
fn published() -> Result<(Service, Vec<EndpointSlice>)> {
    let mut routes = Routes::new(Ports::default());
    let class = json!({"metadata": {"name": "skep"}, "spec": {"controllerName": skep_gateway::gateway_api::CONTROLLER}});
    routes.gateway_api().apply_class(&parse(class)?);
    routes.gateway_api().apply_namespace(&parse(json!({"metadata": {"name": NAMESPACE}}))?);
    let pool = json!({"metadata": {"name": "pool"}, "spec": {"cidrs": [format!("{GATEWAY}/32")]}});
    routes.gateway_api().apply_pool(&parse(pool)?);
    let server =
        services(0).find(|service| service.name == OPEN.server.0).context("no service of the server")?;
    routes.apply_service(&server.object());
    routes.apply_slice(&server.slice());
    let listener = json!({"name": "tcp", "port": REQUESTS.port, "protocol": "TCP"});
    let gateway = json!({"gatewayClassName": "skep", "listeners": [listener]});
    routes.gateway_api().apply_gateway(&object("tcp", gateway)?);
    let backend = json!({"name": OPEN.server.0, "port": REQUESTS.port});
    let route = json!({"parentRefs": [{"name": "tcp"}], "rules": [{"backendRefs": [backend]}]});
    routes.gateway_api().apply_tcp_route(&object("tcp", route)?);
    routes.compile(0);
    let published = routes.publications().0.pop().context("the Gateway has no Service")?;
    let mut service = published.service;
    service["spec"]["clusterIP"] = json!(CLUSTER_IP);
    service["spec"]["clusterIPs"] = json!([CLUSTER_IP]);
    service["status"] = json!({"loadBalancer": {"ingress": [{"ip": GATEWAY}]}});
    let slices = published.slices.into_iter().map(parse);
    Ok((parse(service)?, slices.collect::<Result<_>>()?))
}

fn object<K: DeserializeOwned>(name: &str, spec: Value) -> Result<K> {
    let meta = json!({
        "namespace": NAMESPACE, "name": name, "uid": name, "generation": 1, "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    parse(json!({"metadata": meta, "spec": spec}))
}

fn parse<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}
