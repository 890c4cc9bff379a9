//! Admission: changes and refusals of objects beyond the rules of their kind.
//!
//! One chain: [`mutate`], then the kind's own validation, then [`validate`], whose last link is quota. A plugin is a
//! file: `admit` changes an object or refuses it, `validate` only refuses. Each plugin checks itself whether a request
//! concerns it.

mod always_pull_images;
mod authorizer;
mod certificate;
mod event_rate;
mod event_rates;
mod expression;
mod external_ips;
mod hook_sources;
mod ingress_class;
mod limit_range;
mod namespace;
mod node;
mod node_taint;
mod notes;
mod optional;
mod pod_node_selector;
mod pod_security;
mod policy;
mod priority;
mod quota;
mod quota_locks;
mod reinvocation;
mod request;
mod request_match;
mod rules;
mod runtime_class;
mod service_account;
mod state;
pub(crate) mod storage;
mod tolerations;
mod variables;
mod versioned_attributes;
mod webhook;

use serde_json::Value;
use skep_api::Status;

use crate::call::Call;

pub(crate) use notes::Notes;
pub use optional::{OptionalPlugin, PluginError};
pub(crate) use quota::Charge;
use reinvocation::Reinvocation;
pub(crate) use request::{Operation, Request, Shape};
pub(crate) use state::Admission;

/// Completes an object that is to be created or updated, or refuses it. True if a policy or a webhook changed it: then
/// the caller prepares it again.
pub(crate) async fn mutate(request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
    run_plugins(request, object).await?;
    let (mut policies, mut webhooks) = (Reinvocation::default(), Reinvocation::default());
    if request.is_hooked() && has_mutating_hooks(request) {
        policy::mutate(request, object, &mut policies).await?;
        webhook::mutate(request, object, &mut webhooks).await?;
        if policies.has_changed() || webhooks.has_changed() {
            run_plugins(request, object).await?;
            policies.start_second_round(object);
            policy::mutate(request, object, &mut policies).await?;
            webhooks.start_second_round(object);
            webhook::mutate(request, object, &mut webhooks).await?;
        }
    }
    let verb = if request.operation == Operation::Create { "create" } else { "update" };
    let authorizer = request.admission.storage.caches.authorizer();
    authorizer.check_grant(&request.call.attributes(verb), request.kind(), object, request.old).await?;
    Ok(policies.has_changed() || webhooks.has_changed())
}

/// Whether a webhook or a policy is registered that changes objects.
fn has_mutating_hooks(request: &Request<'_>) -> bool {
    let hooks = &request.admission.hooks;
    !hooks.mutating.all().is_empty() || !hooks.mutating_bindings.all().is_empty()
}

/// The mutating plugins; each may run again on its own output.
async fn run_plugins(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    certificate::admit(request, object);
    event_rate::admit(request)?;
    always_pull_images::admit(request, object);
    namespace::admit(request, object).await?;
    limit_range::admit(request, object)?;
    service_account::admit(request, object).await?;
    node::admit(request, object)?;
    node_taint::admit(request, object);
    priority::admit(request, object).await?;
    tolerations::admit(request, object);
    storage::admit(request, object);
    runtime_class::admit(request, object).await?;
    ingress_class::admit(request, object);
    pod_node_selector::admit(request, object)?;
    Ok(())
}

/// Refuses an object that is complete and valid, or charges quotas for it.
pub(crate) async fn validate(request: &Request<'_>, object: &Value) -> Result<Charge, Status> {
    limit_range::validate(request, object)?;
    service_account::validate(request, object).await?;
    pod_security::validate(request, object)?;
    priority::validate(request, object)?;
    storage::validate(request, object)?;
    runtime_class::validate(request, object).await?;
    certificate::validate(request, object).await?;
    external_ips::validate(request, object)?;
    if request.is_hooked() {
        policy::validate(request, object).await?;
        webhook::validate(request, object).await?;
    }
    quota::charge(request, object).await
}

/// Refuses a deletion.
pub(crate) async fn delete(request: &Request<'_>, old: &Value) -> Result<(), Status> {
    namespace::delete(request)?;
    node::delete(request, old)?;
    run_hooks(request, &mut Value::Null).await
}

/// Webhooks and policies, once each.
async fn run_hooks(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    if has_mutating_hooks(request) {
        policy::mutate(request, object, &mut Reinvocation::default()).await?;
        webhook::mutate(request, object, &mut Reinvocation::default()).await?;
    }
    policy::validate(request, object).await?;
    webhook::validate(request, object).await
}

/// Refuses or changes the object of a subresource that has a kind of its own: a Scale, an Eviction, the options of an exec.
pub(crate) async fn part(
    admission: &Admission,
    call: &Call,
    operation: Operation,
    shape: Shape,
    object: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<(), Status> {
    let request = Request::subresource_object(call, admission, operation, shape, old, dry_run);
    node::part(&request, object).await?;
    run_hooks(&request, object).await
}
