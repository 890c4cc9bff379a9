//! `kubectl apply --server-side`.

use crate::harness::Server;

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'web:1', ports: [{containerPort: 80}]}]}
";

fn replicas(count: u32) -> String {
    DEPLOYMENT.replace("replicas: 2", &format!("replicas: {count}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_of_fields_are_kept_and_heard() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        let apply = "apply --server-side -f -";
        server.ok(apply, DEPLOYMENT, "deployment.apps/web serverside-applied");
        let version = "get deploy web -o jsonpath={.metadata.resourceVersion}";
        let before = server.ok(version, "", "");
        server.ok(apply, DEPLOYMENT, "serverside-applied");
        assert_eq!(server.ok(version, "", ""), before, "nothing changed, nothing was written");
        server.ok("scale deploy web --replicas=5", "", "scaled");
        server.fails(
            apply,
            &replicas(3),
            "conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas",
        );
        server.ok("apply --server-side --force-conflicts -f -", &replicas(3), "serverside-applied");
        server.ok("get deploy web -o jsonpath={.spec.replicas}", "", "3");
        let other = "apply --server-side --field-manager=other -f -";
        server.fails(other, &replicas(4), "conflict with \"kubectl\": .spec.replicas");
        server.ok(other, &replicas(3), "serverside-applied");
        let without = DEPLOYMENT.replace("  replicas: 2\n", "");
        server.ok(apply, &without, "serverside-applied");
        server.ok("get deploy web -o jsonpath={.spec.replicas}", "", "3");
        server.ok(
            "get deploy web -o yaml --show-managed-fields",
            "",
            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}",
        );
        let mut managers =
            server.ok("get deploy web -o jsonpath={.metadata.managedFields[*].manager}", "", "");
        managers.truncate(managers.trim_end().len());
        // Their order is of the seconds in which they wrote.
        let mut managers: Vec<&str> = managers.split(' ').collect();
        managers.sort_unstable();
        assert_eq!(managers, ["kubectl", "other"]);
        server.fails(apply, &DEPLOYMENT.replace("replicas", "replcas"), "field not declared in schema");
        server.ok(
            "apply --server-side --force-conflicts --dry-run=server -f -",
            &DEPLOYMENT.replace("web:1", "web:2"),
            "server dry run",
        );
        server.ok("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}", "", "web:1");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_applied_objects_become_server_side_applied() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("apply -f -", DEPLOYMENT, "created");
        server.ok("apply --server-side -f -", &replicas(7), "serverside-applied");
        server.ok("get deploy web -o jsonpath={.spec.replicas}", "", "7");
        server.ok("apply -f -", &replicas(8), "configured");
        server.ok("diff -f -", &replicas(8), "");
        server.ok("get deploy web -o jsonpath={.metadata.managedFields[*].operation}", "", "Apply");
    })
    .await
    .unwrap();
}
