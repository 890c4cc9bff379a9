//! CertificateSigningRequests: records the requester, checks the right to approve and to sign for a signer, and refuses
//! client certificates for superusers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_api::Status;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::request::{Operation, Request};
use crate::authz::{Attributes, SUPERUSERS};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) fn admit(request: &Request<'_>, object: &mut Value) {
    if !request.creates(GROUP, PLURAL) {
        return;
    }
    let identity = &request.call.identity;
    let spec = &mut object["spec"];
    spec["username"] = identity.user.as_str().into();
    spec["groups"] = json!(identity.groups);
    for field in ["uid", "extra"] {
        spec.as_object_mut().and_then(|spec| spec.remove(field));
    }
    if !identity.uid.is_empty() {
        spec["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        spec["extra"] = json!(identity.extra);
    }
}

pub(super) async fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    if !request.is_resource(GROUP, PLURAL) {
        return Ok(());
    }
    let why = match (request.subresource(), request.operation, request.old) {
        ("", Operation::Create, _) => check_subject(object).err(),
        ("approval", _, Some(old)) => refused(request, "approve", old, "approve").await,
        ("status", _, Some(old)) if is_signed(object, old) => refused(request, "sign", old, "sign").await,
        _ => None,
    };
    why.map_or(Ok(()), |why| Err(request.forbidden(object, why)))
}

fn is_signed(new: &Value, old: &Value) -> bool {
    let same = |field: &str| {
        let (new, old) = (&new["status"][field], &old["status"][field]);
        let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        new == old || empty(new) && empty(old)
    };
    !same("certificate") || !same("conditions")
}

/// The refusal of a user who may act neither for the signer nor for all signers of its domain.
async fn refused(request: &Request<'_>, verb: &str, old: &Value, word: &str) -> Option<String> {
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let attributes = Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource: "signers",
            name,
            ..Attributes::of(&request.call.identity)
        };
        if request.admission.storage.caches.authorizer().allows(&attributes).await {
            return None;
        }
    }
    Some(format!("user not permitted to {word} requests with signerName \"{signer}\""))
}

fn check_subject(object: &Value) -> Result<(), String> {
    if object["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let pem = STANDARD.decode(object["spec"]["request"].as_str().unwrap_or_default());
    let pem = pem.map_err(|error| format!("failed to parse CSR: {error}"))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem)
        .map_err(|_| "failed to parse CSR: PEM block type must be CERTIFICATE REQUEST")?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| format!("failed to parse CSR: {error}"))?;
    let mut groups = parsed.certification_request_info.subject.iter_organization();
    if groups.any(|group| group.as_str().is_ok_and(|group| group == SUPERUSERS)) {
        return Err(format!("use of {CLIENT_SIGNER} signer with {SUPERUSERS} group is not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn request_for(group: &str, signer: &str) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, group);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"spec": {"signerName": signer, "request": STANDARD.encode(pem)}})
    }

    #[test]
    fn nobody_asks_to_be_a_superuser() {
        assert_eq!(check_subject(&request_for("dev", CLIENT_SIGNER)), Ok(()));
        assert_eq!(check_subject(&request_for(SUPERUSERS, "example.com/x")), Ok(()));
        assert_eq!(
            check_subject(&request_for(SUPERUSERS, CLIENT_SIGNER)).unwrap_err(),
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
        );
        let bad = json!({"spec": {"signerName": CLIENT_SIGNER, "request": "!"}});
        assert!(check_subject(&bad).unwrap_err().starts_with("failed to parse CSR"));
    }

    #[test]
    fn only_certificate_and_conditions_are_a_signature() {
        let csr = |status: Value| json!({"status": status});
        assert!(!is_signed(&csr(json!({"conditions": []})), &csr(json!({}))));
        assert!(is_signed(&csr(json!({"certificate": "x"})), &csr(json!({}))));
    }
}
