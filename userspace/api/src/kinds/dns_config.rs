//! How a pod's names are resolved: `dnsPolicy`, `dnsConfig` and `hostAliases`.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::ip::parse_ip;
use crate::names::{NameForm, validate_name};
use crate::value::{items, text};

const MAX_NAME_SERVERS: usize = 3;
const MAX_SEARCH_PATHS: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2_048;

/// Checks `dnsConfig` against `dnsPolicy`.
pub(super) fn validate_dns_config(spec: &Value, path: &Path, errors: &mut Errors) {
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = items(config, "nameservers").count();
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            return errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers == 0 {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path.child("nameservers"), detail);
        }
    }
    let at = path.child("nameservers");
    if servers > MAX_NAME_SERVERS {
        let detail = format!("must not have more than {MAX_NAME_SERVERS} nameservers");
        errors.invalid(&at, &config["nameservers"], &detail);
    }
    for (i, server) in items(config, "nameservers").enumerate() {
        parse_ip(server, &at.index(i), errors);
    }
    let at = path.child("searches");
    let searches: Vec<&str> = items(config, "searches").map(text).collect();
    if searches.len() > MAX_SEARCH_PATHS {
        let detail = format!("must not have more than {MAX_SEARCH_PATHS} search paths");
        errors.invalid(&at, &config["searches"], &detail);
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.invalid(&at, &config["searches"], &detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        validate_name(name, NameForm::UnderscoredSubdomain, &at.index(i), errors);
    }
    for (i, option) in items(config, "options").enumerate() {
        if text(&option["name"]).is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

/// Checks `hostAliases`.
pub(super) fn validate_host_aliases(spec: &Value, path: &Path, errors: &mut Errors) {
    for (i, alias) in items(spec, "hostAliases").enumerate() {
        let at = path.child("hostAliases").index(i);
        parse_ip(&text(&alias["ip"]).into(), &at.child("ip"), errors);
        for (j, name) in items(alias, "hostnames").enumerate() {
            validate_name(text(name), NameForm::Subdomain, &at.child("hostnames").index(j), errors);
        }
    }
}
