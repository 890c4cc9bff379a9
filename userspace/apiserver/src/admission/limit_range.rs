//! LimitRange: default requests and limits of containers; bounds for containers, pods and claims.

use serde_json::{Value, json};
use skep_api::Status;
use skep_api::quantity::Quantity;
use skep_api::resources::{Resources, Side, of_spec};

use super::request::{Operation, Request};

const NOTE: &str = "kubernetes.io/limit-ranger";

/// The ranges of the request's namespace if they apply to the request.
fn ranges(request: &Request<'_>) -> Vec<Value> {
    let of_pod = request.creates("", "pods")
        || request.is_resource("", "pods")
            && request.subresource() == "resize"
            && request.operation == Operation::Update;
    let going = request.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
    if !of_pod && !request.is("", "persistentvolumeclaims") || going {
        return Vec::new();
    }
    request.list("", "v1", "limitranges", request.namespace()).iter().map(|range| range.value()).collect()
}

pub(super) fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    if request.is_resource("", "pods") {
        for range in ranges(request) {
            set_defaults(&range, object);
        }
    }
    Ok(())
}

pub(super) fn validate(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    for range in ranges(request) {
        let problems = problems(&range, &request.kind().plural, object);
        let message = match problems.as_slice() {
            [] => continue,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(request.forbidden(object, message));
    }
    Ok(())
}

fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range["spec"]["limits"].as_array().into_iter().flatten().filter(move |limit| limit["type"] == kind)
}

