//! Each security field of a pod, and what the runtime receives for it.

use serde_json::{Value, json};

use super::*;

fn node(seccomp_default: bool) -> NodeSettings {
    NodeSettings { seccomp_root: "/profiles".to_owned(), seccomp_default, ..Default::default() }
}

fn asked(of_pod: &Value, own: &Value, node: &NodeSettings) -> api::LinuxContainerSecurityContext {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
        "securityContext": of_pod,
        "containers": [{"name": "main", "securityContext": own}],
    }}))
    .expect("a pod");
    let container = pod.spec.as_ref().and_then(|s| s.containers.first()).expect("a container");
    let prepared = Prepared { image_uid: Some(1), ..Default::default() };
    let config = config(&pod, container, &prepared, node).expect("a configuration");
    config.linux.and_then(|l| l.security_context).expect("a security context")
}

fn profile(kind: ProfileType, file: &str) -> Option<api::SecurityProfile> {
    Some(api::SecurityProfile { profile_type: kind as i32, localhost_ref: file.to_owned() })
}

type Change = fn(&mut api::LinuxContainerSecurityContext);

/// The pod's securityContext, the container's, and how the request differs from that of a pod without either.
fn rows() -> Vec<(Value, Value, Change)> {
    let none = || json!({});
    vec![
        (none(), json!({"runAsUser": 7}), |c| c.run_as_user = Some(api::Int64Value { value: 7 })),
        (json!({"runAsUser": 8}), none(), |c| c.run_as_user = Some(api::Int64Value { value: 8 })),
        (json!({"runAsGroup": 8}), json!({"runAsGroup": 7}), |c| {
            c.run_as_group = Some(api::Int64Value { value: 7 });
        }),
        (json!({"fsGroup": 3, "supplementalGroups": [4]}), none(), |c| c.supplemental_groups = vec![3, 4]),
        (json!({"supplementalGroupsPolicy": "Strict"}), none(), |c| c.supplemental_groups_policy = 1),
        // Every volume of this node is written anew for the pod: there is no owner to keep.
        (json!({"fsGroupChangePolicy": "OnRootMismatch"}), none(), |_| {}),
        (none(), json!({"readOnlyRootFilesystem": true}), |c| c.readonly_rootfs = true),
        (none(), json!({"allowPrivilegeEscalation": true}), |_| {}),
        (none(), json!({"allowPrivilegeEscalation": false}), |c| c.no_new_privs = true),
        (
            none(),
            json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}),
            |c| {
                c.no_new_privs = true;
                c.capabilities = Some(api::Capability {
                    add_capabilities: vec!["SYS_ADMIN".to_owned()],
                    drop_capabilities: vec!["ALL".to_owned()],
                    add_ambient_capabilities: Vec::new(),
                });
            },
        ),
    ]
}

fn rows_of_confinement() -> Vec<(Value, Value, Change)> {
    let none = || json!({});
    vec![
        (none(), json!({"privileged": true}), |c| {
            c.privileged = true;
            c.masked_paths.clear();
            c.readonly_paths.clear();
        }),
        (none(), json!({"procMount": "Default"}), |_| {}),
        (json!({"seccompProfile": {"type": "RuntimeDefault"}}), none(), |c| {
            c.seccomp = profile(ProfileType::RuntimeDefault, "");
        }),
        (
            json!({"seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"seccompProfile": {"type": "Unconfined"}}),
            |_| {},
        ),
        (none(), json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}), |c| {
            c.seccomp = profile(ProfileType::Localhost, "/profiles/a/b.json");
        }),
        (json!({"appArmorProfile": {"type": "RuntimeDefault"}}), none(), |c| {
            c.apparmor = profile(ProfileType::RuntimeDefault, "");
        }),
        (
            json!({"appArmorProfile": {"type": "RuntimeDefault"}}),
            json!({"appArmorProfile": {"type": "Unconfined"}}),
            |c| {
                c.apparmor = profile(ProfileType::Unconfined, "");
            },
        ),
        (none(), json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}}), |c| {
            c.apparmor = profile(ProfileType::Localhost, "mine");
        }),
        (
            json!({"seLinuxOptions": {"level": "s0"}}),
            json!({"seLinuxOptions": {"type": "t", "user": "u", "role": "r"}}),
            |c| {
                c.selinux_options = Some(api::SeLinuxOption {
                    user: "u".to_owned(),
                    role: "r".to_owned(),
                    r#type: "t".to_owned(),
                    level: String::new(),
                });
            },
        ),
        (json!({"seLinuxOptions": {"level": "s0"}}), none(), |c| {
            c.selinux_options = Some(api::SeLinuxOption { level: "s0".to_owned(), ..Default::default() });
        }),
    ]
}

#[test]
fn every_security_field_reaches_the_runtime() {
    for (of_pod, own, change) in rows().into_iter().chain(rows_of_confinement()) {
        let mut expected = asked(&json!({}), &json!({}), &node(false));
        change(&mut expected);
        assert_eq!(asked(&of_pod, &own, &node(false)), expected, "{of_pod} {own}");
    }
}

#[test]
fn a_container_without_a_profile_gets_the_runtimes_if_the_node_says_so() {
    let none = json!({});
    let confined = profile(ProfileType::RuntimeDefault, "");
    assert_eq!(asked(&none, &none, &node(true)).seccomp, confined);
    assert_eq!(asked(&none, &none, &node(false)).seccomp, profile(ProfileType::Unconfined, ""));
    let own = json!({"seccompProfile": {"type": "Unconfined"}});
    assert_eq!(asked(&none, &own, &node(true)).seccomp, profile(ProfileType::Unconfined, ""));
    let privileged = json!({"privileged": true});
    assert_eq!(asked(&none, &privileged, &node(true)).seccomp, profile(ProfileType::Unconfined, ""));
}
