//! /runningpods: the pods of the runtime, whatever the API server knows of them.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{Body, json as answer_json, text};
use crate::cri::{Cri, CriError};

pub(super) async fn serve(cri: &Cri) -> Response<Body> {
    match list(cri).await {
        Ok(items) => answer_json(&json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items,
        })),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{} of the runtime failed: {error}", error.call))
        }
    }
}

async fn list(cri: &Cri) -> Result<Vec<Value>, CriError> {
    let mut items = Vec::new();
    for pod in cri.pods().await? {
        let (_, containers) = cri.observe(&pod.uid).await?;
        let running = containers.iter().filter(|container| container.is_running());
        let containers: Vec<Value> = running
            .map(|container| json!({"name": container.name, "image": container.image_id, "resources": {}}))
            .collect();
        if containers.is_empty() {
            continue;
        }
        items.push(json!({
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "spec": {"containers": containers},
            "status": {},
        }));
    }
    Ok(items)
}
