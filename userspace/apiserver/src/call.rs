//! One request to a resource, and the attributes under which it is authorised.

use std::sync::Arc;

use http::{HeaderMap, Method};
use skep_api::kinds::Part;

use crate::admission::Notes;
use crate::authz::Attributes;
use crate::identity::Identity;
use crate::query::Query;
use crate::request_info::Target;

/// An authorised request to a resource.
pub(crate) struct Call {
    pub(crate) identity: Arc<Identity>,
    pub(crate) target: Target,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    /// Warnings and audit annotations, for whatever answer.
    pub(crate) notes: Arc<Notes>,
}

impl Call {
    /// The part of the object that an update through this path writes.
    pub(crate) fn part(&self) -> Part {
        if self.target.subresource == "status" { Part::Status } else { Part::Main }
    }

    pub(crate) fn attributes<'a>(&'a self, verb: &'a str) -> Attributes<'a> {
        let attributes = Attributes::resource(&self.identity, verb, &self.target);
        if !matches!(verb, "list" | "watch" | "deletecollection") {
            return attributes;
        }
        let field_selector = self.query.get("fieldSelector").unwrap_or_default();
        let label_selector = self.query.get("labelSelector").unwrap_or_default();
        let name = if attributes.name.is_empty() { self.selected_name() } else { attributes.name };
        Attributes { name, field_selector, label_selector, ..attributes }
    }

    /// A collection request whose field selector names one object is authorised for that object, as upstream.
    fn selected_name(&self) -> &str {
        let terms = self.query.get("fieldSelector").unwrap_or_default().split(',');
        let mut names = terms.filter_map(|term| term.strip_prefix("metadata.name="));
        names.next().unwrap_or_default().trim_start_matches('=')
    }
}

impl<'a> Attributes<'a> {
    pub(crate) fn resource(identity: &'a Identity, verb: &'a str, target: &'a Target) -> Attributes<'a> {
        // A Namespace is in the namespace of its own name, so that a Role there applies to it.
        let own = target.kind.group.is_empty() && target.kind.kind == "Namespace";
        Attributes {
            verb,
            group: &target.kind.group,
            version: &target.kind.version,
            resource: &target.kind.plural,
            subresource: &target.subresource,
            name: &target.name,
            namespace: if own { &target.name } else { &target.namespace },
            ..Attributes::of(identity)
        }
    }
}
