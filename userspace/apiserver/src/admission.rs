//! Built-in admission: what the server adds to or refuses of objects beyond their kind's own rules.

use serde_json::{Value, json};
use skep_api::{Kind, Status, find, meta};

use crate::http::Call;
use crate::object::prefix;
use crate::write;

/// Namespaces that must not go away.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long a pod stays on a node that is not ready or not reachable (DefaultTolerationSeconds).
const TOLERATION_SECONDS: i64 = 300;

pub(crate) async fn on_create(call: &Call, object: &mut Value) -> Result<(), Status> {
    let kind = call.target.kind;
    if kind.namespaced() {
        namespace_lives(call, kind, object)?;
    }
    call.server.caches.access().check_grant(&call.attributes("create"), object)?;
    match (kind.group, kind.kind) {
        ("", "Pod") => admit_pod(call, object),
        ("", "Service") => call.server.allocator.assign(object, None),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            record_requestor(call, object);
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(crate) fn on_update(call: &Call, new: &mut Value, old: &Value) -> Result<(), Status> {
    let kind = call.target.kind;
    call.server.caches.access().check_grant(&call.attributes("update"), new)?;
    match (kind.group, kind.kind) {
        ("", "Service") => call.server.allocator.assign(new, Some(old)),
        _ => Ok(()),
    }
}

/// Nothing is created in a namespace that is missing or going away.
fn namespace_lives(call: &Call, kind: &Kind, object: &Value) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    let Some(namespaces) = find("", "v1", "namespaces") else { return Ok(()) };
    let found = write::find(&call.server, namespaces, "", namespace)?;
    if found.selectable["status"]["phase"] != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    Err(Status::forbidden(kind.group, kind.plural, meta::name(object), why))
}

pub(crate) fn check_namespace_delete(name: &str) -> Result<(), Status> {
    if IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    Ok(())
}

fn record_requestor(call: &Call, object: &mut Value) {
    let identity = &call.identity;
    let spec = &mut object["spec"];
    spec["username"] = identity.user.as_str().into();
    spec["groups"] = json!(identity.groups);
    if !identity.uid.is_empty() {
        spec["uid"] = identity.uid.as_str().into();
    }
}

fn admit_pod(call: &Call, pod: &mut Value) -> Result<(), Status> {
    set_priority(call, pod)?;
    set_tolerations(pod);
    set_service_account(call, pod)
}

/// The number behind the class; the default class, or 0, for a pod that names none.
fn set_priority(call: &Call, pod: &mut Value) -> Result<(), Status> {
    let Some(classes) = find("scheduling.k8s.io", "v1", "priorityclasses") else { return Ok(()) };
    let class = match pod["spec"]["priorityClassName"].as_str() {
        Some(name) if !name.is_empty() => {
            Some(write::find(&call.server, classes, "", name).map_err(|_| {
                let why = format!("no PriorityClass with name {name} was found");
                Status::forbidden("", "pods", meta::name(pod), why)
            })?)
        }
        _ => {
            let all = call.server.caches.of(classes).map(|resource| resource.list(&prefix(classes)));
            all.into_iter().flatten().find(|class| class.value()["globalDefault"] == true)
        }
    };
    let class = class.map(|class| class.value());
    let value = class.as_ref().map_or(json!(0), |class| class["value"].clone());
    let preemption =
        class.as_ref().map_or(json!("PreemptLowerPriority"), |class| class["preemptionPolicy"].clone());
    if let Some(class) = class {
        pod["spec"]["priorityClassName"] = meta::name(&class).into();
    }
    pod["spec"]["priority"] = value;
    if pod["spec"]["preemptionPolicy"].is_null() {
        pod["spec"]["preemptionPolicy"] = preemption;
    }
    Ok(())
}

fn set_tolerations(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let all = pod["spec"]["tolerations"].as_array().into_iter().flatten();
        let mut relevant = all.filter(|toleration| {
            let effect = &toleration["effect"];
            (toleration["key"] == key || toleration["key"].as_str().is_none_or(str::is_empty))
                && (effect.is_null() || effect == "" || effect == "NoExecute")
        });
        if relevant.next().is_some() {
            continue;
        }
        if !pod["spec"]["tolerations"].is_array() {
            pod["spec"]["tolerations"] = json!([]);
        }
        if let Some(list) = pod["spec"]["tolerations"].as_array_mut() {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}));
        }
    }
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The pod's account must be there; its token is mounted unless the pod or the account says no.
fn set_service_account(call: &Call, pod: &mut Value) -> Result<(), Status> {
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Ok(());
    }
    let namespace = meta::namespace(pod).to_owned();
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    pod["spec"]["serviceAccountName"] = name.as_str().into();
    pod["spec"]["serviceAccount"] = name.as_str().into();
    let Some(accounts) = find("", "v1", "serviceaccounts") else { return Ok(()) };
    let account = write::find(&call.server, accounts, &namespace, &name).map_err(|_| {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        Status::forbidden("", "pods", meta::name(pod), why)
    })?;
    let account = account.value();
    let wanted = [&pod["spec"], &account]
        .iter()
        .find_map(|object| object["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if wanted {
        mount_token(pod);
    }
    if let Some(secrets) =
        account.get("imagePullSecrets").filter(|_| pod["spec"]["imagePullSecrets"].is_null())
    {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let suffix: String = uuid::Uuid::new_v4().simple().to_string().chars().take(5).collect();
    let volume = format!("kube-api-access-{suffix}");
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let has = container["volumeMounts"]
                .as_array()
                .is_some_and(|all| all.iter().any(|m| m["mountPath"] == TOKEN_PATH));
            if has {
                continue;
            }
            if !container["volumeMounts"].is_array() {
                container["volumeMounts"] = json!([]);
            }
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                mounted = true;
            }
        }
    }
    if !mounted {
        return;
    }
    if !pod["spec"]["volumes"].is_array() {
        pod["spec"]["volumes"] = json!([]);
    }
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]);
    if let Some(volumes) = pod["spec"]["volumes"].as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": sources}}));
    }
}
