//! Defaults and validation of each kind: one row for each case, with upstream's messages.

use serde_json::{Value, json};

use super::{Kind, Part, find};
use crate::Errors;

fn kind(name: &str) -> &'static Kind {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [version, plural] => find("", version, plural),
        [group, version, plural] => find(group, version, plural),
        _ => None,
    }
    .unwrap_or_else(|| panic!("no kind {name}"))
}

fn object(kind: &Kind, rest: &Value) -> Value {
    let mut object =
        json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x", "uid": "u"}});
    if kind.namespaced() {
        object["metadata"]["namespace"] = "default".into();
    }
    for (field, value) in rest.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    kind.complete_new(&mut object);
    object
}

fn pod(restart: &str) -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i"}]}})
}

fn job(fields: Value) -> Value {
    let mut spec = json!({"template": pod("Never")});
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    spec
}

fn workload(fields: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": pod("Always")});
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"spec": spec})
}

fn ingress(path: Value) -> Value {
    json!({"spec": {"rules": [{"host": "a.example", "http": {"paths": [path]}}]}})
}

/// Kind, the fields beside its metadata, and the errors that are expected, each by its beginning.
type Refused = (&'static str, Value, &'static [&'static str]);

fn refused_jobs() -> Vec<Refused> {
    vec![
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"completions": -1}))}),
            &["spec.completions: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "batch/v1/jobs",
            json!({"spec": {"template": pod("Always")}}),
            &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
        ),
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"completionMode": "Indexed", "parallelism": 2}))}),
            &["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"backoffLimitPerIndex": 1}))}),
            &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
        ),
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"podFailurePolicy": {"rules": [{"action": "Ignore"}]}}))}),
            &[
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ],
        ),
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 1]}}]}}))}),
            &["spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered"],
        ),
        (
            "batch/v1/cronjobs",
            json!({"spec": {"schedule": "* * *", "jobTemplate": {"spec": job(json!({}))}}}),
            &["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"],
        ),
        (
            "batch/v1/cronjobs",
            json!({"spec": {"schedule": "TZ=UTC * * * * *", "jobTemplate": {"spec": job(json!({}))}}}),
            &[
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ],
        ),
        (
            "batch/v1/cronjobs",
            json!({"spec": {"schedule": "@daily", "concurrencyPolicy": "Maybe", "jobTemplate": {"spec": job(json!({}))}}}),
            &[
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ],
        ),
    ]
}

fn refused_scaling() -> Vec<Refused> {
    let scale = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
    vec![
        (
            "autoscaling/v2/horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": scale, "minReplicas": 3, "maxReplicas": 2}}),
            &["spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"],
        ),
        (
            "autoscaling/v2/horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": scale, "maxReplicas": 2, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]}}),
            &[
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ],
        ),
        (
            "autoscaling/v2/horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": scale, "maxReplicas": 2, "metrics": [{"type": "Pods"}]}}),
            &["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
        ),
        (
            "policy/v1/poddisruptionbudgets",
            json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            &[
                "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
            ],
        ),
        (
            "policy/v1/poddisruptionbudgets",
            json!({"spec": {"minAvailable": "150%"}}),
            &["spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%"],
        ),
    ]
}

fn refused_networking() -> Vec<Refused> {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    vec![
        (
            "networking.k8s.io/v1/ingresses",
            json!({"spec": {}}),
            &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
        ),
        (
            "networking.k8s.io/v1/ingresses",
            ingress(json!({"path": "a", "pathType": "Prefix", "backend": backend})),
            &["spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path"],
        ),
        (
            "networking.k8s.io/v1/ingresses",
            ingress(json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s"}}})),
            &["spec.rules[0].http.paths[0].backend: Required value: port name or number is required"],
        ),
        (
            "networking.k8s.io/v1/ingressclasses",
            json!({"spec": {"controller": "plain"}}),
            &[
                "spec.controller: Invalid value: \"plain\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ],
        ),
    ]
}

fn refused_storage() -> Vec<Refused> {
    vec![
        (
            "v1/persistentvolumes",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
            &["spec: Required value: must specify a volume type"],
        ),
        (
            "v1/persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"], "resources": {}}}),
            &[
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources[storage]: Required value",
            ],
        ),
        (
            "storage.k8s.io/v1/storageclasses",
            json!({"provisioner": "a.example/p", "volumeBindingMode": "Later"}),
            &[
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ],
        ),
        (
            "storage.k8s.io/v1/volumeattachments",
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {}}}),
            &[
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ],
        ),
    ]
}

