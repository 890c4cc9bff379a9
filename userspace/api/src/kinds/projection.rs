//! Files of volumes: those of secrets, ConfigMaps and fields of the pod, and projected volumes that join them.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::env::{Use, default_references, validate_field_ref, validate_resource_ref};
use crate::kinds::file_path::validate_local_path;
use crate::kinds::signer_name::validate_signer_name;
use crate::kinds::volume_holder::Holder;
use crate::names::{NameForm, name_problems};
use crate::value::{items, items_mut, one_of, require_text, set_default, text};

const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const CONFLICT: &str = "conflicting duplicate paths";
/// Seconds for which a token is valid at least.
const MIN_TOKEN_SECONDS: i64 = 600;
const MIN_CERTIFICATE_SECONDS: i64 = 3_600;
/// 91 days; a day for Kubernetes' own signers.
const MAX_CERTIFICATE_SECONDS: i64 = 7_862_400;
const MAX_KUBERNETES_CERTIFICATE_SECONDS: i64 = 86_400;

pub(super) fn default_files(source: &mut Value) {
    set_default(source, "defaultMode", 0o644);
    items_mut(source, "items").for_each(default_references);
}

pub(super) fn default_projected(projected: &mut Value) {
    set_default(projected, "defaultMode", 0o644);
    for source in items_mut(projected, "sources") {
        // The feature of this source is off by default, and upstream drops it then.
        if let Some(fields) = source.as_object_mut() {
            fields.remove("clusterTrustBundle");
        }
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
            set_default(token, "expirationSeconds", 3600);
        }
        if let Some(fields) = source.get_mut("downwardAPI") {
            items_mut(fields, "items").for_each(default_references);
        }
    }
}

/// Checks the files of a secret or a ConfigMap.
pub(super) fn validate_files(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    validate_mode(source, "defaultMode", path, errors);
    for (i, item) in items(source, "items").enumerate() {
        validate_key_file(item, &path.child("items").index(i), errors);
    }
}

/// Checks the files whose contents are fields of the pod. As upstream, all are reported at one path.
pub(super) fn validate_field_files(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    validate_mode(source, "defaultMode", path, errors);
    items(source, "items").for_each(|item| validate_field_file(item, path, errors));
}

fn validate_mode(object: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if object[field].as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.invalid(&path.child(field), &object[field], BAD_MODE);
    }
}

fn validate_key_file(item: &Value, path: &Path, errors: &mut Errors) {
    require_text(item, "key", path, errors);
    require_text(item, "path", path, errors);
    validate_local_path(&item["path"], &path.child("path"), errors);
    validate_mode(item, "mode", path, errors);
}

fn validate_field_file(item: &Value, path: &Path, errors: &mut Errors) {
    require_text(item, "path", path, errors);
    validate_local_path(&item["path"], &path.child("path"), errors);
    if item["fieldRef"].is_object() {
        validate_field_ref(&item["fieldRef"], Use::File, &path.child("fieldRef"), errors);
        if item["resourceFieldRef"].is_object() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(path, &"resource".into(), detail);
        }
    } else if item["resourceFieldRef"].is_object() {
        let at = path.child("resourceFieldRef");
        validate_resource_ref(&item["resourceFieldRef"], Use::File, &at, errors);
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    validate_mode(item, "mode", path, errors);
}

/// Checks a projected volume: no two sources have a file of one path.
pub(super) fn validate_projected(projected: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    validate_mode(projected, "defaultMode", path, errors);
    let mut paths = HashSet::new();
    for (i, source) in items(projected, "sources").enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        for field in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "podCertificate"] {
            let (found, at) = (&source[field], at.child(field));
            if !found.is_object() {
                continue;
            }
            count += 1;
            match field {
                "serviceAccountToken" => validate_token(found, &at, path, errors),
                "podCertificate" => validate_certificate(found, path, &at, &mut paths, errors),
                _ => validate_listed(found, field, path, &at, &mut paths, errors),
            }
        }
        if count > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

