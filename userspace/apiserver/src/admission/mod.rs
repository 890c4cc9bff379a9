//! Admission: what the server adds to or refuses of objects beyond their kind's own rules.
//!
//! One chain: [`mutate`], then the kind's own validation, then [`validate`], whose last link is quota. A plugin is a
//! file: `admit` changes an object or refuses it, `validate` only refuses; each says itself what it is for.

mod authorizer;
mod certificate;
mod expression;
mod ingress_class;
mod limit_range;
mod namespace;
mod node;
mod notes;
mod pod_security;
mod policy;
mod priority;
mod quota;
mod registered;
mod rounds;
mod rules;
mod runtime_class;
mod seen;
mod service_account;
mod storage;
mod tolerations;
mod webhook;

use std::sync::Arc;

use serde_json::Value;
use skep_api::{Kind, Status, find, meta};

use crate::call::Call;
use crate::object::{Object, prefix};
use crate::write;

pub(crate) use notes::Notes;
pub(crate) use quota::{Charge, Locks};
pub(crate) use registered::Hooks;
use rounds::Rounds;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// Group, version and kind.
pub(crate) type Shape = (&'static str, &'static str, &'static str);

/// Subresources whose objects are of a kind of their own: they pass by [`part`], and the object behind them does not.
const PARTS: [&str; 2] = ["binding", "scale"];

/// What is to be done, and by whom.
pub(crate) struct Request<'a> {
    pub(crate) call: &'a Call,
    pub(crate) operation: Operation,
    /// Empty for what is in none.
    namespace: &'a str,
    /// What was before an update or a deletion.
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
    /// What the object is, if it is not of the request's kind.
    shape: Option<Shape>,
}

impl<'a> Request<'a> {
    pub(crate) fn create(call: &'a Call, dry_run: bool) -> Request<'a> {
        Request {
            call,
            operation: Operation::Create,
            namespace: &call.target.namespace,
            old: None,
            dry_run,
            shape: None,
        }
    }

    pub(crate) fn update(call: &'a Call, old: &'a Value, dry_run: bool) -> Request<'a> {
        Request {
            call,
            operation: Operation::Update,
            namespace: &call.target.namespace,
            old: Some(old),
            dry_run,
            shape: None,
        }
    }

    pub(crate) fn delete(call: &'a Call, old: &'a Value, dry_run: bool) -> Request<'a> {
        // A collection may be of all namespaces.
        Request {
            call,
            operation: Operation::Delete,
            namespace: meta::namespace(old),
            old: Some(old),
            dry_run,
            shape: None,
        }
    }

    fn kind(&self) -> &'a Kind {
        &self.call.target.kind
    }

    /// Whether webhooks and policies are to see it.
    fn is_hooked(&self) -> bool {
        !PARTS.contains(&self.subresource())
    }

    fn namespace(&self) -> &'a str {
        self.namespace
    }

    fn subresource(&self) -> &'a str {
        &self.call.target.subresource
    }

    /// Whether it is for objects of this resource themselves, and not for a part of one.
    fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource().is_empty() && self.is_part(group, plural)
    }

    /// The same with whatever subresource.
    fn is_part(&self, group: &str, plural: &str) -> bool {
        self.kind().plural == plural && self.kind().group == group
    }

    fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }

    /// The object's name; where the server is yet to make one up, what it begins with.
    fn name<'b>(&self, object: &'b Value) -> &'b str {
        let base = object["metadata"]["generateName"].as_str().unwrap_or_default();
        let generated = self.operation == Operation::Create && self.call.target.name.is_empty();
        if generated && !base.is_empty() { base } else { meta::name(object) }
    }

    /// The object's name, unless the server is yet to make one up.
    fn fixed_name<'b>(&self, object: &'b Value) -> &'b str {
        let name = meta::name(object);
        if self.name(object) == name { name } else { "" }
    }

    /// The name that the request or its object has: of what is deleted, that of what was.
    fn known_name<'b>(&'b self, object: &'b Value) -> &'b str {
        let whole = if object.is_null() { self.old.unwrap_or(object) } else { object };
        let named = &self.call.target.name;
        if named.is_empty() { self.fixed_name(whole) } else { named }
    }

    fn forbidden(&self, object: &Value, why: impl Into<String>) -> Status {
        Status::forbidden(self.kind().group, self.kind().plural, self.name(object), why)
    }

    /// An object of another kind, as the cache has it.
    fn get(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        write::find(&self.call.server, find(group, version, plural)?, namespace, name).ok()
    }

    /// All objects of another kind; of one namespace, unless that is empty.
    fn list(&self, group: &str, version: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(kind) = find(group, version, plural) else { return Vec::new() };
        let mut within = prefix(kind);
        if !namespace.is_empty() {
            within.push_str(namespace);
            within.push('/');
        }
        self.call.server.caches.of(kind).map(|resource| resource.list(&within)).unwrap_or_default()
    }
}

