//! `eviction`: a deletion that a PodDisruptionBudget may refuse.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use skep_api::custom::definition::set_condition;
use skep_api::selector::LabelSelector;
use skep_api::{Kind, Reason, Status, find, meta};

use super::edit::{posted, success};
use crate::admission::{self, Operation};
use crate::call::Call;
use crate::clock::now;
use crate::deletion::DeleteOptions;
use crate::object::{Object, prefix};
use crate::write::{Attempts, Writer};

/// Pods that were evicted from one budget and not yet seen to be gone, as upstream.
const MAX_DISRUPTED_PODS: usize = 2000;
/// Attempts against other writers of a pod or a budget, as upstream.
const MAX_ATTEMPTS: u32 = 20;
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(5);
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    let shape = ("policy", "v1", "Eviction");
    let mut eviction = posted(&call, request, shape).await?;
    let name = meta::name(&eviction);
    if !name.is_empty() && name != call.target.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = DeleteOptions::from_value(&call, &eviction["deleteOptions"])?;
    let dry_run = options.is_dry_run();
    admission::part(&writer.admission, &call, Operation::Create, shape, &mut eviction, None, dry_run).await?;
    let eviction = Eviction { writer, call: &call, options };
    if let Some(pod) = eviction.delete_unguarded().await? {
        eviction.delete_guarded(&pod).await?;
    }
    Ok(success())
}

struct Eviction<'a> {
    writer: &'a Writer,
    call: &'a Call,
    options: DeleteOptions,
}

/// Pauses between attempts against other writers.
#[derive(Default)]
struct Retries(u32);

impl Retries {
    /// Whether to try again after this failure; waits before.
    async fn after(&mut self, status: &Status) -> bool {
        self.0 += 1;
        if status.reason != Reason::Conflict || self.0 >= MAX_ATTEMPTS {
            return false;
        }
        let pause = MIN_RETRY_PAUSE * 2_u32.pow(self.0.min(10));
        tokio::time::sleep(pause.min(MAX_RETRY_PAUSE)).await;
        true
    }
}

