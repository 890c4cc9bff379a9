//! The status of a namespace that is being deleted: when it may be finalized, and its conditions until then. PURE.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};

use crate::meta;

/// The finalizer that the API server puts on every namespace.
const FINALIZER: &str = "kubernetes";

/// What remains of one resource in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remainder {
    /// "pods" or "deployments.apps".
    pub(super) resource: String,
    pub(super) count: usize,
    /// Finalizers that hold the objects, and how many objects each holds.
    pub(super) finalizers: Vec<(String, usize)>,
}

/// The result of one round of deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) remainders: Vec<Remainder>,
    /// Groups whose discovery failed.
    pub(super) discovery_failures: Vec<String>,
    /// Deletes that the server refused.
    pub(super) delete_failures: Vec<String>,
}

impl Round {
    pub(super) fn is_empty(&self) -> bool {
        self.remainders.is_empty() && self.discovery_failures.is_empty() && self.delete_failures.is_empty()
    }
}

/// Whether the namespace is being deleted and still has our finalizer.
pub(super) fn is_ending(namespace: &Namespace) -> bool {
    meta::terminating(&namespace.metadata)
        && namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).any(|f| f == FINALIZER)
}

/// The namespace without our finalizer, for its `finalize` subresource.
pub(super) fn finalized(namespace: &Namespace) -> Namespace {
    let mut done = namespace.clone();
    if let Some(finalizers) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    done
}

/// The conditions after a round; `None` if they have not changed.
pub(super) fn conditions(
    namespace: &Namespace,
    round: &Round,
    now: Timestamp,
) -> Option<Vec<NamespaceCondition>> {
    let old = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut new = old.clone();
    let held: Vec<String> =
        merged_finalizers(round).into_iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let remaining: Vec<String> = round
        .remainders
        .iter()
        .map(|r| format!("{} has {} resource instances", r.resource, r.count))
        .collect();
    put(
        &mut new,
        "NamespaceDeletionDiscoveryFailure",
        &round.discovery_failures,
        ("ResourcesDiscovered", "All resources successfully discovered"),
        ("DiscoveryFailed", "Discovery failed for some groups: "),
        now,
    );
    put(
        &mut new,
        "NamespaceDeletionContentFailure",
        &round.delete_failures,
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ("ContentDeletionFailed", "Failed to delete all resource types: "),
        now,
    );
    put(
        &mut new,
        "NamespaceContentRemaining",
        &remaining,
        ("ContentRemoved", "All content successfully removed"),
        ("SomeResourcesRemain", "Some resources are remaining: "),
        now,
    );
    put(
        &mut new,
        "NamespaceFinalizersRemaining",
        &held,
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ("SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "),
        now,
    );
    (new != old).then_some(new)
}

fn merged_finalizers(round: &Round) -> BTreeMap<&str, usize> {
    let mut all = BTreeMap::new();
    for (name, count) in round.remainders.iter().flat_map(|r| &r.finalizers) {
        *all.entry(name.as_str()).or_insert(0) += count;
    }
    all
}

fn put(
    conditions: &mut Vec<NamespaceCondition>,
    kind: &str,
    failures: &[String],
    good: (&str, &str),
    bad: (&str, &str),
    now: Timestamp,
) {
    let (status, reason, message) = if failures.is_empty() {
        ("False", good.0, good.1.to_owned())
    } else {
        ("True", bad.0, format!("{}{}", bad.1, failures.join(", ")))
    };
    let old = conditions.iter().find(|c| c.type_ == kind);
    if old.is_some_and(|c| c.status == status && c.message.as_deref() == Some(&message)) {
        return;
    }
    let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: since.or_else(|| Some(meta::time(now))),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(c) => *c = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NamespaceSpec;

    use super::*;

    fn namespace() -> Namespace {
        let mut ns = Namespace {
            spec: Some(NamespaceSpec { finalizers: Some(vec!["kubernetes".into(), "other".into()]) }),
            ..Default::default()
        };
        ns.metadata.deletion_timestamp = Some(meta::time(Timestamp::UNIX_EPOCH));
        ns
    }

    #[test]
    fn only_our_finalizer_is_removed() {
        let ns = namespace();
        assert!(is_ending(&ns));
        let done = finalized(&ns);
        assert!(!is_ending(&done));
        assert_eq!(done.spec.unwrap().finalizers.unwrap(), vec!["other"]);
    }

    #[test]
    fn conditions_name_what_remains_and_settle() {
        let mut ns = namespace();
        let round = Round {
            remainders: vec![Remainder {
                resource: "pods".into(),
                count: 2,
                finalizers: vec![("example.com/hold".into(), 1)],
            }],
            ..Default::default()
        };
        let new = conditions(&ns, &round, Timestamp::UNIX_EPOCH).unwrap();
        let remaining = new.iter().find(|c| c.type_ == "NamespaceContentRemaining").unwrap();
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods has 2 resource instances")
        );
        ns.status.get_or_insert_default().conditions = Some(new);
        assert_eq!(conditions(&ns, &round, Timestamp::UNIX_EPOCH), None);
    }
}
