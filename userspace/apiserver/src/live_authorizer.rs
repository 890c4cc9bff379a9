//! The authoriser of requests: the pure one, fed by the caches, and the webhooks of the configured chain. Its answers are in the
//! API's words.

use std::sync::{Arc, RwLockReadGuard};

use serde_json::{Value, json};
use skep_api::{Kind, Reason, Status, meta};

use crate::authorizers::{Chain, Progress};
use crate::authz::{
    Attributes, Authorizer, Decision, GATEWAY_KINDS, GATEWAYS, GrantError, OwnAuthorizer, is_superuser,
    node_name,
};
use crate::blocking::wait_for;
use crate::identity::Identity;
use crate::lock::RwLock;

pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";

/// The caches apply every change here, in order, before a read can see it.
#[derive(Default)]
pub(crate) struct LiveAuthorizer {
    authorizer: RwLock<Authorizer>,
    /// Which authorizers are asked, and in which order.
    chain: RwLock<Arc<Chain>>,
}

/// What a user may do in a namespace, as far as rules say it.
pub(crate) struct UserRules {
    pub(crate) resources: Vec<Value>,
    pub(crate) paths: Vec<Value>,
    /// Why there may be more; empty if there is not.
    pub(crate) incomplete: String,
}

/// Whether decisions depend on objects of this kind.
pub(crate) fn matters(kind: &Kind) -> bool {
    match kind.group.as_ref() {
        RBAC => true,
        "" => kind.kind == "Pod",
        "networking.k8s.io" => kind.kind == "Ingress" || kind.kind == "IngressClass",
        GATEWAYS => GATEWAY_KINDS.contains(&kind.kind.as_ref()),
        _ => false,
    }
}

impl LiveAuthorizer {
    fn read(&self) -> RwLockReadGuard<'_, Authorizer> {
        self.authorizer.read()
    }

    pub(crate) fn apply(&self, object: &Value) {
        self.authorizer.write().apply(object);
    }

    pub(crate) fn delete(&self, kind: &Kind, namespace: &str, name: &str) {
        self.authorizer.write().delete(&kind.kind, namespace, name);
    }

    /// Requests from now on are decided by these authorizers.
    pub(crate) fn set_chain(&self, chain: Chain) {
        *self.chain.write() = Arc::new(chain);
    }

    pub(crate) async fn allows(&self, attributes: &Attributes<'_>) -> bool {
        self.decide(attributes).await.allowed()
    }

    pub(crate) async fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if is_superuser(attributes.groups) {
            return Decision::Allow(String::new());
        }
        let chain = self.chain.read().clone();
        let decided = chain.decide_own(&self.read(), attributes, Progress::default());
        match decided {
            Ok(decision) => decision,
            // On the heap: nearly no request is decided by a webhook.
            Err(progress) => Box::pin(self.decide_by_webhooks(&chain, attributes, progress)).await,
        }
    }

    async fn decide_by_webhooks(
        &self,
        chain: &Chain,
        attributes: &Attributes<'_>,
        mut progress: Progress,
    ) -> Decision {
        loop {
            progress = match chain.ask_webhook(attributes, progress).await {
                Ok(decision) => return decision,
                Err(progress) => progress,
            };
            progress = match chain.decide_own(&self.read(), attributes, progress) {
                Ok(decision) => return decision,
                Err(progress) => progress,
            };
        }
    }

    /// As [`LiveAuthorizer::decide`], for callers that cannot wait: a webhook is waited for on this thread, and where that is
    /// not possible the question fails.
    pub(crate) fn decide_now(&self, attributes: &Attributes<'_>) -> Decision {
        let waited = wait_for(self.decide(attributes));
        waited.unwrap_or_else(|| Decision::Failed("an authorization webhook cannot be asked here".to_owned()))
    }

    /// Unless the request is allowed, 403 in upstream's words, or 500 if that is not known.
    pub(crate) async fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.decide(attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(attributes, &why)),
            Decision::Failed(why) => Err(Status::internal(why)),
        }
    }

    /// The privilege escalation check of a role or a binding, new or changed from `old`: it must not grant rights that
    /// the user lacks.
    pub(crate) async fn check_grant(
        &self,
        attributes: &Attributes<'_>,
        kind: &Kind,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if kind.group != RBAC || old.is_some_and(|old| differs_for_collector_only(object, old)) {
            return Ok(());
        }
        let is_role = matches!(&*kind.kind, "Role" | "ClusterRole");
        if !is_role && !matches!(&*kind.kind, "RoleBinding" | "ClusterRoleBinding") {
            return Ok(());
        }
        let right = if is_role {
            Attributes { verb: "escalate", ..attributes.clone() }
        } else {
            right_to_bind(attributes, &object["roleRef"])
        };
        if self.allows(&right).await {
            return Ok(());
        }
        let authorizer = self.read();
        let checked = match is_role {
            true => authorizer.check_escalation(attributes, object, old),
            false => authorizer.check_binding(attributes, &object["roleRef"]),
        };
        checked.map_err(|error| match &error {
            GrantError::NoRole { resource, name } => Status::new(Reason::NotFound, error.to_string())
                .with_details(json!({"name": name, "group": RBAC, "kind": resource})),
            error => {
                let (group, resource) = (attributes.group, attributes.resource);
                Status::forbidden(group, resource, meta::name(object), error.to_string())
            }
        })
    }

    /// The rules that apply to a user in a namespace. Webhooks and the node authorizer have none that could be listed.
    pub(crate) fn rules_of(&self, identity: &Identity, namespace: &str) -> UserRules {
        let chain = self.chain.read().clone();
        let mut found = UserRules { resources: Vec::new(), paths: Vec::new(), incomplete: String::new() };
        if chain.has(OwnAuthorizer::Rbac) {
            let rules = self.read().rules().rules_of(&identity.user, &identity.groups, namespace);
            for value in rules.iter().map(|rule| json!(rule)) {
                let is_path = value["nonResourceURLs"].is_array();
                if is_path { found.paths.push(value) } else { found.resources.push(value) }
            }
        }
        let is_node = node_name(&identity.user, &identity.groups).is_some();
        let silent = [
            (
                is_node && chain.has(OwnAuthorizer::Node),
                "node authorizer does not support user rule resolution",
            ),
            (chain.has_webhooks(), "webhook authorizer does not support user rule resolution"),
        ];
        let silent: Vec<&str> = silent.into_iter().filter(|(is, _)| *is).map(|(_, why)| why).collect();
        found.incomplete = silent.join(", ");
        found
    }
}

