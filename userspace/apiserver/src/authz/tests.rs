//! Decisions on upstream's default roles.

use serde_json::{Value, json};

use super::*;

fn authorizer(more: &[Value]) -> Authorizer {
    let mut authorizer = Authorizer::default();
    for object in default_objects().iter().chain(more) {
        authorizer.apply(object);
    }
    authorizer
}

/// By the server's own authorizers.
fn decide(authorizer: &Authorizer, request: &Attributes<'_>) -> Decision {
    match authorizer.authorize(OwnAuthorizer::Node, request) {
        Decision::NoOpinion(_) => authorizer.authorize(OwnAuthorizer::Rbac, request),
        decision => decision,
    }
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn request<'a>(user: &'a str, groups: &'a [String], verb: &'a str, what: &'a str) -> Attributes<'a> {
    let (group, resource) = what.split_once('/').unwrap_or(("", what));
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    Attributes { user, groups, verb, group, resource, subresource, ..Attributes::default() }
}

fn role(name: &str, rules: Value) -> Value {
    json!({"kind": "Role", "metadata": {"name": name, "namespace": "default"}, "rules": rules})
}

fn bind(name: &str, role: &str, kind: &str, subject: Value) -> Value {
    json!({
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": "default"},
        "roleRef": {"kind": kind, "name": role},
        "subjects": [subject],
    })
}

fn pod(name: &str, node: &str, spec: Value) -> Value {
    let mut pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    pod["spec"]["nodeName"] = json!(node);
    pod
}

#[test]
fn the_table_has_every_line_understood() {
    let objects = default_objects();
    let count = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).count();
    assert!(count("ClusterRole") > 30, "{}", count("ClusterRole"));
    assert_eq!(count("RoleBinding"), 10);
    for object in &objects {
        if let Some(rules) = object["rules"].as_array() {
            assert!(!rules.is_empty() || object.get("aggregationRule").is_some(), "{object}");
            assert_eq!(rbac::parse_rules(&object["rules"]).len(), rules.len());
        }
    }
}

#[test]
fn nobody_may_nothing_and_masters_everything() {
    let authorizer = authorizer(&[]);
    let (nobody, masters) = (groups(&["system:authenticated"]), groups(&[SUPERUSERS]));
    assert!(!decide(&authorizer, &request("bob", &nobody, "get", "pods")).allowed());
    assert!(!is_superuser(&nobody) && is_superuser(&masters));
    let version = Attributes { path: "/version", verb: "get", groups: &nobody, ..Attributes::default() };
    assert!(decide(&authorizer, &version).allowed());
    let metrics = Attributes { path: "/metrics", ..version };
    assert!(!decide(&authorizer, &metrics).allowed());
}