/// Completes an object that is to be created or updated, or refuses it. Whether a policy or a webhook changed it: then it
/// is to be prepared anew.
pub(crate) async fn mutate(request: &Request<'_>, object: &mut Value) -> Result<bool, Status> {
    plug_in(request, object).await?;
    let (mut policies, mut webhooks) = (Rounds::default(), Rounds::default());
    if request.is_hooked() && is_mutated(request) {
        policy::mutate(request, object, &mut policies).await?;
        webhook::mutate(request, object, &mut webhooks).await?;
        if policies.has_changed() || webhooks.has_changed() {
            plug_in(request, object).await?;
            policies.begin_second(object);
            policy::mutate(request, object, &mut policies).await?;
            webhooks.begin_second(object);
            webhook::mutate(request, object, &mut webhooks).await?;
        }
    }
    let verb = if request.operation == Operation::Create { "create" } else { "update" };
    request.call.server.caches.access().check_grant(&request.call.attributes(verb), object)?;
    Ok(policies.has_changed() || webhooks.has_changed())
}

/// Whether anybody registered to change objects.
fn is_mutated(request: &Request<'_>) -> bool {
    let hooks = &request.call.server.hooks;
    !hooks.mutating.all().is_empty() || !hooks.mutating_bindings.all().is_empty()
}

/// The mutating plugins, which may be run again on what they left.
async fn plug_in(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    certificate::admit(request, object);
    namespace::admit(request, object)?;
    limit_range::admit(request, object)?;
    service_account::admit(request, object).await?;
    node::admit(request, object)?;
    priority::admit(request, object)?;
    tolerations::admit(request, object);
    storage::admit(request, object);
    runtime_class::admit(request, object)?;
    ingress_class::admit(request, object);
    if request.is("", "pods") && request.operation == Operation::Create {
        // Its quality of service follows from what it asks for now.
        request.kind().prepare_create(object);
    }
    Ok(())
}

/// Refuses an object that is complete and valid, or charges quotas for it.
pub(crate) async fn validate(request: &Request<'_>, object: &Value) -> Result<Charge, Status> {
    limit_range::validate(request, object)?;
    service_account::validate(request, object)?;
    pod_security::validate(request, object)?;
    priority::validate(request, object)?;
    storage::validate(request, object)?;
    runtime_class::validate(request, object)?;
    certificate::validate(request, object)?;
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
    hook(request, &mut Value::Null).await
}

/// Webhooks and policies, once each.
async fn hook(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    if is_mutated(request) {
        policy::mutate(request, object, &mut Rounds::default()).await?;
        webhook::mutate(request, object, &mut Rounds::default()).await?;
    }
    policy::validate(request, object).await?;
    webhook::validate(request, object).await
}

/// Refuses, or changes, the object of a subresource that is a kind of its own: a Scale, an Eviction, the options of an exec.
pub(crate) async fn part(
    call: &Call,
    operation: Operation,
    shape: Shape,
    object: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<(), Status> {
    let namespace = &call.target.namespace;
    let request = Request { call, operation, namespace, old, dry_run, shape: Some(shape) };
    node::part(&request, object)?;
    hook(&request, object).await
}
