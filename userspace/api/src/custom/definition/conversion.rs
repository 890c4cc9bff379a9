//! `spec.conversion`: by nothing, or by a webhook that can be called.

use serde_json::Value;

use crate::custom::text;
use crate::field::{Errors, Path};
use crate::kinds::items;
use crate::meta::{NameForm, name_problem};

pub(super) fn validate(conversion: &Value, path: &Path, errors: &mut Errors) {
    match text(&conversion["strategy"]) {
        "Webhook" => webhook(&conversion["webhook"], path, errors),
        "None" => {
            if !conversion["webhook"]["clientConfig"].is_null() {
                let why = "should not be set when strategy is not set to Webhook";
                errors.forbidden(&path.child("webhookClientConfig"), why);
            }
        }
        "" => {}
        _ => errors.not_supported(&path.child("strategy"), &conversion["strategy"], &["None", "Webhook"]),
    }
}

fn webhook(webhook: &Value, path: &Path, errors: &mut Errors) {
    let (client, at) = (&webhook["clientConfig"], path.child("webhookClientConfig"));
    if client.is_null() {
        errors.required(&at, "required when strategy is set to Webhook");
    } else {
        match (client["url"].is_string(), client["service"].is_object()) {
            (true, false) => url(&client["url"], &at.child("url"), errors),
            (false, true) => service(&client["service"], &at.child("service"), errors),
            _ => errors.required(&at, "exactly one of url or service is required"),
        }
    }
    let at = path.child("conversionReviewVersions");
    let versions: Vec<&Value> = items(webhook, "conversionReviewVersions").collect();
    if versions.is_empty() {
        return errors.required(&at, "");
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(&at.index(i), version, "duplicate version");
        } else if let Some(problem) = name_problem(text(version), NameForm::Label1035) {
            errors.invalid(&at.index(i), version, problem);
        }
    }
    if !versions.iter().any(|version| matches!(text(version), "v1" | "v1beta1")) {
        let why = "must include at least one of v1, v1beta1";
        errors.invalid(&at, &webhook["conversionReviewVersions"], why);
    }
}

fn url(url: &Value, path: &Path, errors: &mut Errors) {
    const FORM: &str = "desired format: https://host[/path]";
    let mut refuse = |why: String| errors.invalid(path, url, &why);
    let Some((scheme, rest)) = text(url).split_once("://") else {
        return refuse(format!("url must be a valid URL: {FORM}"));
    };
    if scheme != "https" {
        refuse(format!("'https' is the only allowed URL scheme; {FORM}"));
    }
    let (host, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if host.is_empty() {
        refuse(format!("host must be specified; {FORM}"));
    }
    if host.contains('@') {
        refuse(format!("user information is not permitted in the URL; {FORM}"));
    }
    if tail.contains('#') {
        refuse(format!("fragments are not permitted in the URL; {FORM}"));
    }
    if tail.contains('?') {
        refuse(format!("query parameters are not permitted in the URL; {FORM}"));
    }
}

fn service(service: &Value, path: &Path, errors: &mut Errors) {
    for name in ["name", "namespace"] {
        if text(&service[name]).is_empty() {
            errors.required(&path.child(name), &format!("service {name} is required"));
        }
    }
    let port = &service["port"];
    if port.as_i64().is_none_or(|port| !(1..=65_535).contains(&port)) {
        errors.invalid(
            &path.child("port"),
            port,
            "port is not valid: must be between 1 and 65535, inclusive",
        );
    }
    if let Some(said) = service["path"].as_str()
        && !said.starts_with('/')
    {
        errors.invalid(&path.child("path"), &service["path"], "must start with a '/'");
    }
}
