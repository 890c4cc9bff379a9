//! Statuses of BackendTLSPolicies: they have no effect, and their statuses say so. PURE.

use std::collections::BTreeSet;

use serde_json::{Value, json};

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
            let targets = policy.spec.target_refs.iter();
            let targets: BTreeSet<Key> = targets
                .filter(|target| target.group.is_empty() && target.kind == "Service")
                .map(|target| format!("{}/{}", namespace_of(key), target.name).into())
                .collect();
            let routes = routing.routes.values().filter(|route| !route.services.is_disjoint(&targets));
            let attachments = routes.flat_map(|route| &route.parents).flat_map(|parent| &parent.attachments);
            let gateways: BTreeSet<usize> = attachments.map(|attachment| attachment.gateway).collect();
            let old = &policy.status;
            let generation = policy.metadata.generation.unwrap_or_default();
            let mut ancestors = foreign(old, "ancestors");
            for gateway in gateways {
                let gateway = &routing.gateways[gateway].key;
                ancestors.push(ancestor(gateway, old, generation, now));
            }
            ancestors.truncate(MAX_ANCESTORS);
            if !ancestors.is_empty() || !old["ancestors"].is_null() {
                let status = json!({"ancestors": ancestors});
                differs(all, "BackendTLSPolicy", key, &policy.metadata, old, status);
            }
        }
    }
}

fn ancestor(gateway: &Key, old: &Value, generation: i64, now: &str) -> Value {
    let reference = json!({
        "group": GROUP, "kind": "Gateway", "namespace": namespace_of(gateway), "name": name_of(gateway),
    });
    let mut known = old["ancestors"].as_array().into_iter().flatten();
    let known =
        known.find(|known| known["controllerName"] == CONTROLLER && known["ancestorRef"] == reference);
    let before = known.map_or(&Value::Null, |known| &known["conditions"]);
    let refused = Condition::no("Accepted", "Unsupported", "connections to backends are not encrypted");
    json!({
        "ancestorRef": reference, "controllerName": CONTROLLER,
        "conditions": stored(&[refused], before, generation, now),
    })
}
