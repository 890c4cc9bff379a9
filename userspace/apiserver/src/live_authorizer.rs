//! The authoriser of requests: the pure one, fed by the caches. Its answers are in the API's words.

use std::sync::RwLockReadGuard;

use serde_json::{Value, json};
use skep_api::{Kind, Reason, Status, meta};

use crate::authz::{Attributes, Authorizer, Decision, GrantError};
use crate::identity::Identity;
use crate::lock::RwLock;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The caches apply every change here, in order, before a read can see it.
#[derive(Default)]
pub(crate) struct LiveAuthorizer {
    authorizer: RwLock<Authorizer>,
}

/// Whether decisions depend on objects of this kind.
pub(crate) fn matters(kind: &Kind) -> bool {
    kind.group == RBAC || kind.group.is_empty() && kind.kind == "Pod"
}

impl LiveAuthorizer {
    fn read(&self) -> RwLockReadGuard<'_, Authorizer> {
        self.authorizer.read()
    }

    pub(crate) fn apply(&self, object: &Value) {
        self.authorizer.write().apply(object);
    }

    pub(crate) fn delete(&self, object: &Value) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let mut authorizer = self.authorizer.write();
        authorizer.delete(kind, meta::namespace(object), meta::name(object));
    }

    pub(crate) fn allows(&self, attributes: &Attributes<'_>) -> bool {
        self.decide(attributes).allowed()
    }

    pub(crate) fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        self.read().authorize(attributes)
    }

    /// 403 in upstream's words unless the request is allowed.
    pub(crate) fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let why = match self.decide(attributes) {
            Decision::Allow(_) => return Ok(()),
            Decision::NoOpinion(why) => why,
        };
        Err(forbidden(attributes, &why))
    }

    /// The privilege escalation check of a role or a binding, new or changed from `old`: it must not grant rights that
    /// the user lacks.
    pub(crate) fn check_grant(
        &self,
        attributes: &Attributes<'_>,
        kind: &Kind,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if kind.group != RBAC || old.is_some_and(|old| differs_for_collector_only(object, old)) {
            return Ok(());
        }
        let authorizer = self.read();
        let checked = match &*kind.kind {
            "Role" | "ClusterRole" => authorizer.check_escalation(attributes, object, old),
            "RoleBinding" | "ClusterRoleBinding" => authorizer.check_binding(attributes, &object["roleRef"]),
            _ => Ok(()),
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

    /// The rules that apply to a user in a namespace: for resources and for paths.
    pub(crate) fn rules_of(&self, identity: &Identity, namespace: &str) -> (Vec<Value>, Vec<Value>) {
        let rules = self.read().rules().rules_of(&identity.user, &identity.groups, namespace);
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in &rules {
            let value = json!(rule);
            if value["nonResourceURLs"].is_array() { paths.push(value) } else { resources.push(value) }
        }
        (resources, paths)
    }
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
