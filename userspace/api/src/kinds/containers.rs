//! Pods and what is made of pod templates: defaults and validation of the pod specification.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::value::{items, items_mut, set_default};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) fn default_pod(pod: &mut Value) {
    default_spec(&mut pod["spec"]);
    set_default(&mut pod["spec"], "enableServiceLinks", true);
    // Requests follow limits only in a pod, so that a template shows what its author wrote.
    for list in ["initContainers", "containers"] {
        for container in items_mut(&mut pod["spec"], list) {
            let limits = container["resources"]["limits"].clone();
            for (name, value) in limits.as_object().into_iter().flatten() {
                if container["resources"]["requests"].is_null() {
                    container["resources"]["requests"] = json!({});
                }
                set_default(&mut container["resources"]["requests"], name, value.clone());
            }
        }
    }
    if pod.get("status").is_none() {
        pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    }
}

pub(super) fn default_pod_template(object: &mut Value) {
    default_spec(&mut object["template"]["spec"]);
}

/// Defaults of a pod specification, in a pod or in a template.
pub(super) fn default_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
    ] {
        set_default(spec, field, value);
    }
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).cloned();
    if let Some(account) = account {
        set_default(spec, "serviceAccountName", account.clone());
        spec["serviceAccount"] = account;
    }
    for list in CONTAINER_LISTS {
        items_mut(spec, list).for_each(default_container);
    }
    items_mut(spec, "volumes").for_each(default_volume);
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        set_default(constraint, "nodeAffinityPolicy", "Honor");
        set_default(constraint, "nodeTaintsPolicy", "Ignore");
    }
    for toleration in items_mut(spec, "tolerations") {
        if toleration.get("key").is_some() && toleration.get("operator").is_none() {
            toleration["operator"] = "Equal".into();
        }
    }
}

fn default_container(container: &mut Value) {
    set_default(container, "resources", json!({}));
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    let policy =
        if pulls_always(container["image"].as_str().unwrap_or_default()) { "Always" } else { "IfNotPresent" };
    set_default(container, "imagePullPolicy", policy);
    for port in items_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
    }
    for env in items_mut(container, "env") {
        if let Some(field) = env.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            set_default(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                set_default(probe, field, value);
            }
            default_action(probe);
        }
    }
    for name in ["postStart", "preStop"] {
        if let Some(handler) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(name)) {
            default_action(handler);
        }
    }
}

fn default_action(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        set_default(grpc, "service", "");
    }
}

/// An image without a tag, or tagged latest, may have changed.
fn pulls_always(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|fields| fields.keys().any(|key| key != "name"));
    if !has_source {
        set_default(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            set_default(source, "defaultMode", 420);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object()) {
        set_default(path, "type", "");
    }
    for field in volume.get_mut("downwardAPI").into_iter().flat_map(|api| items_mut(api, "items")) {
        default_field_ref(field);
    }
    for source in
        volume.get_mut("projected").into_iter().flat_map(|projected| items_mut(projected, "sources"))
    {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            set_default(token, "expirationSeconds", 3600);
        }
        for field in source.get_mut("downwardAPI").into_iter().flat_map(|api| items_mut(api, "items")) {
            default_field_ref(field);
        }
    }
}

fn default_field_ref(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef").filter(|field| field.is_object()) {
        set_default(field, "apiVersion", "v1");
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, as the specification's resources say.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = items(spec, "containers").chain(items(spec, "initContainers")).collect();
    let set = |container: &Value, list: &str| {
        ["cpu", "memory"].iter().any(|name| !container["resources"][list][*name].is_null())
    };
    if !containers.iter().any(|c| set(c, "requests") || set(c, "limits")) {
        return "BestEffort";
    }
    let guaranteed = |container: &Value| {
        ["cpu", "memory"].iter().all(|name| {
            let quantity = |list: &str| parse_quantity(&container["resources"][list][*name]);
            matches!((quantity("limits"), quantity("requests")), (Some(limit), Some(request)) if limit == request)
        })
    };
    if containers.iter().all(|c| guaranteed(c)) { "Guaranteed" } else { "Burstable" }
}

fn parse_quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

pub(super) fn validate_pod(pod: &Value, errors: &mut Errors) {
    validate_spec(&pod["spec"], &Path::new("spec"), &["Always", "OnFailure", "Never"], errors);
}

/// Validates a pod specification; `restart` lists the policies that its owner allows.
pub(super) fn validate_spec(spec: &Value, path: &Path, restart: &[&str], errors: &mut Errors) {
    if spec.is_null() {
        return;
    }
    let volumes: Vec<&str> = items(spec, "volumes").filter_map(|volume| volume["name"].as_str()).collect();
    validate_volumes(spec, path, errors);
    if items(spec, "containers").next().is_none() {
        errors.required(&path.child("containers"), "");
    }
    let mut names = Vec::new();
    for list in CONTAINER_LISTS {
        for (i, container) in items(spec, list).enumerate() {
            let at = path.child(list).index(i);
            validate_container(container, &at, &volumes, errors);
            let name = container["name"].as_str().unwrap_or_default();
            if !name.is_empty() && names.contains(&name) {
                errors.duplicate(&at.child("name"), &container["name"]);
            }
            names.push(name);
        }
    }
    one_of(spec, "restartPolicy", path, restart, errors);
    one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        errors.invalid(&at, &spec["terminationGracePeriodSeconds"], "must be greater than or equal to 0");
    }
    names::validate_labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
}

