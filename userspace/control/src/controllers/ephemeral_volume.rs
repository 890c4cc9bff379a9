//! Generic ephemeral volumes (KEP-1698): makes the claim of each, which the pod owns. PURE.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pods::finished;
use super::routing::{own_key, owner_keys};
use super::volume_claims::{claim_name, is_owned_by, not_owner};
use crate::action::{Action, Context, Controller, Failure};
use crate::cache::{Change, Key, Kind, Object, View};
use crate::meta;

pub struct EphemeralVolumes;

impl Controller for EphemeralVolumes {
    fn name(&self) -> &'static str {
        "ephemeral-volume"
    }

    fn account(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn reads(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::PersistentVolumeClaim]
    }

    fn route(&self, change: &Change, view: &View, keys: &mut Vec<Key>) {
        match change.object() {
            Some(Object::Pod(pod)) if ephemeral_volumes(pod).next().is_some() => {
                own_key(change, Kind::Pod, keys);
            }
            // A claim that is gone: a pod may need it again, or has waited for its name.
            Some(Object::PersistentVolumeClaim(claim)) if change.new.is_none() => {
                owner_keys(change, Kind::Pod, keys);
                let (namespace, name) = (meta::namespace(&claim.metadata), meta::name(&claim.metadata));
                let pods = view.pods.in_namespace(namespace);
                let waiting = pods.filter(|(_, pod)| {
                    ephemeral_volumes(pod).any(|volume| claim_name(pod, volume).as_deref() == Some(name))
                });
                keys.extend(waiting.map(|(key, _)| key.clone()));
            }
            _ => {}
        }
    }

    fn reconcile(&self, view: &View, key: &Key, context: Context<'_>) -> Vec<Action> {
        let Some(pod) = view.pods.get(key) else { return Vec::new() };
        if meta::terminating(&pod.metadata) || finished(pod) {
            return Vec::new();
        }
        let subject = Object::Pod(pod.clone());
        let fail = |volume: &Volume, why: &str| {
            let message = format!("ephemeral volume {}: {why}", volume.name);
            Action::record(&subject, true, "FailedBinding", message)
        };
        let refused = match context.failure {
            Some(Failure::Refused { message, .. }) => Some(message),
            _ => None,
        };
        let mut actions = Vec::new();
        for volume in ephemeral_volumes(pod) {
            let Some(name) = claim_name(pod, volume) else { continue };
            match view.claims.get(&Key::new(&key.namespace, &name)) {
                Some(claim) if is_owned_by(claim, pod) => {}
                Some(_) => actions.push(fail(volume, &not_owner(pod, &name))),
                None => {
                    actions.extend(refused.map(|why| fail(volume, &format!("create PVC {name}: {why}"))));
                    actions.extend(claim(pod, volume, name).map(|claim| Action::Create(claim.into())));
                }
            }
        }
        actions
    }
}

fn ephemeral_volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some())
}

fn claim(pod: &Pod, volume: &Volume, name: String) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let of_template = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: pod.metadata.namespace.clone(),
        labels: of_template.labels,
        annotations: of_template.annotations,
        owner_references: Some(vec![meta::controlled_by(Kind::Pod, &pod.metadata)]),
        ..ObjectMeta::default()
    };
    Some(PersistentVolumeClaim { metadata, spec: Some(template.spec.clone()), status: None })
}
