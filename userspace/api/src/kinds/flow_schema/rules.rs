//! The rules of a FlowSchema: whose requests, and which.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problems, validate_name};
use crate::value::{items, text};

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// Kinds of subjects, with the field of each and the kinds' fields in the order of upstream's checks.
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

pub(super) fn validate_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    if items(rule, "subjects").next().is_none() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in items(rule, "subjects").enumerate() {
        validate_subject(subject, &path.child("subjects").index(i), errors);
    }
    if items(rule, "resourceRules").next().is_none() && items(rule, "nonResourceRules").next().is_none() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, resources) in items(rule, "resourceRules").enumerate() {
        validate_resources(resources, &path.child("resourceRules").index(i), errors);
    }
    for (i, urls) in items(rule, "nonResourceRules").enumerate() {
        validate_urls(urls, &path.child("nonResourceRules").index(i), errors);
    }
}

fn validate_subject(subject: &Value, path: &Path, errors: &mut Errors) {
    let Some((kind, own)) = SUBJECTS.iter().find(|(kind, _)| subject["kind"] == *kind) else {
        let supported = ["Group", "ServiceAccount", "User"];
        return errors.not_supported(&path.child("kind"), &subject["kind"], &supported);
    };
    let (value, at) = (&subject[*own], path.child(own));
    if !value.is_object() {
        errors.required(&at, &format!("{own} is required when subject kind is '{kind}'"));
    } else {
        match text(&value["name"]) {
            "" => errors.required(&at.child("name"), ""),
            "*" => {}
            name if *own == "serviceAccount" => {
                validate_name(name, NameForm::Subdomain, &at.child("name"), errors);
            }
            _ => {}
        }
        if *own == "serviceAccount" {
            let (namespace, at) = (text(&value["namespace"]), at.child("namespace"));
            if namespace.is_empty() {
                errors.required(&at, "must specify namespace for service account");
            } else {
                validate_name(namespace, NameForm::Label, &at, errors);
            }
        }
    }
    for (kind, other) in SUBJECTS.iter().filter(|(_, field)| field != own && !subject[*field].is_null()) {
        errors.forbidden(
            &path.child(other),
            &format!("{other} is forbidden when subject kind is not '{kind}'"),
        );
    }
}

/// Checks that `*` stands alone; returns whether the list has it.
fn validate_wildcard(rule: &Value, list: &str, what: &str, path: &Path, errors: &mut Errors) -> bool {
    let has_all = items(rule, list).any(|item| item == "*");
    if has_all && items(rule, list).count() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(&path.child(list), &rule[list], &detail);
    }
    has_all
}

fn is_empty(rule: &Value, list: &str) -> bool {
    items(rule, list).next().is_none()
}

fn validate_verbs(rule: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("verbs");
    if is_empty(rule, "verbs") {
        errors.required(&at, "verbs must contain at least one value");
    } else if !validate_wildcard(rule, "verbs", "verbs", path, errors)
        && items(rule, "verbs").any(|verb| !VERBS.contains(&text(verb)))
    {
        errors.not_supported(&at, &rule["verbs"], &VERBS);
    }
}

fn validate_resources(rule: &Value, path: &Path, errors: &mut Errors) {
    validate_verbs(rule, path, errors);
    for (list, one, several) in
        [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
    {
        if is_empty(rule, list) {
            let detail = format!("resource rules must supply at least one {one}");
            errors.required(&path.child(list), &detail);
        }
        validate_wildcard(rule, list, several, path, errors);
    }
    let at = path.child("namespaces");
    if is_empty(rule, "namespaces") && rule["clusterScope"] != true {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&at, detail);
    } else if !validate_wildcard(rule, "namespaces", "namespaces", path, errors) {
        for (i, namespace) in items(rule, "namespaces").enumerate() {
            for problem in name_problems(text(namespace), NameForm::Label) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errors.invalid(&at.index(i), namespace, &detail);
            }
        }
    }
}

fn validate_urls(rule: &Value, path: &Path, errors: &mut Errors) {
    validate_verbs(rule, path, errors);
    let at = path.child("nonResourceURLs");
    if is_empty(rule, "nonResourceURLs") {
        errors.required(&at, "nonResourceURLs must contain at least one value");
    } else if !validate_wildcard(rule, "nonResourceURLs", "non-resource URLs", path, errors) {
        for (i, url) in items(rule, "nonResourceURLs").enumerate() {
            if let Some(problem) = url_problem(text(url)) {
                errors.invalid(&at.index(i), url, problem);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if url.strip_suffix("/*").unwrap_or(url).contains('*') => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}
