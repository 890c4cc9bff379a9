//! What of an object is kept: not what no controller and no scheduler reads. PURE.
//!
//! Kinds that controllers write back whole lose their managedFields only, which the server then keeps as they were.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::view::{Object, Stored};

/// An object in no more memory than it needs. Answers are decoded with room for four items in every list; a clone has
/// no room to spare.
pub(crate) fn slimmed<K: Stored>(mut object: K) -> Object
where
    Object: From<K>,
{
    object.metadata_mut().managed_fields = None;
    object.slim();
    Object::from(K::clone(&object))
}

/// Two thirds of a pod say how its node is to run it. Pods are written by patches only.
pub(crate) fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(container);
    spec.ephemeral_containers = None;
    if let Some(volumes) = &mut spec.volumes {
        // A claim may say where the pod can be.
        volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    }
    spec.volumes.take_if(|volumes| volumes.is_empty());
}

fn container(container: &mut Container) {
    let Container { name, image, ports, resources, restart_policy, .. } = std::mem::take(container);
    *container = Container { name, image, ports, resources, restart_policy, ..Container::default() };
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_keeps_what_decides_where_it_runs() {
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "managedFields": [{"manager": "m"}]},
            "spec": {
                "containers": [{
                    "name": "c", "image": "i", "env": [{"name": "A", "value": "b"}],
                    "ports": [{"containerPort": 80, "hostPort": 8080}], "resources": {"requests": {"cpu": "1"}},
                }],
                "initContainers": [{"name": "s", "restartPolicy": "Always", "command": ["x"]}],
                "volumes": [
                    {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "token", "emptyDir": {}},
                ],
            },
        });
        let object = slimmed(serde_json::from_value::<Pod>(value).unwrap());
        let Object::Pod(pod) = object else { panic!("{object:?}") };
        let kept: Value = serde_json::to_value(&*pod).unwrap();
        assert_eq!(kept["metadata"], json!({"name": "a"}));
        let kept = &kept["spec"];
        assert_eq!(
            kept["containers"],
            json!([{
                "name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 8080}],
                "resources": {"requests": {"cpu": "1"}},
            }])
        );
        assert_eq!(kept["initContainers"], json!([{"name": "s", "restartPolicy": "Always"}]));
        assert_eq!(
            kept["volumes"],
            json!([{"name": "claim", "persistentVolumeClaim": {"claimName": "data"}}])
        );
    }
}
