//! The FlowSchemas and PriorityLevelConfigurations of every cluster, as upstream's.

use serde_json::{Value, json};

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Whether the server keeps an object's spec as it is here.
pub(crate) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// An object that the server creates.
pub(crate) struct Default {
    pub(crate) object: Value,
    /// Its spec is not the users' to change.
    pub(crate) is_mandatory: bool,
}

/// The levels first: schemas name them.
pub(crate) fn all() -> Vec<Default> {
    let levels = LEVELS.iter().map(level).chain([exempt(), catch_all()]);
    levels.chain(schemas()).collect()
}

/// Name, shares, lendable per cent, queues, hand size.
type Level = (&'static str, u32, u32, u32, u32);

const LEVELS: [Level; 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

fn object(kind: &str, name: &str, spec: Value, is_mandatory: bool) -> Default {
    let object = json!({
        "apiVersion": API_VERSION, "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec,
    });
    Default { object, is_mandatory }
}

fn level(&(name, shares, lendable, queues, hand_size): &Level) -> Default {
    let queuing = json!({"queues": queues, "handSize": hand_size, "queueLengthLimit": 50});
    let spec = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lendable,
        "limitResponse": {"type": "Queue", "queuing": queuing},
    }});
    object("PriorityLevelConfiguration", name, spec, false)
}

fn exempt() -> Default {
    let spec = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    object("PriorityLevelConfiguration", "exempt", spec, true)
}

fn catch_all() -> Default {
    let spec = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
    }});
    object("PriorityLevelConfiguration", "catch-all", spec, true)
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

/// A ServiceAccount of kube-system; `*` for all.
fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn resources(verbs: &[&str], group: &str, names: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": names, "namespaces": ["*"]});
    if cluster_scope {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Rules for these requests of the subjects.
fn rules(subjects: &[Value], resource_rules: &[Value], paths: Option<(&str, &[&str])>) -> Value {
    let mut rule = json!({"subjects": subjects});
    if !resource_rules.is_empty() {
        rule["resourceRules"] = resource_rules.into();
    }
    if let Some((verb, paths)) = paths {
        rule["nonResourceRules"] = json!([{"verbs": [verb], "nonResourceURLs": paths}]);
    }
    json!([rule])
}

/// Rules for all requests of the subjects.
fn everything(subjects: &[Value]) -> Value {
    rules(subjects, &[resources(&["*"], "*", &["*"], true)], Some(("*", &["*"])))
}

const BY_USER: &str = "ByUser";
const BY_NAMESPACE: &str = "ByNamespace";

fn schema(name: &str, level: &str, precedence: u32, distinguisher: &str, rules: Value) -> Default {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
    });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object("FlowSchema", name, spec, matches!(name, "exempt" | "catch-all"))
}

fn schemas() -> Vec<Default> {
    const ELECT: [&str; 3] = ["get", "create", "update"];
    const LEASES: &str = "coordination.k8s.io";
    let everyone = [group("system:unauthenticated"), group("system:authenticated")];
    let nodes = [group("system:nodes")];
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let leases = resources(&ELECT, LEASES, &["leases"], false);
    let of_nodes = [
        resources(&["*"], "", &["nodes", "nodes/status"], true),
        resources(&["*"], LEASES, &["leases"], false),
    ];
    let leaders = [manager.clone(), scheduler.clone(), account("*")];
    let endpoints =
        [manager.clone(), account("endpoint-controller"), account("endpointslicemirroring-controller")];
    let of_endpoints = [resources(&ELECT, "", &["endpoints"], false)];
    let probes = rules(&everyone, &[], Some(("get", &["/healthz", "/readyz", "/livez"])));
    vec![
        schema("exempt", "exempt", 1, "", everything(&[group("system:masters")])),
        schema("probes", "exempt", 2, "", probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            BY_USER,
            rules(&leaders, std::slice::from_ref(&leases), None),
        ),
        schema("endpoint-controller", "workload-high", 150, BY_USER, rules(&endpoints, &of_endpoints, None)),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            BY_USER,
            rules(&[account("*")], &[leases], None),
        ),
        schema("system-node-high", "node-high", 400, BY_USER, rules(&nodes, &of_nodes, None)),
        schema("system-nodes", "system", 500, BY_USER, everything(&nodes)),
        schema("kube-controller-manager", "workload-high", 800, BY_NAMESPACE, everything(&[manager])),
        schema("kube-scheduler", "workload-high", 800, BY_NAMESPACE, everything(&[scheduler])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            BY_NAMESPACE,
            everything(&[account("*")]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9_000,
            BY_USER,
            everything(&[group("system:serviceaccounts")]),
        ),
        schema("global-default", "global-default", 9_900, BY_USER, everything(&everyone)),
        schema("catch-all", "catch-all", 10_000, BY_USER, everything(&everyone)),
    ]
}