fn refused_cluster_settings() -> Vec<Refused> {
    vec![
        (
            "scheduling.k8s.io/v1/priorityclasses",
            json!({"value": 1_000_000_001}),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        ),
        (
            "scheduling.k8s.io/v1/priorityclasses",
            json!({"value": 1, "preemptionPolicy": "Ask"}),
            &[
                "preemptionPolicy: Unsupported value: \"Ask\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ],
        ),
        (
            "node.k8s.io/v1/runtimeclasses",
            json!({"handler": "A_b"}),
            &["handler: Invalid value: \"A_b\": a lowercase RFC 1123 label"],
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1/flowschemas",
            json!({"spec": {"matchingPrecedence": 10_001, "priorityLevelConfiguration": {"name": "p"}}}),
            &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"spec": {"type": "Limited"}}),
            &["spec.limited: Required value: must not be empty when type is Limited"],
        ),
    ]
}

fn refused_workloads() -> Vec<Refused> {
    vec![
        (
            "apps/v1/statefulsets",
            workload(json!({"podManagementPolicy": "Wild"})),
            &["spec.podManagementPolicy: Invalid value: \"Wild\": must be 'OrderedReady' or 'Parallel'"],
        ),
        (
            "apps/v1/statefulsets",
            workload(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}})),
            &[
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"Partition\":1,\"MaxUnavailable\":null}: only allowed for updateStrategy 'RollingUpdate'",
            ],
        ),
        (
            "apps/v1/daemonsets",
            workload(
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}}),
            ),
            &[
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ],
        ),
        (
            "apps/v1/deployments",
            workload(json!({"progressDeadlineSeconds": 5, "minReadySeconds": 10})),
            &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
        ),
        (
            "apps/v1/deployments",
            workload(json!({"strategy": {"rollingUpdate": {"maxUnavailable": "a third"}}})),
            &[
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"a third\": a valid percent string",
            ],
        ),
    ]
}

