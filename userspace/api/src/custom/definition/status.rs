//! The status of a definition: its accepted names and its conditions.
//!
//! In: a definition and all other definitions. Out: its new status. Names within a group belong to the definition that was
//! accepted first; another definition with the same names is not established.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::approval::{API_APPROVED, Approval, approval, is_protected};
use crate::meta;
use crate::value::{items, text};

/// The finalizer of definitions: custom resources are deleted before their definition.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether a condition is true.
pub fn is_true(definition: &Value, kind: &str) -> bool {
    condition(definition, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Whether the kinds of the definition are served.
pub fn established(definition: &Value) -> bool {
    is_true(definition, "Established")
}

fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&definition["status"], "conditions").find(|condition| condition["type"] == kind)
}

/// Makes a definition that is being deleted wait for the removal of its instances. `now` is in RFC 3339.
pub fn mark_for_deletion(definition: &mut Value, now: &str) {
    if definition["metadata"]["deletionTimestamp"].is_string() {
        return;
    }
    let finalizers = meta::of_mut(definition).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|finalizer| finalizer == CLEANUP)
    {
        list.push(CLEANUP.into());
    }
    let reason = (
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    set_condition(definition, "Terminating", true, reason, now);
}

/// Sets a condition; its time changes only with its status. True if anything changed.
pub fn set_condition(
    definition: &mut Value,
    kind: &str,
    status: bool,
    (reason, message): (&str, &str),
    now: &str,
) -> bool {
    let status = if status { "True" } else { "False" };
    let before = condition(definition, kind).cloned();
    let same_status = before.as_ref().filter(|before| before["status"] == status);
    let since = same_status.map_or(json!(now), |before| before["lastTransitionTime"].clone());
    let new = json!({
        "lastTransitionTime": since, "message": message, "reason": reason, "status": status, "type": kind,
    });
    if before.as_ref() == Some(&new) {
        return false;
    }
    let conditions = definition["status"]["conditions"].as_array_mut();
    match conditions {
        Some(conditions) => match conditions.iter_mut().find(|condition| condition["type"] == kind) {
            Some(condition) => *condition = new,
            None => conditions.push(new),
        },
        None => definition["status"]["conditions"] = json!([new]),
    }
    true
}

/// The result of [`judge`].
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Same,
    /// With a new status.
    Changed(Box<Value>),
}

/// The names that were accepted for a definition.
#[derive(Clone, Debug)]
pub struct AcceptedNames {
    group: String,
    /// Plural, singular, short names.
    resources: Vec<String>,
    /// The kind and its list's.
    kinds: Vec<String>,
}

impl AcceptedNames {
    pub fn of(definition: &Value) -> AcceptedNames {
        let accepted = &definition["status"]["acceptedNames"];
        let names = |fields: [&str; 2]| fields.map(|field| text(&accepted[field]).to_owned());
        let mut resources = Vec::from(names(["plural", "singular"]));
        resources.extend(items(accepted, "shortNames").map(|name| text(name).to_owned()));
        AcceptedNames {
            group: text(&definition["spec"]["group"]).to_owned(),
            resources,
            kinds: names(["kind", "listKind"]).into(),
        }
    }
}

/// Whether the names of a definition were accepted and its kind is established, or they were refused.
pub fn is_decided(definition: &Value) -> bool {
    established(definition)
        || condition(definition, "NamesAccepted").is_some_and(|found| found["status"] == "False")
}

/// Accepts or refuses the names of a definition, and establishes it once they are accepted. `all`: of every definition.
pub fn judge<'a>(definition: &Value, all: impl IntoIterator<Item = &'a AcceptedNames>, now: &str) -> Verdict {
    let mut new = definition.clone();
    let wanted = &definition["spec"]["names"];
    if definition["status"]["acceptedNames"] != *wanted || condition(definition, "NamesAccepted").is_none() {
        accept(definition, all, &mut new, now);
    }
    approve(&mut new, now);
    if is_true(&new, "NamesAccepted") && !established(&new) {
        let reason = ("InitialNamesAccepted", "the initial names have been accepted");
        set_condition(&mut new, "Established", true, reason, now);
    }
    if new == *definition { Verdict::Same } else { Verdict::Changed(Box::new(new)) }
}

fn accept<'a>(
    definition: &Value,
    all: impl IntoIterator<Item = &'a AcceptedNames>,
    new: &mut Value,
    now: &str,
) {
    let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
    for other in all.into_iter().filter(|other| definition["spec"]["group"] == *other.group) {
        resources.extend(other.resources.iter().map(String::as_str));
        kinds.extend(other.kinds.iter().map(String::as_str));
    }
    let (names, accepted_names) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let taken = |name: &Value, accepted: &Value, used: &HashSet<&str>| {
        (name != accepted && !text(name).is_empty() && used.contains(text(name)))
            .then(|| format!("{name} is already in use"))
    };
    let mut problem = None;
    for (field, reason, used) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let conflict = match field {
            "shortNames" => short_names(names, accepted_names, used),
            field => taken(&names[field], &accepted_names[field], used),
        };
        match conflict {
            Some(message) => problem = Some((reason, message)),
            None => set(&mut new["status"]["acceptedNames"], field, &names[field]),
        }
    }
    set(&mut new["status"]["acceptedNames"], "categories", &names["categories"]);
    match problem {
        Some((reason, message)) => {
            set_condition(new, "NamesAccepted", false, (reason, &message), now);
            if condition(new, "Established").is_none() {
                let reason = ("NotAccepted", "not all names are accepted");
                set_condition(new, "Established", false, reason, now);
            }
        }
        None => drop(set_condition(new, "NamesAccepted", true, ("NoConflicts", "no conflicts found"), now)),
    }
}

fn short_names(names: &Value, accepted: &Value, used: &HashSet<&str>) -> Option<String> {
    let ours: Vec<&Value> = items(accepted, "shortNames").collect();
    let new = items(names, "shortNames").filter(|name| !ours.contains(name));
    let taken: Vec<String> = new
        .filter(|name| used.contains(text(name)))
        .map(|name| format!("{name} is already in use"))
        .collect();
    match taken.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

fn set(names: &mut Value, field: &str, value: &Value) {
    let Some(names) = names.as_object_mut() else { return };
    match value {
        Value::Null => drop(names.remove(field)),
        value => drop(names.insert(field.to_owned(), value.clone())),
    }
}

/// Sets the approval condition of definitions in groups of the Kubernetes community.
fn approve(new: &mut Value, now: &str) {
    if !is_protected(text(&new["spec"]["group"])) {
        return;
    }
    let annotation = text(&new["metadata"]["annotations"][API_APPROVED]).to_owned();
    let (status, reason, message) = match approval(new) {
        Approval::Missing => (
            false,
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation \"{}\", see https://github.com/kubernetes/enhancements/pull/1111",
                API_APPROVED
            ),
        ),
        Approval::Bypassed => (false, "UnapprovedAnnotation", format!("not approved: {annotation:?}")),
        Approval::Given => (true, "ApprovedAnnotation", format!("approved in {annotation}")),
        Approval::Invalid => (
            false,
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation \"{}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
                API_APPROVED
            ),
        ),
    };
    set_condition(new, "KubernetesAPIApprovalPolicyConformant", status, (reason, &message), now);
}
