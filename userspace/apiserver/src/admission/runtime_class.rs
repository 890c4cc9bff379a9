//! RuntimeClass: copies the overhead and the scheduling constraints of a pod's runtime class into the pod.

use serde_json::{Value, json};
use skep_api::Status;
use skep_api::resources::Resources;

use super::request::Request;

pub(super) async fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    match class_of(request, pod).await? {
        Some(class) => set(pod, &class).map_err(|why| request.forbidden(pod, why)),
        None => Ok(()),
    }
}

pub(super) async fn validate(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    if !request.creates("", "pods") {
        return Ok(());
    }
    let class = class_of(request, pod).await?.unwrap_or_default();
    check_overhead(pod, &class["overhead"]).map_err(|why| request.forbidden(pod, why))
}

async fn class_of(request: &Request<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let name = &pod["spec"]["runtimeClassName"];
    let Some(name) = name.as_str().filter(|_| request.creates("", "pods")) else { return Ok(None) };
    match request.required(("node.k8s.io", "v1", "runtimeclasses"), "", name).await? {
        Some(class) => Ok(Some(class.value())),
        None => Err(request.forbidden(pod, format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

const DIFFERS: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn check_overhead(pod: &Value, overhead: &Value) -> Result<(), String> {
    let own = &pod["spec"]["overhead"];
    if overhead.is_null() {
        let none = own.is_null();
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return if none { Ok(()) } else { Err(why.to_owned()) };
    }
    let same = Resources::of(own) == Resources::of(&overhead["podFixed"]);
    if same { Ok(()) } else { Err(DIFFERS.to_owned()) }
}

fn set(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = &mut pod["spec"];
    let overhead = &class["overhead"];
    if !overhead.is_null() {
        let own = Resources::of(&spec["overhead"]);
        if !own.is_empty() && own != Resources::of(&overhead["podFixed"]) {
            return Err(DIFFERS.to_owned());
        }
        if !overhead["podFixed"].is_null() {
            spec["overhead"] = overhead["podFixed"].clone();
        }
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        let own = &spec["nodeSelector"][key];
        if !own.is_null() && own != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(own)
            ));
        }
        spec["nodeSelector"][key] = value.clone();
    }
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        if !spec["tolerations"].is_array() {
            spec["tolerations"] = json!([]);
        }
        if let Some(own) = spec["tolerations"].as_array_mut()
            && !own.contains(toleration)
        {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_adds_its_cost_and_its_place() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]},
        });
        let mut pod = json!({"spec": {"nodeSelector": {"x": "y"}}});
        set(&mut pod, &class).unwrap();
        let wanted = json!({"nodeSelector": {"x": "y", "a": "b"}, "overhead": {"cpu": "1"}, "tolerations": [{"key": "k"}]});
        assert_eq!(pod["spec"], wanted);
        set(&mut pod, &class).unwrap();
        assert_eq!(pod["spec"], wanted);
        assert_eq!(check_overhead(&pod, &class["overhead"]), Ok(()));
        let mut other = json!({"spec": {"overhead": {"cpu": "2"}}});
        assert_eq!(set(&mut other, &class), Err(DIFFERS.to_owned()));
        assert!(check_overhead(&other, &Value::Null).is_err());
        let mut elsewhere = json!({"spec": {"nodeSelector": {"a": "c"}}});
        let why = set(&mut elsewhere, &class).unwrap_err();
        assert_eq!(
            why,
            "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"
        );
    }
}
