//! Priority: sets a pod's priority from its class, and allows at most one default class.

use serde_json::{Value, json};
use skep_api::{Status, meta};

use super::request::{Operation, Request};

const CLASSES: (&str, &str, &str) = ("scheduling.k8s.io", "v1", "priorityclasses");

pub(super) async fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    if !request.is("", "pods") {
        return Ok(());
    }
    match request.old {
        None => {
            let class = class_of(request, pod).await?;
            set(pod, class.as_ref()).map_err(|why| request.forbidden(pod, why))
        }
        Some(old) => {
            keep(pod, old);
            Ok(())
        }
    }
}

/// An update by a client that does not know the fields keeps them.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
            pod["spec"][field] = old["spec"][field].clone();
        }
    }
}

async fn class_of(request: &Request<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    match pod["spec"]["priorityClassName"].as_str() {
        Some(name) if !name.is_empty() => match request.required(CLASSES, "", name).await? {
            Some(class) => Ok(Some(class.value())),
            None => Err(request.forbidden(pod, format!("no PriorityClass with name {name} was found"))),
        },
        _ => Ok(default_class(request)),
    }
}

/// The lowest default class: a race may have created several.
fn default_class(request: &Request<'_>) -> Option<Value> {
    let (group, version, plural) = CLASSES;
    let all = request.list(group, version, plural, "");
    let defaults = all.iter().map(|class| class.value()).filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64())
}

fn set(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let value = class.map_or(json!(0), |class| class["value"].clone());
    let policy = class.map_or(json!("PreemptLowerPriority"), |class| class["preemptionPolicy"].clone());
    let spec = &mut pod["spec"];
    if !spec["priority"].is_null() && spec["priority"] != value {
        return Err(format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
            spec["priority"]
        ));
    }
    if let (Some(given), Some(policy)) = (spec["preemptionPolicy"].as_str(), policy.as_str())
        && given != policy
    {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec["priorityClassName"] = meta::name(class).into();
    }
    spec["priority"] = value;
    if !policy.is_null() {
        spec["preemptionPolicy"] = policy;
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>, class: &Value) -> Result<(), Status> {
    if !request.is(CLASSES.0, CLASSES.2) || class["globalDefault"] != true {
        return Ok(());
    }
    let Some(present) = default_class(request) else { return Ok(()) };
    let name = meta::name(&present);
    if request.operation == Operation::Update && name == meta::name(class) {
        return Ok(());
    }
    let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
    Err(request.forbidden(class, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_its_class_number_and_may_not_name_another() {
        let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
        let mut pod = json!({"spec": {"priorityClassName": "high"}});
        set(&mut pod, Some(&class)).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
        );
        set(&mut pod, Some(&class)).unwrap();
        let mut plain = json!({"spec": {}});
        set(&mut plain, None).unwrap();
        assert_eq!(plain["spec"], json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
        for (field, value, wanted) in [
            ("priority", json!(5), "the integer value of priority (5) must not be provided"),
            (
                "preemptionPolicy",
                json!("Never"),
                "the string value of PreemptionPolicy (Never) must not be provided",
            ),
        ] {
            let mut pod = json!({"spec": {field: value}});
            let why = set(&mut pod, None).unwrap_err();
            assert!(why.starts_with(wanted), "{why}");
        }
    }
}
