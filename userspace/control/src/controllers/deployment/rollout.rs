//! The arithmetic of a Deployment's rollout: bounds, proportions, template identity and revisions. PURE.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controllers::pods::scaled;
use crate::controllers::revisions;
use crate::meta;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How far a rollout may deviate from the desired number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub surge: i32,
    pub unavailable: i32,
}

impl Bounds {
    pub fn of(spec: &DeploymentSpec) -> Self {
        let replicas = replicas(spec);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate") {
            return Bounds { surge: 0, unavailable: 0 };
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = scaled(surge, replicas, true).max(0);
        let mut unavailable = scaled(unavailable, replicas, false).max(0);
        if surge == 0 && unavailable == 0 {
            // Both can round to zero; then the rollout could never progress.
            unavailable = 1;
        }
        Bounds { surge, unavailable: unavailable.min(replicas.max(0)) }
    }
}

pub fn replicas(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

pub fn desired(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// How large the new set may be now, during a rolling update. `all_pods`: upper bound of the existing pods.
pub fn new_set_size(spec: &DeploymentSpec, all_pods: i32, new_desired: i32) -> i32 {
    let target = replicas(spec);
    if spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate") {
        return target;
    }
    let room = target.saturating_add(Bounds::of(spec).surge).saturating_sub(all_pods);
    if room <= 0 {
        new_desired
    } else {
        new_desired.saturating_add(room.min(target.saturating_sub(new_desired)))
    }
}

/// The change of one set's size when a Deployment is scaled during a rollout.
pub fn proportion(
    set: &ReplicaSet,
    spec: &DeploymentSpec,
    status_replicas: i32,
    to_add: i32,
    added: i32,
) -> i32 {
    let size = desired(set);
    if size == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let left = to_add.saturating_sub(added);
    let fraction = fraction(set, spec, status_replicas);
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

fn fraction(set: &ReplicaSet, spec: &DeploymentSpec, status_replicas: i32) -> i32 {
    let size = desired(set);
    if replicas(spec) == 0 {
        return size.saturating_neg();
    }
    let now = f64::from(replicas(spec).saturating_add(Bounds::of(spec).surge));
    let before = meta::annotation(&set.metadata, MAX).and_then(|v| v.parse().ok()).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    // Sizes are int32: the product is exact enough in a double, and the cast clamps.
    ((f64::from(size) * now / f64::from(before)).round() as i32).saturating_sub(size)
}

/// The template without the label that distinguishes the ReplicaSets of one Deployment.
pub fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
        meta.creation_timestamp = None;
    }
    template
}

pub fn same_template(deployment: &PodTemplateSpec, set: Option<&PodTemplateSpec>) -> bool {
    set.is_some_and(|t| without_hash(deployment) == without_hash(t))
}

/// As [`same_template`], with templates that different versions stored.
pub fn same_restored(deployment: &PodTemplateSpec, set: Option<&PodTemplateSpec>) -> bool {
    set.is_some_and(|set| {
        revisions::restored(&without_hash(deployment)) == revisions::restored(&without_hash(set))
    })
}

/// The hash in name and label of the ReplicaSet for a template.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // Maps are ordered and structs have their fields' order, so equal templates have equal bytes.
    let bytes = serde_json::to_vec(&without_hash(template)).unwrap_or_default();
    meta::short_code(meta::stable_hash(&[&bytes, &collisions.to_le_bytes()]), 10)
}

pub fn revision(set: &ReplicaSet) -> i64 {
    meta::annotation(&set.metadata, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Sets the new set's annotations: the Deployment's own, and the revision. True if any changed.
pub fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64, existed: bool) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if ![REVISION, REVISION_HISTORY, DESIRED, MAX, LAST_APPLIED, "deprecated.deployment.rollback.to"]
            .contains(&key.as_str())
        {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old: i64 = annotations.get(REVISION).and_then(|v| v.parse().ok()).unwrap_or(0);
    if old < revision {
        if let (true, Some(old)) = (existed, annotations.get(REVISION).cloned()) {
            let history = annotations.entry(REVISION_HISTORY.into()).or_default();
            if !history.split(',').any(|r| r == old) {
                *history = if history.is_empty() { old } else { format!("{history},{old}") };
            }
        }
        annotations.insert(REVISION.into(), revision.to_string());
    }
    *annotations != before
}

/// Annotates the set with the Deployment's size at the time of scaling. True if that changed.
pub fn annotate_size(set: &mut ReplicaSet, spec: &DeploymentSpec) -> bool {
    let (desired, max) = (replicas(spec), replicas(spec).saturating_add(Bounds::of(spec).surge));
    let annotations = set.metadata.annotations.get_or_insert_default();
    let a = annotations.insert(DESIRED.into(), desired.to_string());
    let b = annotations.insert(MAX.into(), max.to_string());
    a.as_deref() != Some(&desired.to_string()) || b.as_deref() != Some(&max.to_string())
}

/// Oldest first.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let key = |s: &ReplicaSet| -> (Timestamp, Option<String>) {
        (meta::created(&s.metadata), s.metadata.name.clone())
    };
    key(a).cmp(&key(b))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn spec(replicas: i32, surge: &str, unavailable: &str) -> DeploymentSpec {
        DeploymentSpec {
            replicas: Some(replicas),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String(surge.into())),
                    max_unavailable: Some(IntOrString::String(unavailable.into())),
                }),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down() {
        assert_eq!(Bounds::of(&spec(10, "25%", "25%")), Bounds { surge: 3, unavailable: 2 });
        assert_eq!(Bounds::of(&spec(1, "0%", "25%")), Bounds { surge: 0, unavailable: 1 });
    }

    proptest! {
        #[test]
        fn a_rollout_can_always_progress(n in 1..500_i32, s in 0..=100_u8, u in 0..=100_u8) {
            let b = Bounds::of(&spec(n, &format!("{s}%"), &format!("{u}%")));
            prop_assert!(b.surge + b.unavailable >= 1);
        }

        #[test]
        fn the_new_set_never_outgrows_surge_or_target(n in 0..200_i32, pods in 0..400_i32, new in 0..200_i32) {
            let spec = spec(n, "25%", "25%");
            let new = new.min(pods).min(n);
            let size = new_set_size(&spec, pods, new);
            prop_assert!(size <= n.max(new));
            prop_assert!(size - new + pods <= (n + Bounds::of(&spec).surge).max(pods));
        }
    }

    #[test]
    fn a_template_that_an_older_version_stored_is_the_same() {
        let template = |spec: serde_json::Value| serde_json::from_value(json!({"spec": spec})).unwrap();
        let container =
            json!({"name": "c", "image": "i", "env": [], "resources": {"requests": {"cpu": "1000m"}}});
        let old = template(json!({"hostNetwork": false, "containers": [container]}));
        let requests = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}});
        let new = template(json!({"containers": [requests]}));
        assert!(!same_template(&new, Some(&old)) && same_restored(&new, Some(&old)));
        let other = template(json!({"containers": [{"name": "c", "image": "j"}]}));
        assert!(!same_restored(&new, Some(&other)));
    }

    #[test]
    fn equal_templates_have_equal_hashes() {
        let mut t = PodTemplateSpec::default();
        let a = template_hash(&t, 0);
        assert_eq!(a, template_hash(&t, 0));
        assert_ne!(a, template_hash(&t, 1));
        t.metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH_LABEL.into(), a.clone());
        let mut with_meta = PodTemplateSpec::default();
        with_meta.metadata.get_or_insert_default();
        assert_eq!(
            template_hash(&with_meta, 0),
            template_hash(&t, 0),
            "the label itself is not part of the hash"
        );
    }
}