#[test]
fn objects_are_refused_with_upstreams_words() {
    let rows = [
        refused_jobs(),
        refused_scaling(),
        refused_networking(),
        refused_storage(),
        refused_cluster_settings(),
        refused_workloads(),
    ];
    let mut failed = Vec::new();
    for (name, fields, wanted) in rows.into_iter().flatten() {
        let kind = kind(name);
        let found = kind.validate_create(&object(kind, &fields));
        failed.extend(difference(&found, wanted).map(|why| format!("{name} {fields}: {why}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// `None` if the errors begin as expected, one for one.
fn difference(found: &Errors, wanted: &[&str]) -> Option<String> {
    let found: Vec<String> = found.0.iter().map(ToString::to_string).collect();
    let same = found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(found, wanted)| found.starts_with(wanted));
    (!same).then(|| format!("wanted {wanted:#?}, found {found:#?}"))
}

#[test]
fn immutable_fields_are_refused() {
    let claim = |size: &str, mode: &str| json!({"spec": {"accessModes": [mode], "resources": {"requests": {"storage": size}}}});
    let class = |provisioner: &str| json!({"provisioner": provisioner});
    let rows: Vec<(&str, Value, Value, &[&str])> = vec![
        (
            "v1/persistentvolumeclaims",
            claim("1Gi", "ReadWriteOnce"),
            claim("1Gi", "ReadWriteMany"),
            &["spec: Forbidden: spec is immutable after creation except"],
        ),
        (
            "storage.k8s.io/v1/storageclasses",
            class("a.example/a"),
            class("a.example/b"),
            &["provisioner: Invalid value: \"a.example/b\": field is immutable"],
        ),
        (
            "node.k8s.io/v1/runtimeclasses",
            json!({"handler": "a"}),
            json!({"handler": "b"}),
            &["handler: Invalid value: \"b\": field is immutable"],
        ),
        (
            "apps/v1/statefulsets",
            workload(json!({"serviceName": "a"})),
            workload(json!({"serviceName": "b"})),
            &["spec: Forbidden: updates to statefulset spec for fields other than"],
        ),
        ("apps/v1/statefulsets", workload(json!({"replicas": 1})), workload(json!({"replicas": 2})), &[]),
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"completions": 1}))}),
            json!({"spec": job(json!({"completions": 2}))}),
            &["spec.completions: Invalid value: 2: field is immutable"],
        ),
    ];
    let mut failed = Vec::new();
    for (name, old, new, wanted) in rows {
        let kind = kind(name);
        let (old, new) = (object(kind, &old), object(kind, &new));
        let found = kind.validate_update(&new, &old, Part::Main);
        failed.extend(difference(&found, wanted).map(|why| format!("{name}: {why}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_status_has_the_numbers_that_its_type_always_has() {
    let kind = kind("apps/v1/daemonsets");
    let mut made = object(kind, &json!({}));
    kind.complete_new(&mut made);
    let wanted = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
    assert_eq!(made["status"], wanted);
}

/// Kind, the fields beside its metadata, a pointer, and the default that is expected there.
fn defaulted() -> Vec<(&'static str, Value, &'static str, Value)> {
    vec![
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"backoffLimitPerIndex": 1}))}),
            "/spec/backoffLimit",
            json!(i32::MAX),
        ),
        ("batch/v1/jobs", json!({"spec": job(json!({}))}), "/metadata/labels/a", json!("b")),
        (
            "batch/v1/jobs",
            json!({"spec": job(json!({"podFailurePolicy": {"rules": []}}))}),
            "/spec/podReplacementPolicy",
            json!("Failed"),
        ),
        (
            "autoscaling/v2/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 2}}),
            "/spec/metrics/0/resource/target/averageUtilization",
            json!(80),
        ),
        (
            "autoscaling/v2/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 2, "behavior": {}}}),
            "/spec/behavior/scaleUp/policies/1/value",
            json!(100),
        ),
        ("v1/persistentvolumes", json!({"spec": {}}), "/spec/persistentVolumeReclaimPolicy", json!("Retain")),
        ("v1/persistentvolumeclaims", json!({"spec": {}}), "/status/phase", json!("Pending")),
        ("storage.k8s.io/v1/storageclasses", json!({}), "/volumeBindingMode", json!("Immediate")),
        ("storage.k8s.io/v1/csidrivers", json!({"spec": {}}), "/spec/attachRequired", json!(true)),
        (
            "networking.k8s.io/v1/ingressclasses",
            json!({"spec": {"parameters": {}}}),
            "/spec/parameters/scope",
            json!("Cluster"),
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1/flowschemas",
            json!({"spec": {}}),
            "/spec/matchingPrecedence",
            json!(1000),
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {}}}),
            "/spec/limited/nominalConcurrencyShares",
            json!(30),
        ),
        (
            "scheduling.k8s.io/v1/priorityclasses",
            json!({"value": 1}),
            "/preemptionPolicy",
            json!("PreemptLowerPriority"),
        ),
    ]
}

#[test]
fn absent_fields_are_defaulted() {
    let mut failed = Vec::new();
    for (name, fields, pointer, wanted) in defaulted() {
        let object = object(kind(name), &fields);
        if object.pointer(pointer) != Some(&wanted) {
            failed.push(format!("{name} {pointer}: wanted {wanted}, found {:?}", object.pointer(pointer)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
