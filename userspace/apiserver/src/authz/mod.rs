//! Authorisation: who may do what. PURE: fed with roles, bindings and pods as they change, asked with attributes.
//!
//! The order is upstream's: superusers, then nodes by what their pods refer to, then RBAC. Nobody denies: a request that
//! nobody allows is refused.

mod default_roles;
mod node;
mod rbac;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(crate) use default_roles::default_objects;
pub(crate) use node::node_name;
pub(crate) use rbac::{Rule, Rules};

/// A request, as authorisation sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) user: &'a str,
    pub(crate) groups: &'a [String],
    /// get, list, watch, create, update, patch, delete, deletecollection, or a special one; for paths the method in
    /// lower case.
    pub(crate) verb: &'a str,
    /// Empty: the core group.
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    /// Empty: all, or not known yet.
    pub(crate) name: &'a str,
    /// Empty: no namespace, or all of them.
    pub(crate) namespace: &'a str,
    /// Empty: the request is for a resource.
    pub(crate) path: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// By which right.
    Allow(String),
    /// Why not, if there is something to say.
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

/// Members may do everything.
pub(crate) const SUPERUSERS: &str = "system:masters";

/// All that decisions depend on.
#[derive(Default)]
pub(crate) struct Authorizer {
    rules: Rules,
    nodes: node::NodeGraph,
}

impl Authorizer {
    /// Takes a Role, ClusterRole, RoleBinding, ClusterRoleBinding or Pod as it is now; others are not looked at.
    pub(crate) fn apply(&mut self, object: &Value) {
        if object.get("kind").and_then(Value::as_str) == Some("Pod") {
            self.nodes.apply_pod(object);
        } else {
            self.rules.apply(object);
        }
    }

    /// Forgets an object.
    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        if kind == "Pod" {
            self.nodes.delete_pod(namespace, name);
        } else {
            self.rules.delete(kind, namespace, name);
        }
    }

    pub(crate) fn rules(&self) -> &Rules {
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

    /// Whether a user may write a Role or ClusterRole with these rules: nobody gives what he has not. Err: what he lacks,
    /// as the API says it.
    pub(crate) fn check_escalation(&self, request: &Attributes<'_>, rules: &Value) -> Result<(), String> {
        let escalate = Attributes { verb: "escalate", ..request.clone() };
        if self.authorize(&escalate).allowed() {
            return Ok(());
        }
        self.holds(request, request.namespace, rbac::parse_rules(rules))
    }

    /// Whether a user may bind a role (`roleRef`): he has all of its rules, or the verb `bind` on it.
    pub(crate) fn check_binding(&self, request: &Attributes<'_>, role_ref: &Value) -> Result<(), String> {
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
            let resource = format!("{}.rbac.authorization.k8s.io", resource.trim_end_matches('s'));
            format!("{resource} \"{name}\" not found")
        })?;
        self.holds(request, request.namespace, rules.to_vec())
    }

    fn holds(&self, request: &Attributes<'_>, namespace: &str, wanted: Vec<Rule>) -> Result<(), String> {
        let owned = self.rules.rules_of(request.user, request.groups, namespace);
        let missing = rbac::uncovered(&owned, &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = missing.iter().map(Rule::describe).collect();
        let groups: Vec<String> = request.groups.iter().map(|group| format!("{group:?}")).collect();
        Err(format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            request.user,
            groups.join(" "),
            lines.join("\n")
        ))
    }
}
