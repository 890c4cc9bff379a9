//! Which objects of the API a pod needs. Static pods and their mirrors may need none (KEP-1314).

use serde_json::Value;

use crate::value::{items, text};

/// What a source of variables or files names, and the plural of its kind.
const NAMED: [(&str, &str); 9] = [
    ("secretKeyRef", "secrets"),
    ("secretRef", "secrets"),
    ("secret", "secrets"),
    ("configMapKeyRef", "configmaps"),
    ("configMapRef", "configmaps"),
    ("configMap", "configmaps"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("serviceAccountToken", "serviceaccounts"),
    ("clusterTrustBundle", "clustertrustbundles"),
];

/// The first kind of object that the pod names, as its plural.
pub fn object_reference(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if !text(&spec["serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if items(spec, "imagePullSecrets").next().is_some() {
        return Some("secrets");
    }
    if items(spec, "resourceClaims").next().is_some() {
        return Some("resourceclaims");
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = || lists.iter().flat_map(|list| items(spec, list));
    let variables = containers().flat_map(|c| items(c, "env").map(|env| &env["valueFrom"]));
    let sets = containers().flat_map(|c| items(c, "envFrom"));
    let volumes = items(spec, "volumes").flat_map(|v| items(&v["projected"], "sources").chain([v]));
    let sources: Vec<&Value> = variables.chain(sets).chain(volumes).collect();
    let has = |field: &str| sources.iter().any(|source| !source[field].is_null());
    NAMED.iter().find(|(field, _)| has(field)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_names_is_found() {
        let volume = |source: &str| json!({"spec": {"volumes": [{"name": "v", source: {}}]}});
        assert_eq!(object_reference(&volume("emptyDir")), None);
        assert_eq!(object_reference(&volume("configMap")), Some("configmaps"));
        assert_eq!(object_reference(&volume("persistentVolumeClaim")), Some("persistentvolumeclaims"));
        let env = json!({"spec": {"containers": [{"env": [{"valueFrom": {"secretKeyRef": {}}}]}]}});
        assert_eq!(object_reference(&env), Some("secrets"));
    }
}
