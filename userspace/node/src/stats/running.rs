//! PURE. The containers that run, by the pods' statuses.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// A container that runs.
#[derive(Debug, Clone)]
pub(super) struct RunningContainer {
    pub(super) pod: Pod,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) image: String,
    pub(super) started: Option<Timestamp>,
}

/// The running containers of these pods, those of a pod together, ordered by namespace and name of the pods.
pub(super) fn containers(pods: &[Pod]) -> Vec<RunningContainer> {
    let mut pods: Vec<&Pod> = pods.iter().collect();
    let key =
        |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone(), pod.metadata.uid.clone());
    pods.sort_by_cached_key(|pod| key(pod));
    let mut running = Vec::new();
    for pod in pods {
        let Some(status) = &pod.status else { continue };
        let lists = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let of_pod = lists.into_iter().flatten().flatten();
        running.extend(of_pod.filter_map(|status| running_container(pod, status)));
    }
    running
}

fn running_container(pod: &Pod, status: &ContainerStatus) -> Option<RunningContainer> {
    let state = status.state.as_ref()?.running.as_ref()?;
    let (_, id) = status.container_id.as_deref()?.split_once("://")?;
    Some(RunningContainer {
        pod: pod.clone(),
        name: status.name.clone(),
        id: id.to_owned(),
        image: status.image.clone(),
        started: state.started_at.as_ref().map(|at| at.0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_containers_that_run_are_measured() {
        let pod = |name: &str, status| {
            let pod = json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "status": status});
            serde_json::from_value::<Pod>(pod).expect("a pod")
        };
        let status = |name: &str, state| {
            json!({"name": name, "containerID": format!("containerd://{name}"), "state": state,
                "image": "i", "imageID": "i", "ready": true, "restartCount": 0})
        };
        let runs = || json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let pods = [
            pod("z", json!({"containerStatuses": [status("last", runs())]})),
            pod(
                "b",
                json!({"initContainerStatuses": [status("sidecar", runs())], "containerStatuses": [
                    status("main", runs()), status("waits", json!({"waiting": {}})),
                    status("ended", json!({"terminated": {"exitCode": 0}}))]}),
            ),
        ];
        let found: Vec<_> = containers(&pods).into_iter().map(|container| container.id).collect();
        assert_eq!(found, ["sidecar", "main", "last"]);
    }
}
