//! NamespaceLifecycle: refuses to create in a missing or terminating namespace, and to delete the system's namespaces.

use serde_json::{Value, json};
use skep_api::Status;

use super::request::{Operation, Request};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) async fn admit(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    let kind = request.kind();
    if !kind.namespaced() || request.operation != Operation::Create {
        return Ok(());
    }
    let namespace = request.namespace();
    let Some(namespaces) = skep_api::find("", "v1", "namespaces") else { return Ok(()) };
    let found = request.required(("", "v1", "namespaces"), "", namespace).await?;
    let found = found.ok_or_else(|| Status::not_found(namespaces, namespace))?;
    if found.selectable.field("status.phase") != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = json!({
        "reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    });
    Err(request.forbidden(object, why).with_cause(cause))
}

pub(super) fn delete(request: &Request<'_>) -> Result<(), Status> {
    let name = request.call.target.name.as_str();
    if request.is("", "namespaces") && IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    Ok(())
}