#[test]
fn a_role_counts_in_its_namespace_only() {
    let reader =
        role("reader", json!([{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get"]}]));
    let bound = bind("bob", "reader", "Role", json!({"kind": "User", "name": "bob"}));
    let authorizer = authorizer(&[reader, bound]);
    let here = Attributes { namespace: "default", ..request("bob", &[], "get", "pods") };
    assert!(decide(&authorizer, &here).allowed());
    assert!(decide(&authorizer, &Attributes { subresource: "log", ..here.clone() }).allowed());
    assert!(!decide(&authorizer, &Attributes { subresource: "exec", ..here.clone() }).allowed());
    assert!(!decide(&authorizer, &Attributes { namespace: "other", ..here.clone() }).allowed());
    assert!(!decide(&authorizer, &Attributes { namespace: "", ..here.clone() }).allowed());
    assert!(!decide(&authorizer, &Attributes { verb: "delete", ..here }).allowed());
}

#[test]
fn a_service_account_is_bound_in_the_bindings_namespace() {
    let reader = role("reader", json!([{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}]));
    let bound = bind("b", "reader", "Role", json!({"kind": "ServiceAccount", "name": "builder"}));
    let authorizer = authorizer(&[reader, bound]);
    let user = "system:serviceaccount:default:builder";
    let here = Attributes { namespace: "default", ..request(user, &[], "patch", "apps/deployments:scale") };
    assert!(decide(&authorizer, &here).allowed());
}

#[test]
fn a_deleted_binding_binds_no_more() {
    let reader = role("reader", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
    let bound = bind("bob", "reader", "Role", json!({"kind": "User", "name": "bob"}));
    let mut authorizer = authorizer(&[reader, bound]);
    authorizer.delete("RoleBinding", "default", "bob");
    let here = Attributes { namespace: "default", ..request("bob", &[], "get", "pods") };
    assert!(!decide(&authorizer, &here).allowed());
}

#[test]
fn names_narrow_a_rule() {
    let rules =
        json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["a"]}]);
    let bound = bind("bob", "one", "Role", json!({"kind": "User", "name": "bob"}));
    let authorizer = authorizer(&[role("one", rules), bound]);
    let a = Attributes { namespace: "default", name: "a", ..request("bob", &[], "get", "configmaps") };
    assert!(decide(&authorizer, &a).allowed());
    assert!(!decide(&authorizer, &Attributes { name: "b", ..a.clone() }).allowed());
    assert!(!decide(&authorizer, &Attributes { name: "", ..a }).allowed());
}

#[test]
fn a_node_reads_what_its_pods_refer_to() {
    let nodes = groups(&["system:nodes"]);
    let spec = json!({
        "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "by-env"}}}]}],
        "volumes": [{"projected": {"sources": [{"configMap": {"name": "by-volume"}}]}}],
        "serviceAccountName": "builder",
    });
    let mut authorizer = authorizer(&[pod("a", "n1", spec)]);
    let get = |authorizer: &Authorizer, user, what, name| {
        let request = Attributes { namespace: "default", name, ..request(user, &nodes, "get", what) };
        decide(authorizer, &request).allowed()
    };
    assert!(get(&authorizer, "system:node:n1", "secrets", "by-env"));
    assert!(get(&authorizer, "system:node:n1", "configmaps", "by-volume"));
    assert!(!get(&authorizer, "system:node:n1", "secrets", "another"));
    assert!(!get(&authorizer, "system:node:n2", "secrets", "by-env"));
    let challenges = |verb| Attributes {
        namespace: "kube-system",
        name: "skep-acme-challenges",
        ..request("system:node:n2", &nodes, verb, "configmaps")
    };
    assert!(decide(&authorizer, &challenges("watch")).allowed());
    assert!(!decide(&authorizer, &challenges("update")).allowed());
    let token = request("system:node:n1", &nodes, "create", "serviceaccounts:token");
    let token = Attributes { namespace: "default", name: "builder", ..token };
    assert!(decide(&authorizer, &token).allowed());
    authorizer.delete("Pod", "default", "a");
    assert!(!get(&authorizer, "system:node:n1", "secrets", "by-env"));
    assert!(!decide(&authorizer, &token).allowed());
}

#[test]
fn a_node_writes_its_own_lease_and_node_only() {
    let nodes = groups(&["system:nodes"]);
    let authorizer = authorizer(&[]);
    let may = |verb, what, namespace, name| {
        let request = Attributes { namespace, name, ..request("system:node:n1", &nodes, verb, what) };
        decide(&authorizer, &request).allowed()
    };
    assert!(may("update", "coordination.k8s.io/leases", "kube-node-lease", "n1"));
    assert!(!may("update", "coordination.k8s.io/leases", "kube-node-lease", "n2"));
    assert!(!may("update", "coordination.k8s.io/leases", "kube-system", "n1"));
    assert!(may("patch", "nodes:status", "", "n1"));
    assert!(!may("patch", "nodes:status", "", "n2"));
    assert!(may("create", "certificates.k8s.io/certificatesigningrequests", "", ""));
    assert!(!may("watch", "networking.k8s.io/networkpolicies", "", ""));
    assert!(!may("delete", "apps/deployments", "default", "web"));
}

/// The rules of a user, those that he writes into a role, and whether he may: upstream's cases of coverage.
#[test]
fn nobody_grants_what_he_has_not() {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let named = |names: &[&str]| json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": names});
    let urls = |urls: &[&str]| json!({"nonResourceURLs": urls, "verbs": ["get"]});
    let pods = |verbs: &[&str]| rule(&[""], &["pods"], verbs);
    let cases = [
        (json!([pods(&["get", "list"])]), json!([pods(&["get"])]), true),
        (json!([pods(&["get"]), pods(&["list"])]), json!([pods(&["list", "get"])]), true),
        (json!([pods(&["*"])]), json!([pods(&["anything"])]), true),
        (json!([pods(&["get"])]), json!([pods(&["*"])]), false),
        (json!([pods(&["get"])]), json!([rule(&[""], &["pods", "secrets"], &["get"])]), false),
        (json!([pods(&["get"])]), json!([rule(&["", "apps"], &["pods"], &["get"])]), false),
        (
            json!([rule(&["*"], &["pods"], &["get"])]),
            json!([rule(&["apps", "*"], &["pods"], &["get"])]),
            true,
        ),
        (json!([rule(&[""], &["*"], &["get"])]), json!([rule(&[""], &["pods/log", "*"], &["get"])]), true),
        (json!([rule(&[""], &["pods"], &["get"])]), json!([rule(&[""], &["pods/log"], &["get"])]), false),
        (
            json!([rule(&[""], &["*/log"], &["get"])]),
            json!([rule(&[""], &["pods/log", "*/log"], &["get"])]),
            true,
        ),
        (json!([rule(&[""], &["pods/log"], &["get"])]), json!([rule(&[""], &["*/log"], &["get"])]), false),
        (json!([rule(&[""], &["pods/*"], &["get"])]), json!([rule(&[""], &["pods/log"], &["get"])]), false),
        (json!([pods(&["get"])]), json!([named(&["a", "b"])]), true),
        (json!([named(&["a", "b"])]), json!([named(&["a"])]), true),
        (json!([named(&["a"])]), json!([named(&["a", "b"])]), false),
        (json!([named(&["a"])]), json!([pods(&["get"])]), false),
        (json!([named(&["*"])]), json!([named(&["a"])]), false),
        (json!([urls(&["/a", "/b/*"])]), json!([urls(&["/a", "/b/c", "/b/c/*"])]), true),
        (json!([urls(&["*"])]), json!([urls(&["/x", "*"])]), true),
        (json!([urls(&["/*"])]), json!([urls(&["*"])]), false),
        (json!([urls(&["/a"])]), json!([urls(&["/a*"])]), false),
        (json!([urls(&["/"])]), json!([urls(&["/*"])]), false),
        (json!([urls(&["/a"])]), json!([pods(&["get"])]), false),
    ];
    for (held, wanted, allowed) in cases {
        let bound = bind("bob", "own", "Role", json!({"kind": "User", "name": "bob"}));
        let authorizer = authorizer(&[role("own", held.clone()), role("other", wanted.clone()), bound]);
        let resource = request("bob", &[], "create", "rbac.authorization.k8s.io/roles");
        let request = Attributes { namespace: "default", ..resource };
        let written = authorizer.check_escalation(&request, &role("new", wanted.clone()), None);
        assert_eq!(written.is_ok(), allowed, "write {wanted} with {held}");
        let bound = authorizer.check_binding(&request, &json!({"kind": "Role", "name": "other"}));
        assert_eq!(bound.is_ok(), allowed, "bind {wanted} with {held}");
    }
}

#[test]
fn a_node_reads_itself_and_its_pods_only() {
    let nodes = groups(&["system:nodes"]);
    let authorizer = authorizer(&[pod("mine", "n1", json!({})), pod("other", "n2", json!({}))]);
    for (verb, what, name, field_selector, wanted) in [
        ("get", "nodes", "n1", "", true),
        ("get", "nodes", "n2", "", false),
        ("list", "nodes", "", "", false),
        ("watch", "nodes", "n1", "metadata.name=n1", true),
        ("get", "pods", "mine", "", true),
        ("get", "pods", "other", "", false),
        ("list", "pods", "", "", false),
        ("list", "pods", "", "spec.nodeName=n1", true),
        ("watch", "pods", "", "status.phase!=Failed,spec.nodeName==n1", true),
        ("list", "pods", "", "spec.nodeName=n2", false),
        ("list", "pods", "", "spec.nodeName!=n1", false),
        ("list", "pods", "", "spec.nodeName=n12", false),
        ("get", "pods:log", "mine", "", false),
        ("create", "pods:exec", "mine", "", false),
        ("list", "services", "", "", true),
        ("list", "namespaces", "", "", false),
    ] {
        let request = request("system:node:n1", &nodes, verb, what);
        let request = Attributes { namespace: "default", name, field_selector, ..request };
        let allowed = decide(&authorizer, &request).allowed();
        assert_eq!(allowed, wanted, "{verb} {what} {name:?} {field_selector:?}");
    }
    for (verb, name, label_selector, wanted) in [
        ("get", "v", "", true),
        ("list", "", "", false),
        ("list", "", "skep.io/local-path-node=n1", true),
        ("watch", "", "skep.io/local-path-node==n1", true),
        ("list", "", "skep.io/local-path-node=n2", false),
        ("list", "", "skep.io/local-path-node!=n1", false),
        ("list", "", "skep.io/local-path-node in (n1,n2)", false),
        ("list", "", "skep.io/local-path-node=n1,a=b", false),
        ("patch", "v", "", true),
        ("update", "v", "", false),
        ("create", "", "", false),
        ("delete", "v", "", false),
    ] {
        let request = request("system:node:n1", &nodes, verb, "persistentvolumes");
        let request = Attributes { name, label_selector, ..request };
        assert_eq!(decide(&authorizer, &request).allowed(), wanted, "{verb} {name:?} {label_selector:?}");
    }
    let network = groups(&["skep:network-agents"]);
    assert!(decide(&authorizer, &request("skep:network-agent", &network, "list", "pods")).allowed());
}

#[test]
fn a_node_reads_the_secrets_that_its_ingresses_name() {
    let class = |name: &str, controller: &str| json!({"kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}});
    let ingress = |name: &str, class: &str, secret: &str| {
        json!({"kind": "Ingress", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ingressClassName": class, "tls": [{"secretName": secret}]}})
    };
    let with_users = |name: &str, secret: &str| {
        let annotations = json!({"nginx.ingress.kubernetes.io/auth-secret": secret});
        json!({"kind": "Ingress", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": {"ingressClassName": "skep"}})
    };
    let mut authorizer = authorizer(&[
        class("skep", "skep.io/ingress"),
        class("other", "example.com/other"),
        ingress("mine", "skep", "served"),
        ingress("twin", "skep", "served"),
        ingress("foreign", "other", "foreign"),
        with_users("users", "default/users"),
        with_users("others", "other/users"),
    ]);
    let nodes = groups(&["system:nodes"]);
    let may = |authorizer: &Authorizer, verb: &str, namespace: &str, name: &str| {
        let request = request("system:node:n1", &nodes, verb, "secrets");
        decide(authorizer, &Attributes { namespace, name, ..request }).allowed()
    };
    for (verb, namespace, name, wanted) in [
        ("get", "default", "served", true),
        ("watch", "default", "served", true),
        ("update", "default", "served", false),
        ("get", "other", "served", false),
        ("get", "default", "users", true),
        ("get", "other", "users", false),
        ("get", "default", "foreign", false),
        ("list", "default", "", false),
    ] {
        assert_eq!(may(&authorizer, verb, namespace, name), wanted, "{verb} {namespace}/{name}");
    }
    authorizer.delete("Ingress", "default", "mine");
    assert!(may(&authorizer, "get", "default", "served"), "another names it");
    authorizer.apply(&ingress("twin", "skep", "new"));
    assert!(!may(&authorizer, "get", "default", "served") && may(&authorizer, "get", "default", "new"));
    authorizer.delete("IngressClass", "", "skep");
    assert!(!may(&authorizer, "get", "default", "new"));
}

#[test]
fn a_node_reads_what_annotations_of_its_ingresses_name_in_their_own_namespace() {
    let ingress = |class: &str, annotation: &str, value: &str| {
        let annotations = json!({format!("nginx.ingress.kubernetes.io/{annotation}"): value});
        json!({"kind": "Ingress", "metadata": {"name": value.replace('/', "-"), "namespace": "default", "annotations": annotations},
            "spec": {"ingressClassName": class}})
    };
    let authorizer = authorizer(&[
        json!({"kind": "IngressClass", "metadata": {"name": "skep"}, "spec": {"controller": "skep.io/ingress"}}),
        ingress("skep", "auth-tls-secret", "default/clients"),
        ingress("skep", "proxy-ssl-secret", "default/endpoints"),
        ingress("skep", "custom-headers", "default/headers"),
        ingress("skep", "auth-proxy-set-headers", "default/asked"),
        ingress("skep", "auth-tls-secret", "other/foreign"),
        ingress("skep", "custom-headers", "other/foreign"),
        ingress("other", "proxy-ssl-secret", "default/unserved"),
    ]);
    let nodes = groups(&["system:nodes"]);
    for (resource, namespace, name, wanted) in [
        ("secrets", "default", "clients", true),
        ("secrets", "default", "endpoints", true),
        ("configmaps", "default", "headers", true),
        ("configmaps", "default", "asked", true),
        ("configmaps", "default", "clients", false),
        ("secrets", "default", "headers", false),
        ("secrets", "other", "foreign", false),
        ("configmaps", "other", "foreign", false),
        ("secrets", "default", "foreign", false),
        ("secrets", "default", "unserved", false),
    ] {
        let request = request("system:node:n1", &nodes, "watch", resource);
        let may = decide(&authorizer, &Attributes { namespace, name, ..request }).allowed();
        assert_eq!(may, wanted, "{resource} {namespace}/{name}");
    }
}

/// An object of Gateway API in the namespace `a`.
fn of_gateway_api(kind: &str, name: &str, spec: &Value) -> Value {
    let meta = json!({"name": name, "namespace": "a"});
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": meta, "spec": spec})
}

/// Gateways of the namespace `a` may name Secrets of `b`.
fn secrets_of_b_for_gateways() -> Value {
    let from = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "a"}]);
    let spec = json!({"from": from, "to": [{"group": "", "kind": "Secret"}]});
    let mut grant = of_gateway_api("ReferenceGrant", "grant", &spec);
    grant["metadata"]["namespace"] = json!("b");
    grant
}

#[test]
fn a_node_reads_what_gateways_and_policies_of_its_classes_name() {
    let validation = |kind: &str, namespace: &str, name: &str| {
        let reference = json!({"group": "", "kind": kind, "namespace": namespace, "name": name});
        json!({"validation": {"caCertificateRefs": [reference]}})
    };
    let gateway = |name: &str, class: &str, tls: &Value| {
        of_gateway_api("Gateway", name, &json!({"gatewayClassName": class, "tls": tls}))
    };
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "skep"},
        "spec": {"controllerName": "skep.io/gateway"}});
    let frontend = json!({"default": validation("ConfigMap", "a", "clients"), "perPort": [
        {"port": 443, "tls": validation("Secret", "b", "granted")},
        {"port": 444, "tls": validation("ConfigMap", "b", "granted")},
        {"port": 445, "tls": validation("Service", "a", "other-kind")},
    ]});
    let policy = json!({"validation": {"caCertificateRefs": [
        {"group": "", "kind": "ConfigMap", "name": "endpoints"},
        {"group": "", "kind": "ConfigMap", "namespace": "b", "name": "endpoints"},
    ]}});
    let identity = json!({"clientCertificateRef": {"name": "identity"}});
    let mut authorizer = authorizer(&[
        class,
        gateway("ours", "skep", &json!({"frontend": frontend, "backend": identity})),
        gateway("theirs", "other", &json!({"backend": {"clientCertificateRef": {"name": "foreign"}}})),
        of_gateway_api("BackendTLSPolicy", "policy", &policy),
        secrets_of_b_for_gateways(),
    ]);
    let nodes = groups(&["system:nodes"]);
    let may = |authorizer: &Authorizer, resource: &str, namespace: &str, name: &str| {
        let request = request("system:node:n1", &nodes, "watch", resource);
        decide(authorizer, &Attributes { namespace, name, ..request }).allowed()
    };
    for (resource, namespace, name, wanted) in [
        ("configmaps", "a", "clients", true),
        ("secrets", "a", "clients", false),
        ("secrets", "b", "granted", true),
        ("configmaps", "b", "granted", false),
        ("configmaps", "a", "other-kind", false),
        ("secrets", "a", "identity", true),
        ("secrets", "a", "foreign", false),
        ("configmaps", "a", "endpoints", true),
        ("configmaps", "b", "endpoints", false),
    ] {
        assert_eq!(may(&authorizer, resource, namespace, name), wanted, "{resource} {namespace}/{name}");
    }
    authorizer.delete("BackendTLSPolicy", "a", "policy");
    assert!(!may(&authorizer, "configmaps", "a", "endpoints"));
    authorizer.apply(&of_gateway_api("BackendTLSPolicy", "policy", &policy));
    authorizer.delete("GatewayClass", "", "skep");
    assert!(
        !may(&authorizer, "configmaps", "a", "endpoints") && !may(&authorizer, "secrets", "a", "identity")
    );
}

#[test]
fn a_default_role_gets_what_it_lacks_and_keeps_what_it_has() {
    let rule =
        |resource: &str, verbs: &[&str]| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs});
    let role = |rules: Value| json!({"kind": "ClusterRole", "metadata": {"name": "x", "labels": {}, "annotations": {}}, "rules": rules});
    let wanted = role(json!([rule("pods", &["get", "list"])]));
    assert_eq!(reconciled(&role(json!([rule("pods", &["*"])])), &wanted), None);
    let new = reconciled(&role(json!([rule("pods", &["get"]), rule("secrets", &["get"])])), &wanted).unwrap();
    let rules = json!([rule("pods", &["get"]), rule("secrets", &["get"]), rule("pods", &["list"])]);
    assert_eq!(new["rules"].as_array().map(Vec::len), Some(3));
    assert_eq!(rbac::parse_rules(&new["rules"]), rbac::parse_rules(&rules));
    let mut kept = role(json!([]));
    kept["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
    assert_eq!(reconciled(&kept, &wanted), None);
    let binding = |names: &[&str]| {
        let subjects: Vec<Value> = names.iter().map(|name| json!({"kind": "User", "name": name})).collect();
        json!({"kind": "ClusterRoleBinding", "metadata": {"name": "x", "labels": {}}, "subjects": subjects})
    };
    let new = reconciled(&binding(&["own"]), &binding(&["default"])).unwrap();
    assert_eq!(new["subjects"], binding(&["own", "default"])["subjects"]);
    for object in default_objects() {
        assert_eq!(reconciled(&object, &object), None, "{object}");
    }
}

#[test]
fn a_refused_grant_names_the_missing_rules() {
    let own = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    let bound = bind("bob", "own", "Role", json!({"kind": "User", "name": "bob"}));
    let authorizer = authorizer(&[role("own", own), bound]);
    let resource = request("bob", &[], "create", "rbac.authorization.k8s.io/roles");
    let request = Attributes { namespace: "default", ..resource };
    let more = json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]}]);
    let error = authorizer.check_escalation(&request, &role("new", more), None).unwrap_err().to_string();
    assert!(error.ends_with(r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#), "{error}");
    assert!(error.starts_with(r#"user "bob" (groups=[]) is attempting to grant"#), "{error}");
    let missing = authorizer.check_binding(&request, &json!({"kind": "ClusterRole", "name": "none"}));
    let missing = missing.unwrap_err().to_string();
    assert_eq!(missing, "clusterrole.rbac.authorization.k8s.io \"none\" not found");
}

#[test]
fn aggregation_needs_all_rights() {
    let role =
        |name: &str, rules: Value| json!({"kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let bind = |role: &str| {
        json!({
            "kind": "ClusterRoleBinding", "metadata": {"name": "bob"}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "bob"}],
        })
    };
    let resources = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    let urls = json!({"nonResourceURLs": ["*"], "verbs": ["*"]});
    let (plain, mut aggregated) = (role("new", json!([])), role("new", json!([])));
    aggregated["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let mut empty = plain.clone();
    empty["aggregationRule"] = json!({"clusterRoleSelectors": []});
    // The rules of the user, the role before and after, and whether he may write it.
    for (held, old, new, allowed) in [
        (json!([]), None, &plain, true),
        (json!([]), None, &empty, true),
        (json!([]), None, &aggregated, false),
        (json!([]), Some(&aggregated), &plain, false),
        (json!([]), Some(&plain), &aggregated, false),
        (
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "create", "update"]}]),
            None,
            &aggregated,
            false,
        ),
        (json!([urls]), None, &aggregated, false),
        (json!([resources, urls]), None, &aggregated, true),
        (json!([resources, urls]), Some(&aggregated), &plain, true),
    ] {
        let authorizer = authorizer(&[role("own", held.clone()), bind("own")]);
        let request = request("bob", &[], "create", "rbac.authorization.k8s.io/clusterroles");
        let checked = authorizer.check_escalation(&request, new, old);
        assert_eq!(checked.is_ok(), allowed, "{held} {new}");
        if !allowed {
            assert_eq!(
                checked.unwrap_err().to_string(),
                "must have cluster-admin privileges to use the aggregationRule"
            );
        }
    }
}
