//! Whether a webhook or a policy matches a request, and in which version it wants the object.

use serde_json::Value;
use skep_api::{Kind, KindRef};

use super::request::{Operation, Request};
use super::rules::{MatchRule, MatchRules, is_for};
use crate::object::prefix;

/// Hooks never match their own configuration: a broken hook must not stop the administrator from removing it.
const REGISTRATION_GROUP: &str = "admissionregistration.k8s.io";

impl MatchRules {
    /// The kind that a matching rule names: the request's own or an equivalent one. `None` if no rule matches.
    pub(super) fn match_request(&self, request: &Request<'_>, object: &Value) -> Option<KindRef> {
        if request.kind().group == REGISTRATION_GROUP
            || !self.selects_namespace(request, object)
            || !self.selects_object(request, object)
            || self.matching_kind(&self.excluded, request, object).is_some()
        {
            return None;
        }
        match self.empty_matches_all && self.rules.is_empty() {
            true => Some(request.call.target.kind.clone()),
            false => self.matching_kind(&self.rules, request, object),
        }
    }

    fn matching_kind(&self, rules: &[MatchRule], request: &Request<'_>, object: &Value) -> Option<KindRef> {
        let own = &request.call.target.kind;
        if rules.iter().any(|rule| rule.matches(request, own, object)) {
            return Some(own.clone());
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let others = equivalents(request);
        let mut pairs = rules.iter().flat_map(|rule| others.iter().map(move |kind| (rule, kind)));
        pairs.find(|(rule, kind)| rule.matches(request, kind, object)).map(|(_, kind)| kind.clone())
    }

    /// A namespace selector never excludes a cluster-scoped object.
    fn selects_namespace(&self, request: &Request<'_>, object: &Value) -> bool {
        if self.namespaces.0.is_empty() {
            return true;
        }
        let is_namespace = request.is_resource("", "namespaces");
        if is_namespace && request.operation != Operation::Delete {
            return self.namespaces.0.matches(&object["metadata"]["labels"]);
        }
        let name = if is_namespace { &request.call.target.name } else { request.namespace() };
        if name.is_empty() {
            return true;
        }
        match request.get("", "v1", "namespaces", "", name) {
            Some(namespace) => self.namespaces.0.matches(&namespace.selectable),
            None => true,
        }
    }

    fn selects_object(&self, request: &Request<'_>, object: &Value) -> bool {
        let selects =
            |object: &Value| object.is_object() && self.objects.0.matches(&object["metadata"]["labels"]);
        self.objects.0.is_empty()
            || request.operation != Operation::Delete && selects(object)
            || request.old.is_some_and(selects)
    }
}

impl MatchRule {
    fn matches(&self, request: &Request<'_>, kind: &Kind, object: &Value) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == "*" || item == value);
        has(&self.operations, request.operation.name())
            && has(&self.groups, &kind.group)
            && has(&self.versions, &kind.version)
            && self.resources.iter().any(|named| is_for(named, &kind.plural, request.subresource()))
            && self.in_scope(request)
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.known_name(object)))
    }

    fn in_scope(&self, request: &Request<'_>) -> bool {
        match self.scope.as_str() {
            "Cluster" => !request.kind().namespaced(),
            "Namespaced" => request.kind().namespaced(),
            _ => true,
        }
    }
}

/// The other served kinds of the same stored objects.
fn equivalents(request: &Request<'_>) -> Vec<KindRef> {
    let own = request.kind();
    let (registry, stored_at) = (request.admission.storage.caches.registry(), prefix(own));
    let is_other = |kind: &&KindRef| {
        kind.plural == own.plural
            && (&*kind.group, &*kind.version) != (&*own.group, &*own.version)
            && prefix(kind) == stored_at
    };
    registry.iter().filter(is_other).cloned().collect()
}