/// `name` is the value that upstream shows for a conflict: the source's, or the path where it has none.
fn take<'a>(path: &'a str, name: &str, at: &Path, paths: &mut HashSet<&'a str>, errors: &mut Errors) {
    if !paths.insert(path) {
        errors.invalid(at, &name.into(), CONFLICT);
    }
}

fn validate_listed<'a>(
    source: &'a Value,
    field: &str,
    volume: &Path,
    path: &Path,
    paths: &mut HashSet<&'a str>,
    errors: &mut Errors,
) {
    let of_fields = field == "downwardAPI";
    if !of_fields {
        require_text(source, "name", path, errors);
    }
    for (i, item) in items(source, "items").enumerate() {
        if of_fields {
            validate_field_file(item, path, errors);
        } else {
            validate_key_file(item, &path.child("items").index(i), errors);
        }
        let file = text(&item["path"]);
        if !file.is_empty() {
            let shown = if of_fields { file } else { text(&source["name"]) };
            take(file, shown, volume, paths, errors);
        }
    }
}

fn validate_token(token: &Value, path: &Path, volume: &Path, errors: &mut Errors) {
    let (seconds, at) =
        (token["expirationSeconds"].as_i64().unwrap_or_default(), path.child("expirationSeconds"));
    if seconds < MIN_TOKEN_SECONDS {
        errors.invalid(&at, &seconds.into(), "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(&at, &seconds.into(), "may not specify a duration larger than 2^32 seconds");
    }
    // As upstream, at the path of the volume.
    if require_text(token, "path", volume, errors) {
        validate_local_path(&token["path"], &volume.child("path"), errors);
    }
}

fn validate_certificate<'a>(
    certificate: &'a Value,
    volume: &Path,
    path: &Path,
    paths: &mut HashSet<&'a str>,
    errors: &mut Errors,
) {
    validate_signer_name(&certificate["signerName"], &path.child("signerName"), errors);
    validate_user_annotations(&certificate["userAnnotations"], &path.child("userAnnotations"), errors);
    let key_type = text(&certificate["keyType"]);
    if key_type.is_empty() {
        errors.not_supported(&path.child("keyType"), &"".into(), &KEY_TYPES);
    }
    if !key_type.is_empty() {
        one_of(certificate, "keyType", path, &KEY_TYPES, errors);
    }
    if let Some(seconds) = certificate["maxExpirationSeconds"].as_i64() {
        let at = path.child("maxExpirationSeconds");
        let of_kubernetes = text(&certificate["signerName"])
            .split_once('/')
            .is_some_and(|(domain, _)| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"));
        let max = if of_kubernetes { MAX_KUBERNETES_CERTIFICATE_SECONDS } else { MAX_CERTIFICATE_SECONDS };
        if seconds < MIN_CERTIFICATE_SECONDS {
            let detail = format!("if provided, maxExpirationSeconds must be >= {MIN_CERTIFICATE_SECONDS}");
            errors.invalid(&at, &seconds.into(), &detail);
        }
        if seconds > max {
            let detail = format!("if provided, maxExpirationSeconds must be <= {max}");
            errors.invalid(&at, &seconds.into(), &detail);
        }
    }
    let mut has_path = false;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let file = text(&certificate[field]);
        if !file.is_empty() {
            has_path = true;
            validate_local_path(&certificate[field], &path.child(field), errors);
            take(file, file, volume, paths, errors);
        }
    }
    if !has_path {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path, detail);
    }
}

/// Keys of annotations for a signer have a domain.
fn validate_user_annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    for key in annotations.as_object().into_iter().flatten().map(|(key, _)| key.to_lowercase()) {
        let problems = name_problems(&key, NameForm::LabelKey);
        let value = key.as_str().into();
        if problems.is_empty() && !key.contains('/') {
            errors.invalid(path, &value, "must be a domain-prefixed key (such as \"acme.io/foo\")");
        }
        problems.into_iter().for_each(|problem| errors.invalid(path, &value, problem));
    }
}
