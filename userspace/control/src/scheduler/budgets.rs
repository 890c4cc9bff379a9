//! Which pods may not be removed according to their disruption budgets. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cache::Key;
use crate::meta;

pub(super) type Budgets = BTreeMap<Key, Arc<PodDisruptionBudget>>;

/// For each pod whether its removal violates a budget, if those before it are removed too.
pub(super) fn violations<'p>(pods: impl Iterator<Item = &'p Arc<Pod>>, budgets: &Budgets) -> Vec<bool> {
    if budgets.is_empty() {
        return pods.map(|_| false).collect();
    }
    let mut allowed: BTreeMap<&Key, i32> = budgets
        .iter()
        .map(|(key, budget)| {
            let left = budget.status.as_ref().and_then(|status| status.disruptions_allowed);
            (key, left.unwrap_or(0))
        })
        .collect();
    let violates = |pod: &Arc<Pod>| {
        let mut violates = false;
        for (key, budget) in budgets.iter().filter(|(key, budget)| covers(key, budget, pod)) {
            let name = meta::name(&pod.metadata);
            // The API server has already counted this disruption.
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if disrupted.is_some_and(|pods| pods.contains_key(name)) {
                continue;
            }
            let left = allowed.entry(key).or_default();
            *left = left.saturating_sub(1);
            violates |= *left < 0;
        }
        violates
    };
    pods.map(violates).collect()
}

fn covers(key: &Key, budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    *key.namespace == *meta::namespace(&pod.metadata)
        && labels.is_some_and(|labels| !labels.is_empty())
        && selector.is_some_and(|selector| {
            let has_terms = selector.match_labels.as_ref().is_some_and(|l| !l.is_empty())
                || selector.match_expressions.as_ref().is_some_and(|e| !e.is_empty());
            has_terms && meta::selects(selector, labels)
        })
}
