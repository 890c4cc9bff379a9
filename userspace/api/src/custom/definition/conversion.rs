//! Validates `spec.conversion`: no conversion, or a webhook with a valid client configuration.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::client_config;
use crate::names::{NameForm, name_problem};
use crate::value::{items, text};

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
        client_config::validate(client, &at, errors);
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