/// The right with which a user may bind a role whatever it grants.
fn right_to_bind<'a>(attributes: &Attributes<'a>, role_ref: &'a Value) -> Attributes<'a> {
    let text = |field: &str| role_ref[field].as_str().unwrap_or_default();
    let resource = if text("kind") == "ClusterRole" { "clusterroles" } else { "roles" };
    let name = text("name");
    Attributes { verb: "bind", group: RBAC, resource, subresource: "", name, ..attributes.clone() }
}

/// Whether an update changes at most what the garbage collector needs to delete the object.
fn differs_for_collector_only(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.clone();
        let metadata = meta::of_mut(&mut rest);
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            metadata.remove(field);
        }
        rest
    };
    rest(new) == rest(old)
}

/// 403 in upstream's words, for a reason that may be empty.
pub(crate) fn forbidden(attributes: &Attributes<'_>, why: &str) -> Status {
    let mut message = refusal(attributes);
    if !why.is_empty() {
        message = format!("{message}: {why}");
    }
    if attributes.path.is_empty() {
        return Status::forbidden(attributes.group, attributes.resource, attributes.name, message);
    }
    Status::new(Reason::Forbidden, format!("forbidden: {message}")).with_details(json!({}))
}

fn refusal(attributes: &Attributes<'_>) -> String {
    let Attributes { user, verb, group, resource, subresource, namespace, path, .. } = attributes;
    if !path.is_empty() {
        return format!("User \"{user}\" cannot {verb} path \"{path}\"");
    }
    let resource =
        if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    format!("User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}")
}

#[cfg(test)]
mod tests {
    use skep_api::find;

    use super::*;

    #[tokio::test]
    async fn who_may_escalate_or_bind_grants_anything() {
        let authorizer = LiveAuthorizer::default();
        let rules = json!([{"apiGroups": [RBAC], "resources": ["roles", "clusterroles"], "verbs": ["escalate", "bind"]}]);
        authorizer.apply(
            &json!({"kind": "Role", "metadata": {"name": "boss", "namespace": "default"}, "rules": rules}),
        );
        authorizer.apply(&json!({
            "kind": "RoleBinding", "metadata": {"name": "bob", "namespace": "default"},
            "roleRef": {"kind": "Role", "name": "boss"}, "subjects": [{"kind": "User", "name": "bob"}],
        }));
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        let mut aggregated = json!({"metadata": {"name": "new"}, "rules": all});
        let role = aggregated.clone();
        aggregated["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
        let admin =
            json!({"metadata": {"name": "new"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}});
        for (user, plural, object, allowed) in [
            ("bob", "roles", &role, true),
            ("eve", "roles", &role, false),
            ("bob", "rolebindings", &admin, true),
            ("eve", "rolebindings", &admin, false),
            ("bob", "roles", &aggregated, true),
            ("eve", "roles", &aggregated, false),
        ] {
            let kind = find(RBAC, "v1", plural).unwrap();
            let attributes = Attributes {
                user,
                verb: "create",
                group: RBAC,
                resource: plural,
                namespace: "default",
                ..Attributes::default()
            };
            let checked = authorizer.check_grant(&attributes, kind, object, None).await;
            assert_eq!(checked.is_ok(), allowed, "{user} {plural}: {checked:?}");
        }
    }
}
