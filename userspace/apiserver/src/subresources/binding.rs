//! `binding`: assigns a pod to a node.

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use skep_api::kinds::Part;
use skep_api::{Status, meta};

use super::edit::{edit, posted, success};
use crate::admission::{self, Operation};
use crate::call::Call;
use crate::clock::now;
use crate::write::Writer;
use crate::write_options::Options;

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    let shape = ("", "v1", "Binding");
    let mut binding = posted(&call, request, shape).await?;
    // As upstream, an assignment has no manager.
    let options = Options::parse(&call)?.recorded();
    admission::part(&writer.admission, &call, Operation::Create, shape, &mut binding, None, options.dry_run)
        .await?;
    bind(writer, &call, &binding, &options).await
}

async fn bind(writer: &Writer, call: &Call, binding: &Value, options: &Options) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(Status::invalid_body("Binding", &call.target.name, "target.name: Required value"));
    }
    edit(writer, call, Part::Assignment, options, |old| {
        let refuse = |why: &str| Err(Status::conflict(kind, meta::name(old), why));
        if !meta::uid(binding).is_empty() && meta::uid(binding) != meta::uid(old) {
            return refuse("Precondition failed: UID in precondition does not match UID in object meta");
        }
        if !old["metadata"]["deletionTimestamp"].is_null() {
            return refuse(&format!(
                "pod {} is being deleted, cannot be assigned to a host",
                meta::name(old)
            ));
        }
        if let Some(present) = old["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) {
            return refuse(&format!("pod {} is already assigned to node \"{present}\"", meta::name(old)));
        }
        if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return refuse(&format!("pod {} has non-empty .spec.schedulingGates", meta::name(old)));
        }
        let mut new = old.clone();
        new["spec"]["nodeName"] = node.as_str().into();
        scheduled(&mut new["status"]);
        Ok(new)
    })
    .await?;
    Ok(success())
}

fn scheduled(status: &mut Value) {
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(condition);
    }
}
