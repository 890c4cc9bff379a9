//! Certificates of clients, and TLS towards endpoints.

use super::row::Reading::{Guard, Refused, Set};
use super::row::{Annotation, Group};
use crate::ingress::annotations::settings::Demand;
use crate::ingress::annotations::values::{address, boolean, number, one_of, plain, subject, tls_versions};
use crate::policy::ClientDemand;

pub(super) const CERTIFICATES_OF_CLIENTS: Group = (
    "Certificates of clients",
    &[
        Annotation::new(
            "auth-tls-secret",
            "Secret",
            "Of the same namespace, as NAMESPACE/NAME: certificates of authorities in the key `ca.crt`, and what they revoked in `ca.crl`. A request \
             without a certificate that one of them signed gets 400, also one without TLS",
            Guard(|s, v| {
                s.clients.secret = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-tls-verify-client",
            "word",
            "`on`; `off`: clients are not asked; `optional`: 400 only for certificates that do not verify; `optional_no_ca`: endpoints decide",
            Guard(|s, v| {
                s.clients.demand = one_of(
                    v,
                    &[
                        ("on", Demand::Of(ClientDemand::Verified)),
                        ("off", Demand::Off),
                        ("optional", Demand::Of(ClientDemand::VerifiedIfGiven)),
                        ("optional_no_ca", Demand::Of(ClientDemand::Nothing)),
                    ],
                )?;
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-tls-verify-depth",
            "number",
            "Certificates between that of a client and an authority's; 1 without it",
            Guard(|s, v| {
                s.clients.depth = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-tls-error-page",
            "address",
            "Clients that would get 400 are redirected to it",
            Set(|s, v| {
                s.clients.error_page = Some(address(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-tls-match-cn",
            "pattern",
            "`CN=` and a pattern that is searched in the subject of the certificate; others get 403",
            Guard(|s, v| {
                s.clients.subject = Some(subject(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "auth-tls-pass-certificate-to-upstream",
            "boolean",
            "Endpoints get the certificate in `ssl-client-cert`, beside `ssl-client-verify`, `ssl-client-subject-dn` and `ssl-client-issuer-dn`",
            Set(|s, v| {
                s.clients.passes = boolean(v)?;
                Ok(())
            }),
        ),
    ],
);

pub(super) const TLS_TO_ENDPOINTS: Group = (
    "TLS to endpoints, with `backend-protocol: HTTPS` or `GRPCS`",
    &[
        Annotation::new(
            "proxy-ssl-secret",
            "Secret",
            "Of the same namespace, as NAMESPACE/NAME: what endpoints are presented in `tls.crt` and `tls.key`, and the authorities for theirs in `ca.crt`",
            Guard(|s, v| {
                s.endpoint_tls.secret = Some(v.trim().into());
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-ssl-verify",
            "boolean",
            "`on`: only endpoints whose certificate one of the authorities signed get requests",
            Guard(|s, v| {
                s.endpoint_tls.verifies = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-ssl-verify-depth",
            "number",
            "Certificates between that of an endpoint and an authority's; 1 without it",
            Guard(|s, v| {
                s.endpoint_tls.depth = Some(number(v)?);
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-ssl-name",
            "host",
            "The name that the certificate must have, and that is sent; SERVICE.NAMESPACE.svc without it",
            Guard(|s, v| {
                s.endpoint_tls.name = plain(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-ssl-server-name",
            "boolean",
            "`on`: the name is sent in the handshake",
            Set(|s, v| {
                s.endpoint_tls.sends_name = boolean(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-ssl-protocols",
            "versions",
            "`TLSv1.2` and `TLSv1.3`; older ones are not safe",
            Guard(|s, v| {
                s.endpoint_tls.versions = tls_versions(v)?;
                Ok(())
            }),
        ),
        Annotation::new(
            "proxy-ssl-ciphers",
            "ciphers",
            "The cipher suites are those of TLS 1.2 and 1.3 that are safe",
            Refused,
        ),
    ],
);
