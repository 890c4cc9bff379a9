//! The `authorizer` variable of expressions: access checks for the requester or for a service account.

use std::sync::Arc;

use skep_api::cel::{AccessCheck, AccessDecision, Authorize, Authorizer, Value};

use super::request::Request;
use crate::authz::{Attributes, Decision};
use crate::cache::Caches;
use crate::identity::Identity;

struct LiveAuthorizer {
    caches: Caches,
    identity: Arc<Identity>,
}

/// The variable for a request; `name` is the object's name, for `authorizer.requestResource`.
pub(super) fn variable(request: &Request<'_>, name: &str) -> Value<'static> {
    let authorizer = LiveAuthorizer {
        caches: request.admission.storage.caches.clone(),
        identity: request.call.identity.clone(),
    };
    let kind = request.kind();
    let request_resource = AccessCheck {
        group: kind.group.to_string(),
        resource: kind.plural.to_string(),
        subresource: request.subresource().to_owned(),
        namespace: request.namespace().to_owned(),
        name: name.to_owned(),
        ..AccessCheck::default()
    };
    Authorizer::variable(Arc::new(authorizer), request_resource)
}

impl Authorize for LiveAuthorizer {
    fn decide(&self, check: &AccessCheck) -> AccessDecision {
        let account = check.account.as_ref().map(|(namespace, name)| Identity {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
            ..Identity::default()
        });
        let identity = account.as_ref().unwrap_or(&self.identity);
        let attributes = Attributes {
            verb: &check.verb,
            group: &check.group,
            version: if check.path.is_empty() { "*" } else { "" },
            resource: &check.resource,
            subresource: &check.subresource,
            name: &check.name,
            namespace: &check.namespace,
            path: &check.path,
            ..Attributes::of(identity)
        };
        let (allowed, reason, error) = match self.caches.authorizer().decide_now(&attributes) {
            Decision::Allow(reason) => (true, reason, String::new()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => (false, reason, String::new()),
            Decision::Failed(error) => (false, String::new(), error),
        };
        AccessDecision { allowed, reason, error }
    }
}
