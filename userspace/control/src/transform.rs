//! Drops fields that no controller and no scheduler reads from objects on arrival (client-go's SetTransform). PURE.

use k8s_openapi::api::core::v1::{Container, Pod};

/// Two thirds of a pod describe how its node runs it. Pods are written only by patches, so the rest may go.
pub(crate) fn trim_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(trim_container);
    spec.ephemeral_containers = None;
    if let Some(volumes) = &mut spec.volumes {
        // A claim may restrict where the pod can run.
        volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    }
    spec.volumes.take_if(|volumes| volumes.is_empty());
}

fn trim_container(container: &mut Container) {
    let Container { name, image, ports, resources, restart_policy, .. } = std::mem::take(container);
    *container = Container { name, image, ports, resources, restart_policy, ..Container::default() };
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::{Object, transformed};

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
        let object = transformed(serde_json::from_value::<Pod>(value).unwrap());
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
