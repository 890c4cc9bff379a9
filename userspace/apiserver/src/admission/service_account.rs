//! ServiceAccount: the pod's account must exist; its token is mounted unless the pod or the account disables that.

use std::time::Duration;

use serde_json::{Value, json};
use skep_api::{Status, meta};

use super::request::{Operation, Request};
use crate::generated_name::generate_name;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
/// A controller creates the account `default` of a new namespace: number of attempts to find it, and the pause between.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    if !request.creates("", "pods") {
        return Ok(());
    }
    if is_mirror(pod) {
        return check_mirror(pod).map_err(|why| request.forbidden(pod, why));
    }
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "default".to_owned(),
    };
    pod["spec"]["serviceAccountName"] = name.as_str().into();
    pod["spec"]["serviceAccount"] = name.as_str().into();
    for _ in 1..TRIES {
        if name != "default" || find(request, &name).await?.is_some() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let account = find(request, &name).await?.ok_or_else(|| missing(request, pod, &name))?;
    let says = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if says(&pod["spec"]).or_else(|| says(&account)).unwrap_or(true) {
        mount_token(pod);
    }
    let secrets = account["imagePullSecrets"].as_array().filter(|secrets| !secrets.is_empty());
    if let Some(secrets) = secrets
        && pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
    {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
    Ok(())
}

/// Webhooks may have named another account; some accounts allow no secrets but their own.
pub(super) async fn validate(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    let debugged = request.is_resource("", "pods") && request.subresource() == "ephemeralcontainers";
    let of_update = debugged && request.operation == Operation::Update;
    if !request.creates("", "pods") && !of_update {
        return Ok(());
    }
    if is_mirror(pod) {
        return check_mirror(pod).map_err(|why| request.forbidden(pod, why));
    }
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if name.is_empty() {
        let why = format!("no service account specified for pod {}/{}", request.namespace(), meta::name(pod));
        return Err(request.forbidden(pod, why));
    }
    let account = find(request, name).await?.ok_or_else(|| missing(request, pod, name))?;
    if account["metadata"]["annotations"][ENFORCED] != "true" {
        return Ok(());
    }
    let lists: &[(&str, &str)] = if debugged {
        &[("ephemeralContainers", "ephemeral container")]
    } else {
        &[("initContainers", "init container"), ("containers", "container")]
    };
    check_secrets(pod, &account, lists, debugged).map_err(|why| request.forbidden(pod, why))
}

async fn find(request: &Request<'_>, name: &str) -> Result<Option<Value>, Status> {
    let found = request.required(("", "v1", "serviceaccounts"), request.namespace(), name).await?;
    Ok(found.map(|account| account.value()))
}

fn missing(request: &Request<'_>, pod: &Value, name: &str) -> Status {
    let namespace = request.namespace();
    let why =
        format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
    request.forbidden(pod, why)
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][MIRROR].is_string()
}

fn each<'a>(object: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    object[list].as_array().into_iter().flatten()
}

/// A mirror pod must not refer to objects of the cluster.
fn check_mirror(pod: &Value) -> Result<(), String> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err("a mirror pod may not reference service accounts".to_owned());
    }
    let sources = || each(spec, "volumes").flat_map(|volume| each(&volume["projected"], "sources"));
    let containers =
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| each(spec, list));
    let from_secret = containers.into_iter().any(|container| {
        each(container, "env").any(|env| !env["valueFrom"]["secretKeyRef"].is_null())
            || each(container, "envFrom").any(|from| !from["secretRef"].is_null())
    });
    let secret = from_secret
        || each(spec, "volumes").any(|volume| !volume["secret"].is_null())
        || sources().any(|source| !source["secret"].is_null())
        || each(spec, "imagePullSecrets").next().is_some();
    if secret {
        return Err("a mirror pod may not reference secrets".to_owned());
    }
    if sources().any(|source| !source["serviceAccountToken"].is_null()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".to_owned());
    }
    Ok(())
}

