//! Violations of the standards, in upstream's words.

use serde_json::json;

use super::policy::Level;
use super::*;

fn found(standard: &str, spec: Value) -> String {
    found_in(standard, json!({"spec": spec}))
}

fn found_in(standard: &str, pod: Value) -> String {
    let (level, version) = standard.split_once(':').unwrap_or((standard, "latest"));
    let labels = json!({(format!("{PREFIX}enforce")): level, (format!("{PREFIX}enforce-version")): version});
    let standard = PodSecurityPolicy::of(&labels, &mut Errors::default()).enforce;
    let all: Vec<String> = evaluate(standard, &pod).iter().map(Finding::to_string).collect();
    all.join(", ")
}

fn restricted_pod() -> Value {
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": context}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    })
}

#[test]
fn a_plain_pod_is_baseline_and_a_careful_one_restricted() {
    let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(found("baseline", plain.clone()), "");
    assert_eq!(
        found("restricted", plain.clone()),
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(found("restricted", restricted_pod()), "");
    assert_eq!(found("privileged", json!({"hostNetwork": true})), "");
}

#[test]
fn each_baseline_check_finds_its_fault() {
    let with = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
    for (spec, wanted) in [
        (json!({"hostNetwork": true, "hostIPC": true}), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (json!({"volumes": [{"name": "v", "hostPath": {}}]}), "hostPath volumes (volume \"v\")"),
        (
            with(json!({"privileged": true})),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            with(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "BPF"]}})),
            "non-default capabilities (container \"c\" must not include \"BPF\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            with(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            with(json!({"seLinuxOptions": {"type": "x", "user": "u"}})),
            "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            with(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            with(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            with(json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (container \"c\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 0}]}]}),
            "hostPort (container \"c\" uses hostPort 80)",
        ),
        (
            json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": [{"name": "c", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}),
            "seccompProfile (pod and container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
    ] {
        assert_eq!(found("baseline", spec.clone()), wanted, "{spec}");
    }
    let annotated = json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}, "spec": {}});
    assert_eq!(
        found_in("baseline", annotated),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")"
    );
}

#[test]
fn each_restricted_check_finds_its_fault() {
    let change = |pointer: &str, value: Value| {
        let mut spec = restricted_pod();
        *spec.pointer_mut(pointer).unwrap() = value;
        spec
    };
    for (spec, wanted) in [
        (
            change("/volumes/0", json!({"name": "v", "nfs": {}})),
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
        (
            change("/volumes/0", json!({"name": "v", "hostPath": {}})),
            "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
        ),
        (
            change("/securityContext/runAsNonRoot", json!(false)),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            change(
                "/securityContext",
                json!({"runAsNonRoot": true, "runAsUser": 0, "seccompProfile": {"type": "Localhost"}}),
            ),
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (
            change(
                "/containers/0/securityContext/capabilities",
                json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN"]}),
            ),
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
    ] {
        assert_eq!(found("restricted", spec.clone()), wanted, "{spec}");
    }
}

#[test]
fn a_version_is_kept_to() {
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    assert_eq!(found("baseline:v1.31", sysctl.clone()), "forbidden sysctls (net.ipv4.tcp_rmem)");
    assert_eq!(found("baseline:v1.32", sysctl.clone()), "");
    assert_eq!(found("baseline:v1.99", sysctl), "");
    let windows = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]});
    assert_eq!(found("restricted:v1.25", windows), "");
}

#[test]
fn the_wish_for_a_user_namespace_relaxes_nothing() {
    for standard in ["restricted", "restricted:v1.35", "restricted:v1.34"] {
        let mut root = restricted_pod();
        root["hostUsers"] = false.into();
        root["securityContext"]["runAsNonRoot"] = Value::Null;
        assert!(found(standard, root.clone()).starts_with("runAsNonRoot"), "{standard}");
        root["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 0});
        assert!(found(standard, root).contains("runAsUser=0"), "{standard}");
    }
    let unmasked = json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]});
    assert!(found("baseline", unmasked).starts_with("procMount"));
}

#[test]
fn labels_are_a_policy() {
    let of = |labels: Value| {
        let mut problems = Errors::default();
        let policy = PodSecurityPolicy::of(&labels, &mut problems);
        let shown = [policy.enforce, policy.audit, policy.warn].map(|standard| standard.to_string());
        (shown.join(" "), problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let label = |mode: &str| format!("{PREFIX}{mode}");
    for (labels, wanted, problem) in [
        (json!(null), "privileged:latest privileged:latest privileged:latest", ""),
        (
            json!({(label("enforce")): "baseline", (label("enforce-version")): "v1.30"}),
            "baseline:v1.30 privileged:latest baseline:v1.30",
            "",
        ),
        (
            json!({(label("enforce")): "baseline", (label("warn")): "restricted", (label("audit")): "restricted", (label("audit-version")): "v1.20"}),
            "baseline:latest restricted:v1.20 restricted:latest",
            "",
        ),
        (
            json!({(label("enforce")): "x"}),
            "restricted:latest privileged:latest privileged:latest",
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
        ),
        (
            json!({(label("warn-version")): "v1.03"}),
            "privileged:latest privileged:latest privileged:latest",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.03\": must be \"latest\" or \"v1.x\"",
        ),
    ] {
        assert_eq!(of(labels.clone()), (wanted.to_owned(), problem.to_owned()), "{labels}");
    }
    let standard = |level, minor| Standard { level, minor };
    assert!(standard(Level::Restricted, None).raises(standard(Level::Baseline, None)));
    assert!(!standard(Level::Baseline, None).raises(standard(Level::Restricted, None)));
    assert!(!standard(Level::Privileged, None).raises(standard(Level::Baseline, None)));
}

#[test]
fn only_new_images_and_containers_are_looked_at_again() {
    let pod = |image: &str| json!({"spec": {"containers": [{"name": "a", "image": image}]}});
    assert!(!is_significant(&pod("x"), &pod("x")));
    assert!(is_significant(&pod("y"), &pod("x")));
    let mut debugged = pod("x");
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "i"}]);
    assert!(is_significant(&debugged, &pod("x")));
    assert!(!is_significant(&pod("x"), &debugged));
}
