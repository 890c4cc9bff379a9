//! What an Ingress' annotations ask for.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;

use super::states::key_of;
use crate::acme::{Owner, Request};

/// An Ingress' request.
pub(super) struct AcmeFacts {
    pub(super) owner: Owner,
    pub(super) request: Request,
    /// Secrets and their hosts.
    pub(super) secrets: Vec<(Arc<str>, Vec<String>)>,
}

impl AcmeFacts {
    /// `None`: the Ingress asks for nothing.
    pub(super) fn parse(ingress: &Ingress) -> Option<Box<AcmeFacts>> {
        let meta = &ingress.metadata;
        let request = Request::parse(meta)?;
        let owner = Owner {
            api_version: "networking.k8s.io/v1",
            kind: "Ingress",
            key: key_of(meta),
            uid: meta.uid.clone().unwrap_or_default(),
        };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
        let secrets = tls.filter_map(|tls| {
            let secret = tls.secret_name.as_ref().filter(|name| !name.is_empty())?;
            Some((format!("{namespace}/{secret}").into(), tls.hosts.clone().unwrap_or_default()))
        });
        Some(Box::new(AcmeFacts { owner, request, secrets: secrets.collect() }))
    }
}
