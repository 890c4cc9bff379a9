//! Statuses of BackendTLSPolicies. PURE.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::backend_tls::{PolicyVerdict, targets};
use super::conditions::{Condition, stored};
use super::grants::{name_of, namespace_of};
use super::kinds::GROUP;
use super::objects::{CONTROLLER, Key, Objects};
use super::routing::Routing;
use super::statuses::{StatusUpdate, differs, foreign};

/// The bound of `status.ancestors`.
const MAX_ANCESTORS: usize = 16;

impl Objects {
    /// Each Gateway with a route to a target of the policy is an ancestor.
    pub(super) fn policy_updates(&self, routing: &Routing, now: &str, all: &mut Vec<StatusUpdate>) {
        for (key, policy) in &self.policies {
            let Some(verdict) = routing.policies.verdict(key) else { continue };
            let services: BTreeSet<Key> = targets(key, &policy.spec).map(|(service, _)| service).collect();
            let old = &policy.status;
            let generation = policy.metadata.generation.unwrap_or_default();
            let mut ancestors = foreign(old, "ancestors");
            for gateway in routing.gateways_to(&services) {
                ancestors.push(ancestor(gateway, verdict, old, generation, now));
            }
            ancestors.truncate(MAX_ANCESTORS);
            if !ancestors.is_empty() || !old["ancestors"].is_null() {
                let status = json!({"ancestors": ancestors});
                differs(all, "BackendTLSPolicy", key, &policy.metadata, old, status);
            }
        }
    }
}

impl Routing {
    /// Gateways with a listener whose requests, or what is said inside its TLS, go to one of the Services.
    fn gateways_to(&self, services: &BTreeSet<Key>) -> BTreeSet<&Key> {
        let routes = self.routes.values().filter(|route| !route.services.is_disjoint(services));
        let attachments = routes.flat_map(|route| &route.parents).flat_map(|parent| &parent.attachments);
        let gateways = attachments.filter_map(|attachment| {
            let gateway = &self.gateways[attachment.gateway];
            gateway.listeners[attachment.listener].reads().then_some(&gateway.key)
        });
        gateways.collect()
    }
}

fn ancestor(gateway: &Key, verdict: &PolicyVerdict, old: &Value, generation: i64, now: &str) -> Value {
    let reference = json!({
        "group": GROUP, "kind": "Gateway", "namespace": namespace_of(gateway), "name": name_of(gateway),
    });
    let mut known = old["ancestors"].as_array().into_iter().flatten();
    let known =
        known.find(|known| known["controllerName"] == CONTROLLER && known["ancestorRef"] == reference);
    let before = known.map_or(&Value::Null, |known| &known["conditions"]);
    let conditions =
        [Condition::of("Accepted", &verdict.accepted), Condition::of("ResolvedRefs", &verdict.resolved)];
    json!({
        "ancestorRef": reference, "controllerName": CONTROLLER,
        "conditions": stored(&conditions, before, generation, now),
    })
}