impl Eviction<'_> {
    fn kind(&self) -> &Kind {
        &self.call.target.kind
    }

    async fn pod(&self) -> Result<Arc<Object>, Status> {
        let target = &self.call.target;
        self.writer.storage.latest(&target.kind, &target.namespace, &target.name).await
    }

    /// Deletes a pod that does not run, or not any more: no budget counts it. Returns the pod if budgets do.
    async fn delete_unguarded(&self) -> Result<Option<Arc<Object>>, Status> {
        let mut retries = Retries::default();
        loop {
            let pod = self.pod().await?;
            let value = pod.value();
            let ended = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
                || !value["metadata"]["deletionTimestamp"].is_null();
            if !ended && value["status"]["phase"] != "Pending" {
                return Ok(Some(pod));
            }
            let options = match ended || self.options.has_revision() {
                true => self.options.clone(),
                // A pending pod may start just now, and then its budget counts it.
                false => self.options.at_revision(pod.revision),
            };
            match self.mark_and_delete(options).await {
                Ok(()) => return Ok(None),
                Err(status) if !self.options.has_revision() && retries.after(&status).await => {}
                Err(status) => return Err(status),
            }
        }
    }

    /// Deletes a running pod if its budget allows that.
    async fn delete_guarded(&self, pod: &Object) -> Result<(), Status> {
        let value = pod.value();
        let Some(mut budget) = self.budget_of(&value)? else {
            return self.mark_and_delete(self.options.clone()).await;
        };
        if is_unguarded_while_unready(&budget.value(), &value) {
            // Only as long as it is unready.
            let options = match self.options.has_revision() {
                true => self.options.clone(),
                false => self.options.at_revision(pod.revision),
            };
            let deleted = self.mark_and_delete(options).await;
            return deleted.map_err(|status| match status.reason {
                Reason::Conflict if !self.options.has_revision() => {
                    still_processed(meta::name(&budget.value()))
                }
                _ => status,
            });
        }
        let mut retries = Retries::default();
        loop {
            match self.spend(&budget, meta::name(&value)).await {
                Ok(()) => return self.mark_and_delete(self.options.clone()).await,
                Err(status) if retries.after(&status).await => {
                    let storage = &self.writer.storage;
                    let value = budget.value();
                    budget = storage.latest(budgets()?, meta::namespace(&value), meta::name(&value)).await?;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// The budget that counts the pod, if there is one.
    fn budget_of(&self, pod: &Value) -> Result<Option<Arc<Object>>, Status> {
        let kind = budgets()?;
        let in_namespace = format!("{}{}/", prefix(kind), meta::namespace(pod));
        let all = self.writer.storage.caches.of(kind).map(|resource| resource.list(&in_namespace));
        let mut covering = all.into_iter().flatten().filter(|budget| covers(budget, pod));
        let first = covering.next();
        if covering.next().is_some() {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        Ok(first)
    }

    /// Takes one disruption from the budget; a dry run only checks that there is one.
    async fn spend(&self, budget: &Object, pod: &str) -> Result<(), Status> {
        let mut value = budget.value();
        check(&value)?;
        if self.options.is_dry_run() {
            return Ok(());
        }
        let left = value["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) - 1;
        value["status"]["disruptionsAllowed"] = left.into();
        if left == 0 {
            let observed = value["status"]["observedGeneration"].clone();
            set_condition(&mut value, "DisruptionAllowed", false, ("InsufficientPods", ""), &now());
            for condition in value["status"]["conditions"].as_array_mut().into_iter().flatten() {
                if condition["type"] == "DisruptionAllowed" {
                    condition["observedGeneration"] = observed.clone();
                }
            }
        }
        value["status"]["disruptedPods"][pod] = now().into();
        self.writer.storage.replace(budgets()?, budget, &value).await.map(drop)
    }

    /// Says on the pod why it goes, and deletes it.
    async fn mark_and_delete(&self, mut options: DeleteOptions) -> Result<(), Status> {
        let target = &self.call.target;
        if !options.is_dry_run() {
            let marked = self.mark(&options).await?;
            if options.has_revision() {
                options = options.at_revision(marked.revision);
            }
        }
        self.writer.delete(self.call, &target.namespace, &target.name, &options).await.map(drop)
    }

    async fn mark(&self, options: &DeleteOptions) -> Result<Object, Status> {
        let mut attempts = Attempts::default();
        loop {
            let old = self.pod().await?;
            let mut new = old.value();
            options.check(self.kind(), &old, &new)?;
            let reason = ("EvictionByEvictionAPI", "Eviction API: evicting");
            set_condition(&mut new, "DisruptionTarget", true, reason, &now());
            let result = self.writer.storage.replace(self.kind(), &old, &new).await;
            if !attempts.retry(&result) {
                return result;
            }
        }
    }
}

fn budgets() -> Result<&'static Kind, Status> {
    find("policy", "v1", "poddisruptionbudgets")
        .ok_or_else(|| Status::internal("poddisruptionbudgets are not served"))
}

fn covers(budget: &Object, pod: &Value) -> bool {
    let selector = LabelSelector::from_object(&budget.value()["spec"]["selector"]);
    matches!(selector, Ok(Some(selector)) if selector.matches(&pod["metadata"]["labels"]))
}

/// Whether the pod is not ready, and the budget does not count such a pod now.
fn is_unguarded_while_unready(budget: &Value, pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.any(|c| c["type"] == "Ready" && c["status"] == "True");
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (has, needs) = (number("currentHealthy"), number("desiredHealthy"));
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    !ready && (always || has >= needs && needs > 0)
}

/// Whether the budget allows one more disruption; if not, in upstream's words.
fn check(budget: &Value) -> Result<(), Status> {
    let (name, status) = (meta::name(budget), &budget["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let forbidden = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudget", name, why));
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(still_processed(name));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed > 0 {
        return Ok(());
    }
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let refusal = conditions.find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let text = |field: &str| refusal.and_then(|c| c[field].as_str()).unwrap_or_default();
    let (reason, why) = (text("reason"), text("message"));
    let (needs, has) = (number("desiredHealthy"), number("currentHealthy"));
    let message = if reason == "SyncFailed" && !why.is_empty() {
        format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
        )
    } else if has <= needs {
        format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently")
    } else if !why.is_empty() {
        format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {why}")
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently")
    };
    Err(too_many(0, &message))
}

fn still_processed(budget: &str) -> Status {
    too_many(10, &format!("The disruption budget {budget} is still being processed by the server."))
}

fn too_many(retry_after_seconds: u32, why: &str) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let status = Status::too_many_requests(message, retry_after_seconds);
    status.with_cause(json!({"reason": "DisruptionBudget", "message": why}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": status})
    }

    #[test]
    fn a_budget_refuses_in_upstreams_words() {
        let many: serde_json::Map<String, Value> =
            (0..=MAX_DISRUPTED_PODS).map(|n| (format!("p{n}"), "2026-01-01T00:00:00Z".into())).collect();
        let failed = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no"}]);
        let rows = [
            (json!({"observedGeneration": 2, "disruptionsAllowed": 1}), 200, ""),
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": 1}),
                429,
                "b is still being processed by the server.",
            ),
            (
                json!({"observedGeneration": 2, "disruptionsAllowed": -1}),
                403,
                "disruptions allowed is negative",
            ),
            (
                json!({"observedGeneration": 2, "disruptionsAllowed": 1, "disruptedPods": many}),
                403,
                "map too big",
            ),
            (
                json!({"observedGeneration": 2, "desiredHealthy": 3, "currentHealthy": 3}),
                429,
                "The disruption budget b needs 3 healthy pods and has 3 currently",
            ),
            (
                json!({"observedGeneration": 2, "desiredHealthy": 3, "currentHealthy": 3, "conditions": failed}),
                429,
                "because it failed sync: no",
            ),
        ];
        for (status, code, words) in rows {
            let got = check(&budget(status.clone()));
            assert_eq!(got.as_ref().map_or_else(|status| status.code, |()| 200), code, "{status}");
            let text = got.err().map(|status| status.to_value().to_string()).unwrap_or_default();
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn an_unready_pod_goes_without_a_budget_only_while_the_healthy_ones_suffice() {
        let pod = |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let healthy = |has: i64, needs: i64| budget(json!({"currentHealthy": has, "desiredHealthy": needs}));
        let rows = [
            ("True", healthy(2, 1), false),
            ("False", healthy(2, 2), true),
            ("False", healthy(1, 2), false),
            ("False", healthy(0, 0), false),
        ];
        for (ready, budget, unguarded) in rows {
            assert_eq!(is_unguarded_while_unready(&budget, &pod(ready)), unguarded, "{ready} {budget}");
        }
        let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
        assert!(is_unguarded_while_unready(&always, &pod("False")));
    }
}