fn validate_volumes(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (i, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(i).child("name");
        match volume["name"].as_str() {
            None | Some("") => errors.required(&at, ""),
            Some(name) if seen.contains(&name) => errors.duplicate(&at, &volume["name"]),
            Some(name) => {
                if let Some(problem) = names::name_problem(name, names::NameForm::Label) {
                    errors.invalid(&at, &volume["name"], problem);
                }
                seen.push(name);
            }
        }
    }
}

fn validate_container(container: &Value, path: &Path, volumes: &[&str], errors: &mut Errors) {
    match container["name"].as_str() {
        None | Some("") => errors.required(&path.child("name"), ""),
        Some(name) => {
            if let Some(problem) = names::name_problem(name, names::NameForm::Label) {
                errors.invalid(&path.child("name"), &container["name"], problem);
            }
        }
    }
    match container["image"].as_str() {
        None | Some("") => errors.required(&path.child("image"), ""),
        Some(image) if image.trim() != image => {
            errors.invalid(
                &path.child("image"),
                &container["image"],
                "must not have leading or trailing whitespace",
            );
        }
        Some(_) => {}
    }
    one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], errors);
    for (i, port) in items(container, "ports").enumerate() {
        let at = path.child("ports").index(i);
        for (field, least) in [("containerPort", 1), ("hostPort", 0)] {
            validate_port_number(&port[field], least, &at.child(field), field == "containerPort", errors);
        }
        one_of(port, "protocol", &at, &["TCP", "UDP", "SCTP"], errors);
    }
    for (i, env) in items(container, "env").enumerate() {
        let at = path.child("env").index(i);
        if env["name"].as_str().is_none_or(str::is_empty) {
            errors.required(&at.child("name"), "");
        }
        if env["value"].as_str().is_some_and(|v| !v.is_empty()) && !env["valueFrom"].is_null() {
            errors.invalid(
                &at.child("valueFrom"),
                &json!(""),
                "may not be specified when `value` is not empty",
            );
        }
    }
    for (i, mount) in items(container, "volumeMounts").enumerate() {
        let at = path.child("volumeMounts").index(i);
        let name = mount["name"].as_str().unwrap_or_default();
        if !volumes.contains(&name) {
            errors.0.push(crate::FieldError {
                field: at.child("name").to_string(),
                reason: "FieldValueNotFound",
                message: format!("Not found: \"{name}\""),
            });
        }
        if mount["mountPath"].as_str().is_none_or(str::is_empty) {
            errors.required(&at.child("mountPath"), "");
        }
    }
    validate_resources(&container["resources"], &path.child("resources"), errors);
}

fn validate_resources(resources: &Value, path: &Path, errors: &mut Errors) {
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            let at = path.child(list).key(name);
            match parse_quantity(value) {
                Some(quantity) if quantity.millis() < 0 => {
                    errors.invalid(&at, value, "must be greater than or equal to 0");
                }
                Some(quantity) if list == "requests" => {
                    let limit = parse_quantity(&resources["limits"][name]);
                    if limit.is_some_and(|limit| quantity > limit) {
                        let detail = format!(
                            "must be less than or equal to {name} limit of {}",
                            plain(&resources["limits"][name])
                        );
                        errors.invalid(&path.child("requests"), value, &detail);
                    }
                }
                Some(_) | None => {}
            }
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn validate_port_number(
    port: &Value,
    least: i64,
    path: &Path,
    required: bool,
    errors: &mut Errors,
) {
    match port.as_i64() {
        None if required => errors.required(path, ""),
        Some(number) if !(least..=65535).contains(&number) => {
            errors.invalid(path, port, "must be between 1 and 65535, inclusive");
        }
        _ => {}
    }
}

/// A field that is one of a few words, if it is there.
pub(super) fn one_of(object: &Value, field: &str, path: &Path, supported: &[&str], errors: &mut Errors) {
    if let Some(value) = object[field].as_str()
        && !supported.contains(&value)
    {
        errors.not_supported(&path.child(field), &object[field], supported);
    }
}

/// What may change in a pod: images, deadlines, tolerations added, scheduling gates removed, the node once.
pub(super) fn validate_pod_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut new, old) = (new["spec"].clone(), &old["spec"]);
    for list in ["containers", "initContainers"] {
        for (i, container) in items_mut(&mut new, list).enumerate() {
            container["image"] = old[list][i]["image"].clone();
            if container["image"].is_null()
                && let Some(fields) = container.as_object_mut()
            {
                fields.remove("image");
            }
        }
    }
    let Some(fields) = new.as_object_mut() else { return };
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
    {
        match old.get(field) {
            Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
            None => drop(fields.remove(field)),
        }
    }
    if new != *old {
        errors.forbidden(
            &Path::new("spec"),
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}
