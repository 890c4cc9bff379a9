//! Resource lists: the names and amounts that they may have, and the requests and limits of containers and pods.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::field::{Errors, Path};
use crate::names::{NameForm, name_problem, name_problems, validate_optional_name};
use crate::quantity::Quantity;
use crate::resources::quantity;
use crate::value::{items, text};

const HUGE_PAGES: &str = "hugepages-";
/// Resources without a domain that a list of any kind may name.
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources that are counted.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// What a list of resources is for, and by that which names it may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Container,
    Pod,
    Quota,
    /// A LimitRange item of another type than Container and Pod.
    Any,
}

/// Checks the name of a resource. Each problem is reported at `path`.
pub(super) fn validate_resource_name(name: &str, owner: Owner, path: &Path, errors: &mut Errors) {
    let problems = name_problems(name, NameForm::LabelKey);
    let is_qualified = problems.is_empty();
    let value = name.into();
    problems.into_iter().for_each(|problem| errors.invalid(path, &value, problem));
    let is_plain = !name.contains('/');
    let is_huge = name.starts_with(HUGE_PAGES);
    let is_standard = STANDARD.contains(&name) || is_huge || name.starts_with("requests.hugepages-");
    if is_qualified && is_plain && !is_standard {
        errors.invalid(path, &value, "must be a standard resource type or fully qualified");
        if owner == Owner::Pod {
            return;
        }
    }
    let problem = match owner {
        Owner::Container if is_plain => {
            let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge;
            (!known).then_some("must be a standard resource for containers")
        }
        Owner::Container if !is_native(name) => {
            (!is_extended(name)).then_some("doesn't follow extended resource name standard")
        }
        Owner::Quota if is_plain => {
            let known = is_standard && name != "storage";
            (!known).then_some("must be a standard resource for quota")
        }
        Owner::Pod if is_qualified && !matches!(name, "cpu" | "memory") && !is_huge => {
            let supported = ["cpu", "hugepages-", "memory"];
            errors.not_supported(path, &value, &supported);
            None
        }
        _ => None,
    };
    if let Some(problem) = problem {
        errors.invalid(path, &value, problem);
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && name_problem(&format!("requests.{name}"), NameForm::LabelKey).is_none()
}

/// Whether more of the resource may be promised than there is.
pub(super) fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// Checks an amount: not negative, and whole where the resource is counted.
pub(super) fn validate_amount(name: &str, value: &Value, path: &Path, errors: &mut Errors) {
    let Some(amount) = quantity(value) else { return };
    let shown = amount.to_string().into();
    if amount.millis() < 0 {
        errors.invalid(path, &shown, "must be greater than or equal to 0");
    }
    if (COUNTED.contains(&name) || is_extended(name)) && amount.millis() % 1000 != 0 {
        errors.invalid(path, &shown, "must be an integer");
    }
}

/// Checks `limits`, `requests` and `claims`. `claims` has the names of the pod's resource claims.
pub(super) fn validate_requirements(
    resources: &Value,
    owner: Owner,
    claims: &BTreeSet<&str>,
    path: &Path,
    errors: &mut Errors,
) {
    let none = Map::new();
    let list = |field: &str| resources[field].as_object().unwrap_or(&none);
    let (limits, requests) = (list("limits"), list("requests"));
    for (name, value) in limits {
        let at = path.child("limits").key(name);
        validate_resource_name(name, owner, &at, errors);
        validate_amount(name, value, &at, errors);
        validate_huge_pages(name, value, &at, errors);
    }
    for (name, value) in requests {
        let at = path.child("requests").key(name);
        validate_resource_name(name, owner, &at, errors);
        validate_amount(name, value, &at, errors);
        validate_request(name, value, limits.get(name), path, errors);
        validate_huge_pages(name, value, &at, errors);
    }
    let has = |is: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| is(name));
    if has(|name| name.starts_with(HUGE_PAGES)) && !has(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    validate_claims(resources, claims, &path.child("claims"), errors);
}

fn validate_request(name: &str, value: &Value, limit: Option<&Value>, path: &Path, errors: &mut Errors) {
    let Some(amount) = quantity(value) else { return };
    let Some(limit) = limit.and_then(quantity) else {
        if !is_overcommitted(name) {
            errors.required(&path.child("limits"), "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let relation = if amount != limit && !is_overcommitted(name) {
        "equal to"
    } else if amount > limit {
        "less than or equal to"
    } else {
        return;
    };
    let detail = format!("must be {relation} {name} limit of {limit}");
    errors.invalid(&path.child("requests"), &amount.to_string().into(), &detail);
}

fn validate_huge_pages(name: &str, value: &Value, path: &Path, errors: &mut Errors) {
    let Some(size) = name.strip_prefix(HUGE_PAGES) else { return };
    let Some(amount) = quantity(value) else { return };
    let size = size.parse::<Quantity>().ok().filter(|size| size.millis() > 0 && size.millis() % 1000 == 0);
    if size.is_none_or(|size| amount.value() % size.value() != 0) {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        errors.invalid(path, &amount.to_string().into(), &detail);
    }
}

/// Claims of a container: each is one of the pod's, as a whole or by its requests.
fn validate_claims(resources: &Value, known: &BTreeSet<&str>, path: &Path, errors: &mut Errors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in items(resources, "claims").enumerate() {
        let (at, name, request) = (path.index(i), text(&claim["name"]), text(&claim["request"]));
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if seen.contains(name) {
            errors.duplicate(&at, &name.into());
        } else {
            validate_optional_name(claim, "request", NameForm::Label, &at, errors);
            let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            if seen.contains(&key) {
                errors.duplicate(&at, &key.as_str().into());
            } else if request.is_empty() {
                let parts = seen.iter().filter(|key| key.split_once('/').is_some_and(|(of, _)| of == name));
                parts.for_each(|_| errors.duplicate(&at, &name.into()));
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let all = known.iter().copied().collect::<Vec<_>>().join(", ");
            let which = if all.is_empty() { " which is empty".to_owned() } else { format!(": {all}") };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            errors.not_found(&at, &name.into(), &detail);
        }
    }
}
