//! Certificates of clients that listeners ask for (`spec.tls.frontend` of Gateways). PURE.

use std::sync::Arc;

use super::authority_refs::{FoundAuthorities, Inputs};
use super::conditions::Fault;
use super::grants::{Referrer, namespace_of};
use super::kinds::{ClientValidationSpec, Gateway};
use super::objects::{Key, Objects};
use crate::client_check::{ClientCheck, ClientChecks, ClientMode};

/// What a listener asks its clients for.
pub(super) struct ClientValidation {
    /// `None`: no client is let in.
    pub(super) check: Option<Arc<ClientCheck>>,
    pub(super) accepted: Result<(), Fault>,
    pub(super) resolved: Result<(), Fault>,
}

/// All that a Gateway says of its clients.
pub(super) fn validations(gateway: &Gateway) -> impl Iterator<Item = &ClientValidationSpec> {
    let frontend = gateway.spec.tls.iter().filter_map(|tls| tls.frontend.as_ref());
    frontend
        .flat_map(|frontend| {
            [&frontend.default].into_iter().chain(frontend.per_port.iter().map(|of_port| &of_port.tls))
        })
        .filter_map(|tls| tls.validation.as_ref())
}

/// Whether clients without a certificate that verifies may be let in.
pub(super) fn is_insecure(gateway: &Gateway) -> bool {
    validations(gateway).any(|validation| mode(validation) == ClientMode::Optional)
}

/// What a Gateway says of the clients of a port; what it says of all ports does not count for those that it names.
fn validation_of(gateway: &Gateway, port: u16) -> Option<&ClientValidationSpec> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().find(|of_port| of_port.port == port);
    of_port.map_or(&frontend.default, |of_port| &of_port.tls).validation.as_ref()
}

fn mode(validation: &ClientValidationSpec) -> ClientMode {
    match validation.mode.as_deref() {
        Some("AllowInsecureFallback") => ClientMode::Optional,
        _ => ClientMode::Required,
    }
}

impl Objects {
    /// `None`: clients of the port are not asked for a certificate.
    pub(super) fn client_validation(
        &self,
        key: &Key,
        gateway: &Gateway,
        port: u16,
        inputs: Inputs<'_>,
        checks: &ClientChecks,
    ) -> Option<ClientValidation> {
        let validation = validation_of(gateway, port)?;
        let from = Referrer { kind: "Gateway", namespace: namespace_of(key) };
        let refs = &validation.ca_certificate_refs;
        let found = self.authorities(from, refs, "InvalidCACertificateKind", inputs);
        let FoundAuthorities { authorities, resolved } = found;
        let refused = |why: String| (None, Err(Fault::new("NoValidCACertificate", why)));
        let (check, accepted) = match authorities.map(|all| checks.get(&all, mode(validation), None)) {
            Some(Ok(check)) => (Some(check), Ok(())),
            Some(Err(error)) => refused(error.to_string()),
            None => refused("no certificate of an authority is valid".to_owned()),
        };
        Some(ClientValidation { check, accepted, resolved })
    }
}
