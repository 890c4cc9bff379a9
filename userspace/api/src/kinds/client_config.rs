//! How a webhook is reached: by URL, or by a Service of the cluster.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problems};

pub(crate) fn validate(client: &Value, path: &Path, errors: &mut Errors) {
    match (client["url"].as_str(), client["service"].is_object()) {
        (Some(url), false) => validate_url(url, &path.child("url"), errors),
        (None, true) => {
            let (service, at) = (&client["service"], path.child("service"));
            for field in ["name", "namespace"] {
                if service[field].as_str().is_none_or(str::is_empty) {
                    errors.required(&at.child(field), "");
                }
            }
            if service["port"].as_i64().is_some_and(|port| !(1..=65_535).contains(&port)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.invalid(&at.child("port"), &service["port"], why);
            }
            if let Some(text) = service["path"].as_str() {
                validate_path(text, &at.child("path"), errors);
            }
        }
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// An URL path of DNS subdomains; none at all is allowed, too.
fn validate_path(text: &str, path: &Path, errors: &mut Errors) {
    if matches!(text, "" | "/") {
        return;
    }
    let value = json!(text);
    if !text.starts_with('/') {
        errors.invalid(path, &value, "must start with a '/'");
    }
    // Whatever the first character is, upstream skips it.
    let rest = text.get(text.chars().next().map_or(0, char::len_utf8)..).unwrap_or_default();
    for (number, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(path, &value, &format!("segment[{number}] may not be empty"));
            continue;
        }
        for why in name_problems(segment, NameForm::Subdomain) {
            errors.invalid(path, &value, &format!("segment[{number}]: {why}"));
        }
    }
}

fn validate_url(url: &str, path: &Path, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(path, &json!(scheme), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || scheme.is_empty() {
        errors.invalid(path, &json!(""), &format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = host.split_once('@') {
        errors.invalid(path, &json!(user), "user information is not permitted in the URL");
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() {
        errors.invalid(path, &json!(fragment), "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = rest.split_once('?').filter(|(_, query)| !query.is_empty()) {
        errors.invalid(path, &json!(query), "query parameters are not permitted in the URL");
    }
}
