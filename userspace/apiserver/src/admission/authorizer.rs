//! What expressions may ask about rights: of who sent the request, or of a service account.

use std::sync::Arc;

use skep_api::cel::{Authorize, Authorizer, Question, Value, Verdict};

use super::request::Request;
use crate::Inner;
use crate::authz::{Attributes, Decision};
use crate::identity::Identity;

struct Asker {
    server: Arc<Inner>,
    identity: Identity,
}

/// The variable `authorizer` of a request about the object of this name.
pub(super) fn variable(request: &Request<'_>, name: &str) -> Value {
    let asker = Asker { server: request.call.server.clone(), identity: request.call.identity.clone() };
    let kind = request.kind();
    let about = Question {
        group: kind.group.to_owned(),
        resource: kind.plural.to_owned(),
        subresource: request.subresource().to_owned(),
        namespace: request.namespace().to_owned(),
        name: name.to_owned(),
        ..Question::default()
    };
    Authorizer::variable(Arc::new(asker), about)
}

impl Authorize for Asker {
    fn decide(&self, question: &Question) -> Verdict {
        let account = question.account.as_ref().map(|(namespace, name)| Identity {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
            ..Identity::default()
        });
        let identity = account.as_ref().unwrap_or(&self.identity);
        let attributes = Attributes {
            user: &identity.user,
            groups: &identity.groups,
            verb: &question.verb,
            group: &question.group,
            resource: &question.resource,
            subresource: &question.subresource,
            name: &question.name,
            namespace: &question.namespace,
            path: &question.path,
        };
        match self.server.caches.access().decide(&attributes) {
            Decision::Allow(reason) => Verdict { allowed: true, reason },
            Decision::NoOpinion(reason) => Verdict { allowed: false, reason },
        }
    }
}