fn check_secrets(
    pod: &Value,
    account: &Value,
    lists: &[(&str, &str)],
    containers_only: bool,
) -> Result<(), String> {
    let owner = meta::name(account);
    let listed = |field: &str, name: &Value| each(account, field).any(|secret| secret["name"] == *name);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refuse = |what: String, secret: &Value| {
        Err(format!(
            "{what} secret.secretName=\"{}\" is not allowed because service account {owner} does not reference that secret",
            text(secret)
        ))
    };
    for volume in
        each(&pod["spec"], "volumes").filter(|volume| !containers_only && !volume["secret"].is_null())
    {
        let secret = &volume["secret"]["secretName"];
        if !listed("secrets", secret) {
            return refuse("volume with".to_owned(), secret);
        }
    }
    for (list, title) in lists {
        for container in each(&pod["spec"], list) {
            let title = format!("{title} {}", text(&container["name"]));
            for env in each(container, "env") {
                let secret = &env["valueFrom"]["secretKeyRef"]["name"];
                if !secret.is_null() && !listed("secrets", secret) {
                    return refuse(format!("{title} with envVar {} referencing", text(&env["name"])), secret);
                }
            }
            for from in each(container, "envFrom") {
                let secret = &from["secretRef"]["name"];
                if !secret.is_null() && !listed("secrets", secret) {
                    return refuse(format!("{title} with envFrom referencing"), secret);
                }
            }
        }
    }
    for (i, secret) in each(&pod["spec"], "imagePullSecrets").enumerate().filter(|_| !containers_only) {
        if !listed("imagePullSecrets", &secret["name"]) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{}\" is not allowed because service account {owner} does not reference that imagePullSecret",
                text(&secret["name"])
            ));
        }
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let present = each(&pod["spec"], "volumes")
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME))
        .map(str::to_owned);
    let volume = present.clone().unwrap_or_else(|| generate_name(VOLUME));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if each(container, "volumeMounts").any(|mount| mount["mountPath"] == TOKEN_PATH) {
                continue;
            }
            push(
                container,
                "volumeMounts",
                json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}),
            );
            mounted = true;
        }
    }
    if !mounted || present.is_some() {
        return;
    }
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]);
    push(
        &mut pod["spec"],
        "volumes",
        json!({"name": volume, "projected": {"defaultMode": 420, "sources": sources}}),
    );
}

fn push(object: &mut Value, list: &str, item: Value) {
    if !object[list].is_array() {
        object[list] = json!([]);
    }
    if let Some(items) = object[list].as_array_mut() {
        items.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once_and_not_over_a_mount() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": TOKEN_PATH}]}]}});
        mount_token(&mut pod);
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["name"],
            pod["spec"]["volumes"][0]["name"]
        );
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn mirror_pods_have_nothing_of_the_cluster() {
        for (spec, wanted) in [
            (json!({}), None),
            (json!({"serviceAccountName": "x"}), Some("service accounts")),
            (json!({"volumes": [{"secret": {"secretName": "x"}}]}), Some("secrets")),
            (json!({"containers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]}), Some("secrets")),
            (
                json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
                Some("ServiceAccountToken"),
            ),
        ] {
            let why = check_mirror(&json!({"spec": spec})).err();
            assert_eq!(why.is_some(), wanted.is_some(), "{spec}");
            assert!(why.is_none_or(|why| why.contains(wanted.unwrap())), "{spec}");
        }
    }

    #[test]
    fn an_account_may_allow_only_its_own_secrets() {
        let account = json!({"metadata": {"name": "a"}, "secrets": [{"name": "mine"}]});
        let lists = [("containers", "container")];
        let env = |name: &str| json!({"spec": {"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": name}}}]}]}});
        assert_eq!(check_secrets(&env("mine"), &account, &lists, false), Ok(()));
        assert_eq!(
            check_secrets(&env("other"), &account, &lists, false).unwrap_err(),
            "container c with envVar E referencing secret.secretName=\"other\" is not allowed because service account a does not reference that secret"
        );
        let pulls = json!({"spec": {"imagePullSecrets": [{"name": "p"}]}});
        assert!(
            check_secrets(&pulls, &account, &lists, false)
                .unwrap_err()
                .starts_with("imagePullSecrets[0].name=\"p\"")
        );
    }
}
