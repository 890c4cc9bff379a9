//! ClusterRoles with an aggregation rule: their rules are the union of the selected roles' rules. PURE.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use super::routing::own_key;
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub struct ClusterRoles;

impl Controller for ClusterRoles {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation"
    }

    fn account(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::ClusterRole]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        if let Some(Object::ClusterRole(_)) = change.object() {
            own_key(change, Kind::ClusterRole, keys);
            let aggregated = view.cluster_roles.iter().filter(|(_, r)| r.aggregation_rule.is_some());
            keys.extend(aggregated.map(|(key, _)| key.clone()));
        }
    }

    fn reconcile(&self, view: &View, key: &Key, _: Context<'_>) -> Vec<Action> {
        let Some(role) = view.cluster_roles.get(key) else { return Vec::new() };
        let Some(rule) = &role.aggregation_rule else { return Vec::new() };
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in rule.cluster_role_selectors.iter().flatten() {
            let parts = view.cluster_roles.iter().filter(|(other, part)| {
                *other != key && meta::selects(selector, part.metadata.labels.as_ref())
            });
            for part in parts.flat_map(|(_, part)| part.rules.iter().flatten()) {
                if !rules.contains(part) {
                    rules.push(part.clone());
                }
            }
        }
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Vec::new();
        }
        let mut updated: ClusterRole = role.as_ref().clone();
        updated.rules = Some(rules);
        vec![Action::update(updated)]
    }
}
