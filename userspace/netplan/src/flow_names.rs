//! The names behind a flow event's numbers.
//!
//! In: the event, the index, the pods of this node, the compiled rules. Out: [`FlowNames`]. Of a pod that is gone, an address
//! has no name any more.

use std::sync::Arc;

use skep_abi::{Addr, Direction, DropReason, FlowEvent, Hook};
use skep_policy::{Endpoint, Labels, PolicyKey, RuleId, rule_set};

use crate::attach::Attachments;
use crate::index::{Index, node_service};

/// What the API calls the parts of a flow event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowNames {
    pub source: FlowEnd,
    pub destination: FlowEnd,
    /// `namespace/name` of the pod whose interface the packet passed, if it is a pod's: it may have sent another's address.
    pub interface: Option<Arc<str>>,
    pub service: Option<ServicePort>,
    /// KIND/NAMESPACE/NAME of the route of Gateway API that made the Service's port.
    pub route: Option<Arc<str>>,
    /// The rule that allowed the flow.
    pub rule: Option<RuleId>,
    /// Of a flow that policies deny: those that isolate the pod in that direction. None of their rules allows it.
    pub isolated_by: Vec<PolicyKey>,
}

/// Who has the address of a packet's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FlowEnd {
    Pod(PodName),
    /// The Node's name.
    Node(Arc<str>),
    /// `namespace/name` of a Service that nodes serve themselves.
    NodeService(Arc<str>),
    #[default]
    Unknown,
}

