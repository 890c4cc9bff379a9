//! Authorisation. PURE. In: roles, bindings and pods as they change, and the attributes of a request. Out: a decision.
//!
//! The order is upstream's: superusers, the node authorizer, RBAC. No authorizer denies; a request that none allows is
//! refused.

mod attributes;
mod default_roles;
mod node;
mod rbac;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(crate) use attributes::{Attributes, Decision};
pub(crate) use default_roles::{default_objects, reconciled};
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

/// All state that decisions depend on.
#[derive(Default)]
pub(crate) struct Authorizer {
    rules: RbacRules,
    nodes: node::NodeGraph,
}

impl Authorizer {
    /// Adds or replaces a Role, ClusterRole, RoleBinding, ClusterRoleBinding or Pod; ignores other kinds.
    pub(crate) fn apply(&mut self, object: &Value) {
        if object.get("kind").and_then(Value::as_str) == Some("Pod") {
            self.nodes.apply_pod(object);
        } else {
            self.rules.apply(object);
        }
    }

    /// Removes an object.
    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        if kind == "Pod" {
            self.nodes.delete_pod(namespace, name);
        } else {
            self.rules.delete(kind, namespace, name);
        }
    }

    pub(crate) fn rules(&self) -> &RbacRules {
        &self.rules
    }

    pub(crate) fn authorize(&self, request: &Attributes<'_>) -> Decision {
        if request.groups.iter().any(|group| group == SUPERUSERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = Vec::new();
        for decision in [self.nodes.authorize(request, &self.rules), self.rules.authorize(request)] {
            match decision {
                Decision::Allow(by) => return Decision::Allow(by),
                Decision::NoOpinion(why) => reasons.extend(Some(why).filter(|why| !why.is_empty())),
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }

    /// Privilege escalation check: a user may write a Role or ClusterRole only with rules that he holds. One whose rules
    /// are aggregated may come to hold any rule, and needs all rights.
    pub(crate) fn check_escalation(
        &self,
        request: &Attributes<'_>,
        role: &Value,
        old: Option<&Value>,
    ) -> Result<(), GrantError> {
        let escalate = Attributes { verb: "escalate", ..request.clone() };
        if self.authorize(&escalate).allowed() {
            return Ok(());
        }
        let rules = role.get("rules").map(rbac::parse_rules).unwrap_or_default();
        self.check_holds(request, request.namespace, &rules)?;
        if rbac::is_aggregated(role) || old.is_some_and(rbac::is_aggregated) {
            let all = rbac::full_authority();
            return self.check_holds(request, "", &all).map_err(|_| GrantError::Aggregation);
        }
        Ok(())
    }

    /// Whether a user may bind a role (`roleRef`): he holds all of its rules, or has the verb `bind` on it.
    pub(crate) fn check_binding(&self, request: &Attributes<'_>, role_ref: &Value) -> Result<(), GrantError> {
        let text = |field| role_ref.get(field).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        let bind = Attributes {
            verb: "bind",
            group: "rbac.authorization.k8s.io",
            resource,
            subresource: "",
            name,
            ..request.clone()
        };
        if self.authorize(&bind).allowed() {
            return Ok(());
        }
        let rules = self.rules.role(kind, request.namespace, name).ok_or_else(|| {
            let resource = resource.trim_end_matches('s').to_owned();
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
