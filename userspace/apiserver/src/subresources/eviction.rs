//! `eviction`: a deletion that a PodDisruptionBudget may refuse.

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use skep_api::selector::LabelSelector;
use skep_api::{Status, find, meta};
use skep_store::StoreError;

use super::edit::{posted, success};
use crate::admission::{self, Operation};
use crate::cache::Caches;
use crate::call::Call;
use crate::clock::now;
use crate::deletion::DeleteOptions;
use crate::object::{Object, prefix, to_stored};
use crate::stored::store_error;
use crate::write::Writer;

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    let shape = ("policy", "v1", "Eviction");
    let mut eviction = posted(&call, request, shape).await?;
    let options = DeleteOptions::from_value(&call, &eviction["deleteOptions"])?;
    admission::part(
        &writer.admission,
        &call,
        Operation::Create,
        shape,
        &mut eviction,
        None,
        options.is_dry_run(),
    )
    .await?;
    let (kind, target) = (&call.target.kind, &call.target);
    let pod = writer.storage.latest(kind, &target.namespace, &target.name).await?.value();
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"));
    if !ended && pod["metadata"]["deletionTimestamp"].is_null() {
        spend_budget(&writer.storage.caches, &pod).await?;
    }
    writer.delete(&call, &target.namespace, &target.name, &options).await?;
    Ok(success())
}

/// Takes one disruption from the pod's budget; 429 if it has none left.
async fn spend_budget(caches: &Caches, pod: &Value) -> Result<(), Status> {
    let Some(kind) = find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let namespace = meta::namespace(pod);
    let all = caches.of(kind).map(|resource| resource.list(&format!("{}{namespace}/", prefix(kind))));
    let over: Vec<_> = all.into_iter().flatten().filter(|budget| covers(budget, pod)).collect();
    let budget = match over.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let mut value = budget.value();
    let name = meta::name(&value).to_owned();
    let ready = |pod: &Value| {
        pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let always = value["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !ready(pod)
        && (always
            || value["status"]["currentHealthy"].as_i64() >= value["status"]["desiredHealthy"].as_i64())
    {
        return Ok(());
    }
    let allowed = value["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
    let stale = value["status"]["observedGeneration"].as_i64() < value["metadata"]["generation"].as_i64();
    if allowed <= 0 || stale {
        let status =
            Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
        let cause = json!({"reason": "DisruptionBudget", "message": format!("The disruption budget {name} needs {} healthy pods and has {} currently", value["status"]["desiredHealthy"], value["status"]["currentHealthy"])});
        return Err(status.with_details(json!({"causes": [cause]})));
    }
    value["status"]["disruptionsAllowed"] = (allowed - 1).into();
    value["status"]["disruptedPods"][meta::name(pod)] = now().into();
    let expect = skep_store::Expect::Revision(budget.revision);
    match caches.store().put(&budget.key, to_stored(&value), expect).await {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => Err(Status::too_many_requests(
            "Cannot evict pod: the disruption budget is being changed; please retry.",
            1,
        )),
        Err(error) => Err(store_error(error)),
    }
}

fn covers(budget: &Object, pod: &Value) -> bool {
    let selector = LabelSelector::from_object(&budget.value()["spec"]["selector"]);
    matches!(selector, Ok(Some(selector)) if selector.matches(&pod["metadata"]["labels"]))
}
