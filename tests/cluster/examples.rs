//! The manifests of `examples/`: each is applied, and does what it is an example of.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use xtask::cluster::kubectl::text;

use crate::fixture::{Space, shared};

fn folder() -> PathBuf {
    xtask::workspace().join("examples")
}

/// The names of the manifests.
fn manifests() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".yaml") {
            names.insert(name);
        }
    }
    Ok(names)
}

#[test]
fn every_example_is_applied_and_does_what_it_shows() -> Result<()> {
    let shared = shared()?;
    let kubectl = &shared.cluster.kubectl;
    let space = Space::new(kubectl, "shop")?;
    // The others use what this one makes.
    kubectl.apply(&folder().join("web.yaml"))?;
    for name in manifests()? {
        kubectl.apply(&folder().join(&name)).with_context(|| name.clone())?;
    }
    space.rolled_out("web")?;

    space.run(&["run", "client", "--labels=role=client", &format!("--image={}", xtask::image::EXAMPLE)])?;
    space.run(&["wait", "--for=condition=Ready", "pod/client", "pod/limited", "--timeout=60s"])?;
    let service = space.get(&["service", "web"])?;
    let address = text(&service, "/spec/clusterIP").to_owned();
    let script = format!("for i in $(seq 10); do timeout 5 wget -q -O - http://{address}/ || exit 1; done");
    space.run(&["exec", "client", "--", "sh", "-c", &script])?;
    let ranged = text(&space.get(&["service", "web-ports"])?, "/spec/clusterIP").to_owned();
    let script =
        format!("for port in 80 8080; do timeout 5 wget -q -O - http://{ranged}:$port/ || exit 1; done");
    space.run(&["exec", "client", "--", "sh", "-c", &script])?;
    let refused = format!("timeout 2 wget -q -O - http://{address}/");
    space.refused(&["exec", "limited", "--", "sh", "-c", &refused])?;

    let balanced = space.get(&["service", "web-lan"])?;
    let given = text(&balanced, "/status/loadBalancer/ingress/0/ip").to_owned();
    ensure!(given.starts_with("192.0.2."), "web-lan has no address of the pool: {balanced}");
    space.run(&["rollout", "status", "--timeout=60s", "statefulset/journal"])?;
    let starts = || space.run(&["exec", "journal-0", "--", "cat", "/data/starts"]);
    ensure!(starts()?.lines().count() == 1);
    space.run(&["delete", "pod", "journal-0"])?;
    space.run(&["rollout", "status", "--timeout=60s", "statefulset/journal"])?;
    ensure!(starts()?.lines().count() == 2, "the pod finds its data: {}", starts()?);
    space.run(&["delete", "statefulset", "journal"])?;
    let deleted = "--for=delete";
    space.run(&["wait", deleted, "persistentvolumeclaim/data-journal-0", "--timeout=60s"])?;
    space.run(&["wait", "--for=condition=Complete", "job/report", "--timeout=60s"])?;
    ensure!(space.run(&["logs", "job/report"])?.trim() == "done");
    kubectl.run(&["delete", "loadbalancerpool", "shop"])?;
    Ok(())
}

#[test]
fn the_readme_of_the_examples_lists_each_of_them() -> Result<()> {
    let readme = fs::read_to_string(folder().join("README.md"))?;
    let missing: Vec<String> =
        manifests()?.into_iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    ensure!(missing.is_empty(), "examples/README.md does not list {missing:?}");
    Ok(())
}
