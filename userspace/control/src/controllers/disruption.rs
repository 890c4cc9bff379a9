//! PodDisruptionBudgets: how many of the selected pods may be evicted now. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use skep_api::time;

use super::pods;
use super::routing::{own_key, versions};
use crate::action::{Action, Context, Controller};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

/// An eviction without a deletion within this time no longer counts.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Disruption;

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn account(&self) -> &'static str {
        "disruption-controller"
    }

    fn event_source(&self) -> &'static str {
        "controllermanager"
    }

    fn reads(&self) -> &'static [Kind] {
        &[
            Kind::PodDisruptionBudget,
            Kind::Pod,
            Kind::ReplicaSet,
            Kind::Deployment,
            Kind::StatefulSet,
            Kind::ReplicationController,
        ]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        own_key(change, Kind::PodDisruptionBudget, keys);
        let mut selecting = |namespace: &str, labels: Option<&meta::Labels>| {
            for (key, budget) in view.budgets.in_namespace(namespace) {
                if selects(budget, labels) && !keys.contains(key) {
                    keys.push(key.clone());
                }
            }
        };
        match change.object() {
            Some(Object::Pod(_)) => versions(change).for_each(|o| {
                selecting(meta::namespace(o.meta()), o.meta().labels.as_ref());
            }),
            // Percentages are of the workload's size.
            Some(Object::ReplicaSet(o)) => {
                let template = o.spec.as_ref().and_then(|s| s.template.as_ref()?.metadata.as_ref());
                selecting(meta::namespace(&o.metadata), template.and_then(|m| m.labels.as_ref()));
            }
            Some(Object::StatefulSet(o)) => {
                let template = o.spec.as_ref().and_then(|s| s.template.metadata.as_ref());
                selecting(meta::namespace(&o.metadata), template.and_then(|m| m.labels.as_ref()));
            }
            Some(Object::Deployment(o)) => {
                let template = o.spec.as_ref().and_then(|s| s.template.metadata.as_ref());
                selecting(meta::namespace(&o.metadata), template.and_then(|m| m.labels.as_ref()));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(budget) = view.budgets.get(key) else { return Vec::new() };
        let selected: Vec<&Arc<Pod>> = view
            .pods
            .in_namespace(&key.namespace)
            .map(|(_, p)| p)
            .filter(|p| selects(budget, p.metadata.labels.as_ref()) && !pods::finished(p))
            .collect();
        let mut actions = Vec::new();
        let new = status(view, budget, &selected, context.now, &mut actions);
        if budget.status.as_ref() != Some(&new) {
            // Guarded by the version: an eviction may use the budget at the same time.
            let mut updated = budget.as_ref().clone();
            updated.status = Some(new);
            actions.push(Action::update_status(updated));
        }
        actions
    }
}

fn selects(budget: &PodDisruptionBudget, labels: Option<&meta::Labels>) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| meta::selects(s, labels))
}

fn status(
    view: &View,
    budget: &PodDisruptionBudget,
    selected: &[&Arc<Pod>],
    now: Timestamp,
    actions: &mut Vec<Action>,
) -> PodDisruptionBudgetStatus {
    let evicting = evicting(budget, selected, now, actions);
    let going = |p: &Pod| evicting.as_ref().is_some_and(|e| e.contains_key(meta::name(&p.metadata)));
    let healthy = selected.iter().filter(|p| pods::active(p) && pods::ready(p) && !going(p)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let (expected, desired) = expectation(view, budget, selected);
    let allowed = healthy.saturating_sub(desired).max(0);
    let allowed = if expected > 0 { allowed } else { 0 };
    let mut conditions = budget.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let (state, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let old = conditions.iter().find(|c| c.type_ == "DisruptionAllowed");
    let since = old.filter(|c| c.status == state).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: "DisruptionAllowed".into(),
        status: state.into(),
        reason: reason.into(),
        message: String::new(),
        last_transition_time: since.unwrap_or_else(|| meta::time(now)),
        observed_generation: budget.metadata.generation,
    };
    conditions.retain(|c| c.type_ != "DisruptionAllowed");
    conditions.push(condition);
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: evicting,
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    }
}

/// Pods that the eviction API has admitted and whose deletion was not seen yet.
fn evicting(
    budget: &PodDisruptionBudget,
    selected: &[&Arc<Pod>],
    now: Timestamp,
    actions: &mut Vec<Action>,
) -> Option<BTreeMap<String, Time>> {
    let listed = budget.status.as_ref()?.disrupted_pods.as_ref()?;
    let mut held = BTreeMap::new();
    for (name, since) in listed {
        let until = time::after(since.0, EVICTION_TIMEOUT);
        let there =
            selected.iter().any(|p| meta::name(&p.metadata) == name && !meta::terminating(&p.metadata));
        if there && until > now {
            actions.push(Action::RequeueAt(until));
            held.insert(name.clone(), since.clone());
        }
    }
    Some(held).filter(|h| !h.is_empty())
}

/// The expected number of pods, and how many of them must be healthy.
fn expectation(view: &View, budget: &PodDisruptionBudget, selected: &[&Arc<Pod>]) -> (i32, i32) {
    let spec = budget.spec.as_ref();
    let present = i32::try_from(selected.len()).unwrap_or(i32::MAX);
    let scale = || workload_size(view, selected).unwrap_or(present);
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int;
    match (spec.and_then(|s| s.max_unavailable.as_ref()), spec.and_then(|s| s.min_available.as_ref())) {
        (Some(unavailable), _) => {
            let expected = scale();
            (expected, expected.saturating_sub(pods::scaled(unavailable, expected, true)).max(0))
        }
        (None, Some(Int(n))) => (present, *n),
        (None, Some(percent)) => {
            let expected = scale();
            (expected, pods::scaled(percent, expected, true))
        }
        (None, None) => (present, 1),
    }
}

/// The sum of the sizes of the workloads that own the pods; `None` if a pod has no known owner.
fn workload_size(view: &View, selected: &[&Arc<Pod>]) -> Option<i32> {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    for pod in selected {
        let owner = meta::controller_of(&pod.metadata)?;
        let key = Key::new(meta::namespace(&pod.metadata), &owner.name);
        let (uid, size) = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = view.replica_sets.get(&key)?;
                let deployment = meta::controller_of(&set.metadata)
                    .and_then(|o| view.deployments.get(&Key::new(&key.namespace, &o.name)));
                match deployment {
                    Some(d) => (meta::uid(&d.metadata), d.spec.as_ref()?.replicas.unwrap_or(1)),
                    None => (meta::uid(&set.metadata), set.spec.as_ref()?.replicas.unwrap_or(1)),
                }
            }
            "StatefulSet" => {
                let set = view.stateful_sets.get(&key)?;
                (meta::uid(&set.metadata), set.spec.as_ref()?.replicas.unwrap_or(1))
            }
            "ReplicationController" => {
                let set = view.replication_controllers.get(&key)?;
                (meta::uid(&set.metadata), set.spec.as_ref()?.replicas.unwrap_or(1))
            }
            _ => return None,
        };
        sizes.insert(uid.to_owned(), size);
    }
    Some(sizes.values().copied().fold(0, i32::saturating_add))
}
