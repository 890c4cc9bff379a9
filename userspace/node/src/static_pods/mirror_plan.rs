//! PURE. Which mirrors the API should have: one for each static pod that runs, with its content and its status.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{HASH, MIRROR, PodKey, annotation};
use crate::plan::ready;

/// What is to be done in the API.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MirrorAction {
    /// Creates the mirror of this static pod.
    Create(Arc<Pod>),
    /// Removes this pod, with grace 0 and its uid as precondition.
    Delete(Arc<Pod>),
    /// Writes this status to the mirror.
    Report(Arc<Pod>, Box<PodStatus>),
}

/// `statuses` has the static pods' statuses by their uid, `reported` those that mirrors have got by the mirrors' uid.
pub(super) fn plan(
    statics: &HashMap<PodKey, Arc<Pod>>,
    mirrors: &HashMap<PodKey, Arc<Pod>>,
    statuses: &HashMap<String, PodStatus>,
    reported: &HashMap<String, PodStatus>,
) -> Vec<MirrorAction> {
    let mut actions = Vec::new();
    for (key, mirror) in mirrors {
        let shown = statics.get(key).filter(|pod| annotation(pod, HASH) == annotation(mirror, MIRROR));
        if shown.is_none() || mirror.metadata.deletion_timestamp.is_some() {
            actions.push(MirrorAction::Delete(mirror.clone()));
        }
    }
    for (key, pod) in statics {
        let Some(mirror) = mirrors.get(key) else {
            actions.push(MirrorAction::Create(pod.clone()));
            continue;
        };
        if actions.iter().any(|action| matches!(action, MirrorAction::Delete(gone) if gone == mirror)) {
            continue;
        }
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        if let Some(status) = statuses.get(&uid(pod))
            && (reported.get(&uid(mirror)) != Some(status) || is_overruled(mirror, status))
        {
            actions.push(MirrorAction::Report(mirror.clone(), Box::new(status.clone())));
        }
    }
    actions
}

/// Whether the control plane marked the mirror as unready, as it does with pods of an unreachable node.
fn is_overruled(mirror: &Pod, status: &PodStatus) -> bool {
    ready(Some(status)) == Some("True") && ready(mirror.status.as_ref()) == Some("False")
}

/// The mirror of a static pod, owned by its Node.
pub(super) fn mirror_of(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    let hash = annotation(pod, HASH).unwrap_or_default().to_owned();
    meta.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;

    fn pod(uid: &str, annotations: &[(&str, &str)]) -> Arc<Pod> {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let metadata = ObjectMeta {
            uid: Some(uid.to_owned()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        };
        Arc::new(Pod { metadata, ..Pod::default() })
    }

    fn one(pod: &Arc<Pod>) -> HashMap<PodKey, Arc<Pod>> {
        HashMap::from([(("default".to_owned(), "web-n".to_owned()), pod.clone())])
    }

    #[test]
    fn each_static_pod_has_one_mirror_of_its_content_and_status() {
        let (pod_of_file, mirror) = (pod("a", &[(HASH, "a")]), pod("m", &[(HASH, "a"), (MIRROR, "a")]));
        let none = HashMap::new();
        let status = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
        let now = HashMap::from([("a".to_owned(), status.clone())]);
        let reported = HashMap::from([("m".to_owned(), status.clone())]);
        let plan_of = |statics: &_, mirrors: &_, reported: &_| plan(statics, mirrors, &now, reported);
        let (statics, mirrors) = (one(&pod_of_file), one(&mirror));
        let nothing = HashMap::new();
        assert_eq!(plan_of(&statics, &none, &nothing), [MirrorAction::Create(pod_of_file.clone())]);
        assert_eq!(
            plan_of(&statics, &mirrors, &nothing),
            [MirrorAction::Report(mirror.clone(), Box::new(status))]
        );
        assert_eq!(plan_of(&statics, &mirrors, &reported), []);
        assert_eq!(plan_of(&none, &mirrors, &reported), [MirrorAction::Delete(mirror.clone())]);
        let changed = one(&pod("b", &[(HASH, "b")]));
        assert_eq!(plan_of(&changed, &mirrors, &reported), [MirrorAction::Delete(mirror.clone())]);
        let mut deleted = Arc::unwrap_or_clone(mirror);
        deleted.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let deleted = Arc::new(deleted);
        assert_eq!(plan_of(&statics, &one(&deleted), &nothing), [MirrorAction::Delete(deleted.clone())]);
        let made = mirror_of(&pod_of_file, "n", "node-uid");
        assert_eq!((made.metadata.uid.as_ref(), annotation(&made, MIRROR)), (None, Some("a")));
    }
}
