//! Services and Secrets as the translators of Ingress and of Gateway API see them. PURE.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoints::ServiceFacts;
use crate::certificate::{Certificate, CertificateError};

pub(crate) type SecretStates = HashMap<Arc<str>, SecretState>;
pub(crate) type ServiceStates = HashMap<Arc<str>, ServiceFacts>;

/// A Secret that was looked for.
pub(crate) enum SecretState {
    Missing,
    Good(Arc<Certificate>),
    /// The last certificate that was valid stays in force.
    Bad(CertificateError, Option<Arc<Certificate>>),
}

/// NAMESPACE/NAME, or the name of an object without a namespace.
pub(crate) fn key_of(meta: &ObjectMeta) -> Arc<str> {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}
