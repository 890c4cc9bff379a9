//! CertificateSigningRequests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::kinds::signer_name::validate_signer_name;
use crate::table::cell::{NONE, text_cell};
use crate::table::column::{AGE, Column, NAME, short};
use crate::value::{immutable, items};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const MIN_EXPIRATION_SECONDS: i64 = 600;
/// Conditions that an update may not remove.
const FINAL_CONDITIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

pub(super) const ROW: Row = Row {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    subresources: &["approval", "status"],
    schema: "api.certificates.v1.CertificateSigningRequest",
    selectable_fields: &["metadata.name", "spec.signerName"],
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    AGE,
    Column::text("SignerName", |object, _| text_cell(&object["spec"]["signerName"])),
    Column::text("Requestor", |object, _| text_cell(&object["spec"]["username"])),
    Column::text("RequestedDuration", requested_duration),
    Column::text("Condition", csr_condition),
];

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    if !is_pem_request(&spec["request"]) {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&path.child("request"), &spec["request"], detail);
    }
    let usages = path.child("usages");
    let all: Vec<&Value> = items(spec, "usages").collect();
    if all.is_empty() {
        errors.required(&usages, "");
    }
    for (i, usage) in all.iter().enumerate() {
        if !USAGES.iter().any(|known| *usage == known) {
            errors.not_supported(&usages.index(i), usage, &USAGES);
        }
        if all[..i].contains(usage) {
            errors.duplicate(&usages.index(i), usage);
        }
    }
    if spec["signerName"] == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid(&path.child("signerName"), &spec["signerName"], detail);
    } else {
        validate_signer_name(&spec["signerName"], &path.child("signerName"), errors);
    }
    if spec["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < MIN_EXPIRATION_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), &spec["expirationSeconds"], detail);
    }
}

fn is_pem_request(request: &Value) -> bool {
    let compact: String = request.as_str().unwrap_or_default().split_whitespace().collect();
    let Ok(pem) = STANDARD.decode(compact) else { return false };
    let text = String::from_utf8_lossy(&pem);
    let body = text.split_once("-----BEGIN CERTIFICATE REQUEST-----").map(|(_, rest)| rest);
    let body = body.and_then(|rest| rest.split_once("-----END CERTIFICATE REQUEST-----"));
    body.is_some_and(|(body, _)| {
        let body: String = body.split_whitespace().collect();
        // A request is an ASN.1 SEQUENCE.
        STANDARD.decode(body).is_ok_and(|der| der.first() == Some(&0x30))
    })
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(&new["spec"], &old["spec"], &Path::new("spec"), errors);
    let count = |object: &Value, kind: &str| {
        items(&object["status"], "conditions").filter(|condition| condition["type"] == kind).count()
    };
    for kind in FINAL_CONDITIONS {
        if count(new, kind) < count(old, kind) {
            let at = Path::new("status").child("conditions");
            errors.forbidden(&at, &format!("updates may not remove a condition of type {}", json!(kind)));
        }
    }
}

fn requested_duration(object: &Value, _: Timestamp) -> Value {
    match object["spec"]["expirationSeconds"].as_i64() {
        Some(seconds) => short(seconds).into(),
        None => NONE.into(),
    }
}

fn csr_condition(object: &Value, _: Timestamp) -> Value {
    let has = |wanted: &str| items(&object["status"], "conditions").any(|c| c["type"] == wanted);
    let mut states = vec![if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }];
    if has("Failed") {
        states.push("Failed");
    }
    if !object["status"]["certificate"].is_null() {
        states.push("Issued");
    }
    states.join(",").into()
}