/// A pod that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// `namespace/name`.
    pub key: Arc<str>,
    pub labels: Arc<Labels>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name`.
    pub service: Arc<str>,
    pub port: u16,
}

/// What names are looked up in.
pub(crate) struct Names<'a> {
    pub(crate) index: &'a Index,
    pub(crate) attachments: &'a Attachments,
}

impl Names<'_> {
    pub(crate) fn of(
        &self,
        event: &FlowEvent,
        rule: Option<&RuleId>,
        service: Option<(&Arc<str>, u16)>,
    ) -> FlowNames {
        let interface = match event.hook {
            Hook::FROM_POD | Hook::TO_POD => self.attachments.behind(event.ifindex).cloned(),
            _ => None,
        };
        FlowNames {
            source: self.end(event.source),
            destination: self.end(event.destination),
            interface,
            route: service.and_then(|(service, port)| {
                self.index.services.get(service)?.route(event.proto, port).cloned()
            }),
            service: service.map(|(service, port)| ServicePort { service: service.clone(), port }),
            rule: rule.cloned(),
            isolated_by: self.isolated_by(event),
        }
    }

    fn end(&self, addr: Addr) -> FlowEnd {
        if addr == Addr::UNSPECIFIED {
            return FlowEnd::Unknown;
        }
        let of_pod = |key: &Arc<str>, endpoint: &Endpoint| PodName {
            key: key.clone(),
            labels: endpoint.labels.clone(),
        };
        if let Some((key, endpoint)) = self.attachments.pod_at(addr) {
            return FlowEnd::Pod(of_pod(key, endpoint));
        }
        if let Some((key, pod)) = self.index.keyed_pod_at(addr) {
            return match node_service::service_of_peer(key) {
                Some(service) => FlowEnd::NodeService(service.into()),
                None => FlowEnd::Pod(of_pod(key, &pod.endpoint)),
            };
        }
        let node = self.index.node_at(addr);
        node.map_or(FlowEnd::Unknown, |name| FlowEnd::Node(name.clone()))
    }

    /// A packet of a known flow that is denied may go either way.
    fn isolated_by(&self, event: &FlowEvent) -> Vec<PolicyKey> {
        let (direction, pods) = match DropReason::from_code(event.reason) {
            Some(DropReason::PolicyEgress) => (Direction::EGRESS, [event.source, event.destination]),
            Some(DropReason::PolicyIngress) => (Direction::INGRESS, [event.destination, event.source]),
            _ => return Vec::new(),
        };
        let isolating = |addr: Addr| {
            let endpoint = self.attachments.at(addr)?;
            let (policies, _) = rule_set(&self.index.policies, endpoint);
            let isolates = |key: &PolicyKey| {
                let policy = self.index.policies.get(key);
                policy.is_some_and(|policy| policy.sides().any(|(side, _)| side == direction))
            };
            let found: Vec<PolicyKey> = policies.into_iter().filter(isolates).collect();
            (!found.is_empty()).then_some(found)
        };
        pods.into_iter().find_map(isolating).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use skep_abi::{Be16, Proto, Verdict, VerdictKey, verdicts_index};

    use super::*;
    use crate::{Observed, Owner, Planner};

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<std::net::IpAddr>().unwrap())
    }

    /// `web` is on this node, under `guard` (from `app: front`, port 80) and `closed` (egress to nowhere); `front` is on another.
    fn planner() -> Planner {
        let mut planner = Planner::new("here", Vec::new(), Observed::default());
        let index = &mut planner.index;
        index.apply_namespace(&object::<Namespace>(json!({"metadata": {"name": "shop"}})));
        for (node, ip) in [("here", "10.9.0.1"), ("there", "10.9.0.2")] {
            index.apply_node(&object::<Node>(json!({
                "metadata": {"name": node}, "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
            })));
        }
        for (name, node, ip) in [("web", "here", "10.1.0.2"), ("front", "there", "10.2.0.2")] {
            index.apply_pod(&object::<Pod>(json!({
                "metadata": {"namespace": "shop", "name": name, "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": node, "containers": []}, "status": {"podIPs": [{"ip": ip}]},
            })));
        }
        index.apply_service(&object::<Service>(json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": {"skep.io/routes": "?,80/UDP=udproute/shop/web,80/TCP=tcproute/shop/web"}},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
        })));
        let front = json!({"podSelector": {"matchLabels": {"app": "front"}}});
        let spec = |types: &str, ingress: Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": [types], "ingress": ingress});
        let rules = json!([{"from": [], "ports": [{"port": 9}]}, {"from": [front], "ports": [{"port": 80}]}]);
        for (name, spec) in [("guard", spec("Ingress", rules)), ("closed", spec("Egress", json!([])))] {
            index.apply_policy(&object::<NetworkPolicy>(
                json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec}),
            ));
        }
        let owner = Owner { namespace: "shop".into(), name: "web".into(), uid: "web".into() };
        let pod = skep_abi::Pod { ifindex: 7, slot: 3, ..skep_abi::Pod::default() };
        planner.attach("sandbox", &owner, &["10.1.0.2".parse().unwrap()], pod);
        planner.synced();
        let mut plan = planner.plan();
        plan.done(plan.writes.len());
        planner.commit(plan);
        planner
    }

    /// The rules' numbers in the kernel's verdicts of `web`, for ingress of TCP at the port.
    fn rule_in_kernel(planner: &Planner, port: u16) -> u32 {
        let maps = planner.kernel();
        let map = maps.verdicts[&verdicts_index(3, maps.generation)];
        let of_port = |(_, key, _): &&(u32, VerdictKey, Verdict)| {
            key.port == Be16::new(port) && key.proto == Proto::TCP && key.direction == Direction::INGRESS
        };
        maps.verdict_maps[&map].iter().find(of_port).unwrap().2.rule
    }

    #[test]
    fn an_allowed_flow_names_its_rule_and_both_ends() {
        let planner = planner();
        let (frontend, value) = planner.kernel().services.iter().next().unwrap();
        assert_eq!(frontend.addr, addr("10.96.0.9"));
        let names = planner.names(&FlowEvent {
            source: addr("10.2.0.2"),
            destination: addr("10.1.0.2"),
            rule: rule_in_kernel(&planner, 80),
            service: value.service,
            hook: Hook::FROM_NETWORK,
            ifindex: 7,
            proto: Proto::TCP,
            ..FlowEvent::default()
        });
        let rule = names.rule.unwrap();
        assert_eq!((rule.policy.to_string(), rule.field()), ("shop/guard".into(), "spec.ingress[1]".into()));
        assert_eq!(names.service, Some(ServicePort { service: "shop/web".into(), port: 80 }));
        assert_eq!(names.route.as_deref(), Some("tcproute/shop/web"));
        let FlowEnd::Pod(front) = names.source else { panic!("{:?}", names.source) };
        assert_eq!((&*front.key, front.labels.get("app")), ("shop/front", Some("front")));
        assert!(matches!(names.destination, FlowEnd::Pod(pod) if *pod.key == *"shop/web"));
        assert_eq!((names.interface, names.isolated_by), (None, Vec::new()));
    }

    #[test]
    fn a_denied_packet_names_the_policies_that_isolate_in_its_direction() {
        let planner = planner();
        let denied = |reason: DropReason, source: &str, destination: &str| {
            let event = FlowEvent {
                source: addr(source),
                destination: addr(destination),
                reason: reason as u16,
                hook: Hook::FROM_POD,
                ifindex: 7,
                ..FlowEvent::default()
            };
            planner.names(&event)
        };
        let by = |names: &FlowNames| names.isolated_by.iter().map(ToString::to_string).collect::<Vec<_>>();
        let names = denied(DropReason::PolicyIngress, "10.9.0.2", "10.1.0.2");
        assert_eq!(
            (by(&names), names.source),
            (vec!["shop/guard".to_owned()], FlowEnd::Node("there".into()))
        );
        // Also of an answer.
        assert_eq!(by(&denied(DropReason::PolicyIngress, "10.1.0.2", "10.2.0.2")), ["shop/guard"]);
        let names = denied(DropReason::PolicyEgress, "10.1.0.2", "192.0.2.1");
        assert_eq!(
            (by(&names), names.destination.clone()),
            (vec!["shop/closed".to_owned()], FlowEnd::Unknown)
        );
        let spoofed = denied(DropReason::Spoofed, "10.2.0.2", "10.1.0.2");
        assert_eq!((by(&spoofed), spoofed.interface.as_deref()), (Vec::new(), Some("shop/web")));
    }
}
