//! Bad input gets the answer that a Kubernetes user expects, and nothing is half-written.

use anyhow::{Result, ensure};

use crate::fixture::{Space, shared};

/// A manifest, and what kubectl must say of it.
const MANIFESTS: [(&str, &str); 9] = [
    ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a\n", "error parsing"),
    ("apiVersion: v1\nkind: Hive\nmetadata: {name: a}\n", "no matches for kind \"Hive\""),
    (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: NAMESPACE}\ndata: {a: b}\nhoney: 1\n",
        "unknown field \"honey\"",
    ),
    (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: NAMESPACE}\ndata: [1]\n",
        "cannot unmarshal array",
    ),
    (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b, namespace: NAMESPACE}\n",
        "a lowercase RFC 1123 subdomain must consist of",
    ),
    (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: NAMESPACE}\n\
         spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}\n",
        "spec.ingress[0].from[0].ipBlock.cidr",
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: NAMESPACE}\n\
         spec: {clusterIP: 1.2.3.4, ports: [{port: 80}]}\n",
        "spec.clusterIPs",
    ),
    (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: NAMESPACE}\n\
         spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {c: d}}, \
         spec: {containers: [{name: c, image: i}]}}}\n",
        "`selector` does not match template `labels`",
    ),
    (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: NAMESPACE}\nspec: {containers: []}\n",
        "spec.containers: Required value",
    ),
];

#[test]
fn a_bad_manifest_is_refused_with_its_reason() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "input")?;
    for (manifest, expected) in MANIFESTS {
        let said = match space.apply(manifest) {
            Ok(done) => anyhow::bail!("accepted ({done}):\n{manifest}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(said.contains(expected), "of\n{manifest}kubectl says\n{said}\nnot {expected:?}");
    }
    for kind in ["configmaps", "networkpolicies", "services", "deployments", "pods"] {
        let left = space.get(&[kind, "--field-selector=metadata.name!=kube-root-ca.crt"])?;
        ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "half-written: {left}");
    }
    Ok(())
}

#[test]
fn a_body_that_is_too_large_is_refused() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "large")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("large");
    std::fs::write(&file, vec![b'a'; 4 << 20])?;
    let from = format!("--from-file={}", file.display());
    let said = space.refused(&["create", "configmap", "large", &from])?;
    ensure!(said.contains("too large") || said.contains("Too long"), "kubectl says {said}");
    ensure!(space.refused(&["get", "configmap", "large"])?.contains("not found"));
    Ok(())
}

#[test]
fn what_is_not_there_and_what_is_there_already_are_named() -> Result<()> {
    let shared = shared()?;
    let space = Space::new(&shared.cluster.kubectl, "names")?;
    let said = space.refused(&["get", "pod", "none"])?;
    ensure!(said == "Error from server (NotFound): pods \"none\" not found", "{said}");
    space.run(&["create", "configmap", "a"])?;
    let said = space.refused(&["create", "configmap", "a"])?;
    ensure!(said.ends_with("configmaps \"a\" already exists"), "{said}");
    let said = space.refused(&["--as=nobody", "get", "secrets"])?;
    ensure!(said.contains("User \"nobody\" cannot list resource \"secrets\" in API group \"\""), "{said}");
    Ok(())
}
