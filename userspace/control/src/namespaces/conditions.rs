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
    /// "pods." or "deployments.apps".
    pub(super) resource: String,
    pub(super) count: usize,
    /// Finalizers that hold the objects, and how many objects each holds.
    pub(super) finalizers: Vec<(String, usize)>,
}

/// The result of one round of deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) remainders: Vec<Remainder>,
    /// Why the resources of the server are not all known: some may still have objects in the namespace.
    pub(super) discovery_failure: Option<String>,
    /// Deletes that the server refused.
    pub(super) delete_failures: Vec<String>,
}

impl Round {
    pub(super) fn is_empty(&self) -> bool {
        self.remainders.is_empty() && self.discovery_failure.is_none() && self.delete_failures.is_empty()
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
    let joined = |prefix: &str, parts: &[String]| {
        (!parts.is_empty()).then(|| format!("{prefix}: {}", parts.join(", ")))
    };
    let failed = format!("Failed to delete all resource types, {} remaining", round.delete_failures.len());
    let mut put = |kind, failure, bad_reason, good| put(&mut new, kind, failure, bad_reason, good, now);
    put(
        "NamespaceDeletionDiscoveryFailure",
        round.discovery_failure.clone(),
        "DiscoveryFailed",
        ("ResourcesDiscovered", "All resources successfully discovered"),
    );
    put(
        "NamespaceDeletionGroupVersionParsingFailure",
        None,
        "GroupVersionParsingFailed",
        ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    );
    put(
        "NamespaceDeletionContentFailure",
        joined(&failed, &round.delete_failures),
        "ContentDeletionFailed",
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    );
    put(
        "NamespaceContentRemaining",
        joined("Some resources are remaining", &remaining),
        "SomeResourcesRemain",
        ("ContentRemoved", "All content successfully removed"),
    );
    put(
        "NamespaceFinalizersRemaining",
        joined("Some content in the namespace has finalizers remaining", &held),
        "SomeFinalizersRemain",
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
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

/// Sets a condition: true with the failure, or false with the good reason and message.
fn put(
    conditions: &mut Vec<NamespaceCondition>,
    kind: &str,
    failure: Option<String>,
    bad_reason: &str,
    good: (&str, &str),
    now: Timestamp,
) {
    let (status, reason, message) = match failure {
        None => ("False", good.0, good.1.to_owned()),
        Some(message) => ("True", bad_reason, message),
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
                resource: "pods.".into(),
                count: 2,
                finalizers: vec![("example.com/hold".into(), 1)],
            }],
            ..Default::default()
        };
        let new = conditions(&ns, &round, Timestamp::UNIX_EPOCH).unwrap();
        let remaining = new.iter().find(|c| c.type_ == "NamespaceContentRemaining").unwrap();
        assert_eq!(
            remaining.message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        ns.status.get_or_insert_default().conditions = Some(new);
        assert_eq!(conditions(&ns, &round, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn a_namespace_is_not_empty_while_some_resources_are_unknown() {
        let failure = "Discovery failed for some groups, 1 failing: down.io/v1".to_owned();
        let round = Round { discovery_failure: Some(failure.clone()), ..Default::default() };
        assert!(!round.is_empty());
        let new = conditions(&namespace(), &round, Timestamp::UNIX_EPOCH).unwrap();
        let found = new.iter().find(|c| c.type_ == "NamespaceDeletionDiscoveryFailure").unwrap();
        assert_eq!((found.status.as_str(), found.message.as_ref()), ("True", Some(&failure)));
    }
}