fn set_defaults(range: &Value, pod: &mut Value) {
    let (mut requests, mut most) = (Resources::default(), Resources::default());
    for limit in limits(range, "Container") {
        requests.0.extend(Resources::of(&limit["defaultRequest"]).0);
        most.0.extend(Resources::of(&limit["default"]).0);
    }
    let mut notes = Vec::new();
    for (list, title) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            for (side, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &most)] {
                let set = fill(&mut container["resources"], side, defaults);
                if !set.is_empty() {
                    let name = container["name"].as_str().unwrap_or_default();
                    notes.push(format!("{} {word} for {title} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        pod["metadata"]["annotations"][NOTE] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

/// Sets missing requests and limits; returns the names of those set.
fn fill(resources: &mut Value, side: &str, defaults: &Resources) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in &defaults.0 {
        if resources[side].get(name).is_none_or(Value::is_null) {
            if !resources[side].is_object() {
                resources[side] = json!({});
            }
            resources[side][name] = amount.to_string().into();
            set.push(name.clone());
        }
    }
    set
}

/// Checks the requests and limits of one object against the bounds for its type.
struct Bounded<'a> {
    kind: &'a str,
    requests: Resources,
    limits: Resources,
}

fn problems(range: &Value, plural: &str, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &object["spec"];
    if plural == "persistentvolumeclaims" {
        let requests = Resources::of(&spec["resources"]["requests"]);
        let claim = Bounded { kind: "PersistentVolumeClaim", requests, limits: Resources::default() };
        for limit in limits(range, claim.kind) {
            each(&limit["min"], |name, least| claim.at_least(name, least), &mut found);
            each(&limit["max"], |name, most| claim.requests_at_most(name, most), &mut found);
        }
        return found;
    }
    for limit in limits(range, "Container") {
        for container in
            ["containers", "initContainers"].iter().flat_map(|list| spec[*list].as_array()).flatten()
        {
            let side = |side: &str| Resources::of(&container["resources"][side]);
            let container = Bounded { kind: "Container", requests: side("requests"), limits: side("limits") };
            container.within(limit, &mut found);
        }
    }
    for limit in limits(range, "Pod") {
        let (requests, limits) = (of_spec(spec, Side::Requests), of_spec(spec, Side::Limits));
        Bounded { kind: "Pod", requests, limits }.within(limit, &mut found);
    }
    found
}

fn each(bounds: &Value, check: impl Fn(&str, Quantity) -> Option<String>, found: &mut Vec<String>) {
    found.extend(Resources::of(bounds).0.iter().filter_map(|(name, bound)| check(name, *bound)));
}

impl Bounded<'_> {
    fn within(&self, limit: &Value, found: &mut Vec<String>) {
        each(&limit["min"], |name, least| self.at_least(name, least), found);
        each(&limit["max"], |name, most| self.at_most(name, most), found);
        each(&limit["maxLimitRequestRatio"], |name, ratio| self.in_ratio(name, ratio), found);
    }

    fn at_least(&self, name: &str, least: Quantity) -> Option<String> {
        let head = format!("minimum {name} usage per {} is {least}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{head}.  No request is specified")),
            (Some(request), _) if request < least => Some(format!("{head}, but request is {request}")),
            (_, Some(limit)) if limit < least => Some(format!("{head}, but limit is {limit}")),
            _ => None,
        }
    }

    fn at_most(&self, name: &str, most: Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {most}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => Some(format!("{head}.  No limit is specified")),
            (_, Some(limit)) if limit > most => Some(format!("{head}, but limit is {limit}")),
            (Some(request), _) if request > most => Some(format!("{head}, but request is {request}")),
            _ => None,
        }
    }

    fn requests_at_most(&self, name: &str, most: Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {most}", self.kind);
        match self.requests.get(name) {
            None => Some(format!("{head}.  No request is specified")),
            Some(request) if request > most => Some(format!("{head}, but request is {request}")),
            Some(_) => None,
        }
    }

    fn in_ratio(&self, name: &str, ratio: Quantity) -> Option<String> {
        let head = format!("{name} max limit to request ratio per {} is {ratio}", self.kind);
        let some = |list: &Resources| list.get(name).filter(|amount| !amount.is_zero());
        let Some(request) = some(&self.requests) else {
            return Some(format!("{head}, but no request is specified or request is 0"));
        };
        let Some(limit) = some(&self.limits) else {
            return Some(format!("{head}, but no limit is specified or limit is 0"));
        };
        let found = limit.millis() as f64 / request.millis() as f64;
        let over = found * 1000.0 > ratio.millis() as f64;
        over.then(|| format!("{head}, but provided ratio is {found:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn what_is_not_said_is_filled_in_and_noted() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut object = pod(json!({"limits": {"memory": "2Gi"}}));
        set_defaults(&range, &mut object);
        let wanted = json!({"limits": {"memory": "2Gi", "cpu": "1"}, "requests": {"cpu": "100m"}});
        assert_eq!(object["spec"]["containers"][0]["resources"], wanted);
        assert_eq!(
            object["metadata"]["annotations"][NOTE],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
        let before = object.clone();
        set_defaults(&range, &mut object);
        assert_eq!(object, before, "a second time changes nothing");
    }

    fn assert_problems(plural: &str, rows: &[(Value, Value, &str)]) {
        for (limit, object, wanted) in rows {
            assert_eq!(problems(&range(limit.clone()), plural, object).join(", "), *wanted, "{limit}");
        }
    }

    #[test]
    fn bounds_of_pods_have_upstreams_words() {
        let asks =
            |request: &str, limit: &str| pod(json!({"requests": {"cpu": request}, "limits": {"cpu": limit}}));
        let rows = [
            (
                json!({"type": "Container", "min": {"cpu": "1"}}),
                asks("500m", "2"),
                "minimum cpu usage per Container is 1, but request is 500m",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "1"}}),
                pod(json!({})),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                asks("500m", "2"),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                pod(json!({})),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "1500m"}}),
                asks("1", "2"),
                "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}}),
                asks("1", "2"),
                "maximum cpu usage per Pod is 1, but limit is 2",
            ),
            (json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}}), asks("1", "2"), ""),
            (
                json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "1"}}),
                asks("1", "2"),
                "minimum cpu usage per Container is 3, but request is 1, maximum cpu usage per Container is 1, but limit is 2",
            ),
        ];
        assert_problems("pods", &rows);
    }

    #[test]
    fn bounds_of_claims_have_upstreams_words() {
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let rows = [
            (
                json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}),
                claim("2Gi"),
                "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi",
            ),
            (json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}), claim("1Gi"), ""),
        ];
        assert_problems("persistentvolumeclaims", &rows);
    }
}
