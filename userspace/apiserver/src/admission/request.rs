//! The request that admission plugins, webhooks and policies work on, with the look-ups that they share.

use std::sync::Arc;

use serde_json::Value;
use skep_api::{Kind, Status, find, meta};

use super::state::Admission;
use crate::call::Call;
use crate::object::{Object, prefix};
use crate::stored::store_error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// Group, version and kind of an object that is not of the request's kind.
pub(crate) type Shape = (&'static str, &'static str, &'static str);

/// Subresources whose object has a kind of its own: hooks see that object, through [`super::part`], and not its owner.
const OWN_KIND_SUBRESOURCES: [&str; 2] = ["binding", "scale"];

/// One write under admission: the call, the operation and the object before it.
pub(crate) struct Request<'a> {
    pub(crate) call: &'a Call,
    /// The caches and the registered hooks.
    pub(super) admission: &'a Admission,
    pub(crate) operation: Operation,
    /// Empty for a cluster-scoped object.
    namespace: &'a str,
    /// The object before an update or a deletion.
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
    /// Set if the object is not of the request's kind.
    pub(super) shape: Option<Shape>,
}

impl<'a> Request<'a> {
    pub(crate) fn create(call: &'a Call, admission: &'a Admission, dry_run: bool) -> Request<'a> {
        Request {
            call,
            admission,
            operation: Operation::Create,
            namespace: &call.target.namespace,
            old: None,
            dry_run,
            shape: None,
        }
    }

    pub(crate) fn update(
        call: &'a Call,
        admission: &'a Admission,
        old: &'a Value,
        dry_run: bool,
    ) -> Request<'a> {
        Request {
            call,
            admission,
            operation: Operation::Update,
            namespace: &call.target.namespace,
            old: Some(old),
            dry_run,
            shape: None,
        }
    }

    pub(crate) fn delete(
        call: &'a Call,
        admission: &'a Admission,
        old: &'a Value,
        dry_run: bool,
    ) -> Request<'a> {
        // A deletion of a collection may span all namespaces.
        Request {
            call,
            admission,
            operation: Operation::Delete,
            namespace: meta::namespace(old),
            old: Some(old),
            dry_run,
            shape: None,
        }
    }

    /// For the object of a subresource with a kind of its own.
    pub(super) fn subresource_object(
        call: &'a Call,
        admission: &'a Admission,
        operation: Operation,
        shape: Shape,
        old: Option<&'a Value>,
        dry_run: bool,
    ) -> Request<'a> {
        Request {
            call,
            admission,
            operation,
            namespace: &call.target.namespace,
            old,
            dry_run,
            shape: Some(shape),
        }
    }

    pub(super) fn kind(&self) -> &'a Kind {
        &self.call.target.kind
    }

    /// Whether webhooks and policies see it.
    pub(super) fn is_hooked(&self) -> bool {
        !OWN_KIND_SUBRESOURCES.contains(&self.subresource())
    }

    pub(super) fn namespace(&self) -> &'a str {
        self.namespace
    }

    pub(super) fn subresource(&self) -> &'a str {
        &self.call.target.subresource
    }

    /// Whether the request is for this resource itself, not for a subresource.
    pub(super) fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource().is_empty() && self.is_resource(group, plural)
    }

    /// Whether the request is for this resource or a subresource of it.
    pub(super) fn is_resource(&self, group: &str, plural: &str) -> bool {
        self.kind().plural == plural && self.kind().group == group
    }

    pub(super) fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }

    /// The object's name, or its `generateName` if the server has not generated the name yet.
    pub(super) fn name<'b>(&self, object: &'b Value) -> &'b str {
        let base = object["metadata"]["generateName"].as_str().unwrap_or_default();
        let generated = self.operation == Operation::Create && self.call.target.name.is_empty();
        if generated && !base.is_empty() { base } else { meta::name(object) }
    }

    /// The object's name; empty if the server has not generated it yet.
    pub(super) fn fixed_name<'b>(&self, object: &'b Value) -> &'b str {
        let name = meta::name(object);
        if self.name(object) == name { name } else { "" }
    }

    /// The name in the request's path, else the name of the object, or of the old object for a deletion.
    pub(super) fn known_name<'b>(&'b self, object: &'b Value) -> &'b str {
        let whole = if object.is_null() { self.old.unwrap_or(object) } else { object };
        let named = &self.call.target.name;
        if named.is_empty() { self.fixed_name(whole) } else { named }
    }

    pub(super) fn forbidden(&self, object: &Value, why: impl Into<String>) -> Status {
        Status::forbidden(&self.kind().group, &self.kind().plural, self.name(object), why)
    }

    /// An object that the new one names. The requester may have created it a moment ago: the caches catch up with the
    /// store before it is missing.
    pub(super) async fn required(
        &self,
        (group, version, plural): Shape,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, Status> {
        let found = self.get(group, version, plural, namespace, name);
        if found.is_some() {
            return Ok(found);
        }
        self.admission.storage.caches.catch_up().await.map_err(store_error)?;
        Ok(self.get(group, version, plural, namespace, name))
    }

    /// An object of another kind, from the cache.
    pub(super) fn get(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        self.admission.storage.caches.get_or_404(find(group, version, plural)?, namespace, name).ok()
    }

    /// Objects of another kind in a namespace, or in all if that is empty; from the cache.
    pub(super) fn list(&self, group: &str, version: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        let Some(kind) = find(group, version, plural) else { return Vec::new() };
        let mut within = prefix(kind);
        if !namespace.is_empty() {
            within.push_str(namespace);
            within.push('/');
        }
        self.admission.storage.caches.of(kind).map(|resource| resource.list(&within)).unwrap_or_default()
    }
}
