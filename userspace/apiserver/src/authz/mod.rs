//! Authorisation. PURE. In: roles, bindings and pods as they change, and the attributes of a request. Out: a decision.
//!
//! The order in which authorizers are asked is not here.

mod attributes;
mod default_roles;
mod gateway;
mod ingress;
mod node;
mod rbac;
mod references;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(crate) use attributes::{Attributes, Decision};
pub(crate) use default_roles::{default_objects, reconciled};
pub(crate) use gateway::{GROUP as GATEWAYS, KINDS as GATEWAY_KINDS};
pub(crate) use node::{GROUP as NODES, node_name};
pub(crate) use rbac::{PolicyRule, RbacRules};

/// Members may do everything.
pub(crate) const SUPERUSERS: &str = "system:masters";

/// Why a user may not write a role or a binding, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GrantError {
    #[error(
        "user {user:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{missing}"
    )]
    NotHeld { user: String, groups: String, missing: String },
    #[error("must have cluster-admin privileges to use the aggregationRule")]
    Aggregation,
    #[error("{resource}.rbac.authorization.k8s.io \"{name}\" not found")]
    NoRole { resource: String, name: String },
}

/// Whether the user may do everything, whatever authorizers say.
pub(crate) fn is_superuser(groups: &[String]) -> bool {
    groups.iter().any(|group| group == SUPERUSERS)
}

fn is_of_gateways(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    version.split_once('/').is_some_and(|(group, _)| group == GATEWAYS)
}

/// The authorizers that need no other server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnAuthorizer {
    Node,
    Rbac,
}

/// All state that their decisions depend on.
#[derive(Default)]
pub(crate) struct Authorizer {
    rules: RbacRules,
    nodes: node::NodeGraph,
}

impl Authorizer {
    /// Adds or replaces a Role, ClusterRole, RoleBinding, ClusterRoleBinding, Pod, Ingress, IngressClass, or a kind of Gateway API;
    /// ignores other kinds.
    pub(crate) fn apply(&mut self, object: &Value) {
        match object.get("kind").and_then(Value::as_str) {
            Some("Pod") => self.nodes.apply_pod(object),
            Some("Ingress") => self.nodes.ingresses.apply_ingress(object),
            Some("IngressClass") => self.nodes.ingresses.apply_class(object),
            Some(kind) if is_of_gateways(object) => self.nodes.gateways.apply(kind, object),
            _ => self.rules.apply(object),
        }
    }

    /// Removes an object.
    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "Pod" => self.nodes.delete_pod(namespace, name),
            "Ingress" => self.nodes.ingresses.delete_ingress(namespace, name),
            "IngressClass" => self.nodes.ingresses.delete_class(name),
            kind if GATEWAY_KINDS.contains(&kind) => self.nodes.gateways.delete(kind, namespace, name),
            _ => self.rules.delete(kind, namespace, name),
        }
    }

    pub(crate) fn rules(&self) -> &RbacRules {
        &self.rules
    }

    /// What one of the server's own authorizers says.
    pub(crate) fn authorize(&self, by: OwnAuthorizer, request: &Attributes<'_>) -> Decision {
        match by {
            OwnAuthorizer::Node => self.nodes.authorize(request, &self.rules),
            OwnAuthorizer::Rbac => self.rules.authorize(request),
        }
    }

    /// Privilege escalation check: a user without the verb `escalate` on it may write a Role or ClusterRole only with rules
    /// that he holds. One whose rules are aggregated may come to hold any rule, and needs all rights.
    pub(crate) fn check_escalation(
        &self,
        request: &Attributes<'_>,
        role: &Value,
        old: Option<&Value>,
    ) -> Result<(), GrantError> {
        let rules = role.get("rules").map(rbac::parse_rules).unwrap_or_default();
        self.check_holds(request, request.namespace, &rules)?;
        if rbac::is_aggregated(role) || old.is_some_and(rbac::is_aggregated) {
            let all = rbac::full_authority();
            return self.check_holds(request, "", &all).map_err(|_| GrantError::Aggregation);
        }
        Ok(())
    }

    /// Whether a user without the verb `bind` on a role (`roleRef`) may bind it: he holds all of its rules.
    pub(crate) fn check_binding(&self, request: &Attributes<'_>, role_ref: &Value) -> Result<(), GrantError> {
        let text = |field| role_ref.get(field).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let rules = self.rules.role(kind, request.namespace, name).ok_or_else(|| {
            let resource = if kind == "ClusterRole" { "clusterrole" } else { "role" }.to_owned();
            GrantError::NoRole { resource, name: name.to_owned() }
        })?;
        self.check_holds(request, request.namespace, rules)
    }

    fn check_holds(
        &self,
        request: &Attributes<'_>,
        namespace: &str,
        wanted: &[PolicyRule],
    ) -> Result<(), GrantError> {
        let owned = self.rules.rules_of(request.user, request.groups, namespace);
        let missing = rbac::uncovered(&owned, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = missing.iter().map(PolicyRule::describe).collect();
        let groups: Vec<String> = request.groups.iter().map(|group| format!("{group:?}")).collect();
        Err(GrantError::NotHeld {
            user: request.user.to_owned(),
            groups: groups.join(" "),
            missing: lines.join("\n"),
        })
    }
}
