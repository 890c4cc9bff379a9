//! Versions that a webhook converts: one is stored, all are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::webhook::Webhook;

/// A webhook that renames a field.
struct Converter {
    webhook: Webhook,
    calls: Arc<AtomicUsize>,
}

impl Converter {
    async fn start() -> Converter {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let webhook = Webhook::start(move |_, asked| {
            counted.fetch_add(1, Ordering::SeqCst);
            match convert(asked) {
                Ok(objects) => json!({"result": {"status": "Success"}, "convertedObjects": objects}),
                Err(why) => json!({"result": {"status": "Failed", "message": why}}),
            }
        });
        Converter { webhook: webhook.await, calls }
    }

    /// Stored as v1 with `spec.cron`; v2 calls it `spec.schedule`.
    fn definition(&self) -> String {
        let version = |name: &str, storage: bool, field: &str| {
            json!({
                "name": name, "served": true, "storage": storage,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                    "properties": {field: {"type": "string"}}}}}},
            })
        };
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "jobs.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "jobs", "kind": "Job"},
                "versions": [version("v1", true, "cron"), version("v2", false, "schedule")],
                "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                    "clientConfig": self.webhook.client("convert")}},
            },
        })
        .to_string()
    }
}

fn convert(asked: &Value) -> Result<Vec<Value>, String> {
    let wanted = &asked["desiredAPIVersion"];
    let (from, to) = if wanted == "example.com/v2" { ("cron", "schedule") } else { ("schedule", "cron") };
    let objects = asked["objects"].as_array().unwrap().iter().cloned();
    let one = |mut object: Value| {
        if object["spec"][from] == "unknown" {
            return Err("cannot convert that".to_owned());
        }
        let value = object["spec"].as_object_mut().unwrap().remove(from);
        object["spec"][to] = value.unwrap_or_default();
        object["apiVersion"] = wanted.clone();
        Ok(object)
    };
    objects.map(one).collect()
}

fn job(version: &str, name: &str, field: &str, value: &str) -> String {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Job", "metadata": {"name": name},
        "spec": {field: value}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_converts_between_versions() {
    let server = Server::start().await;
    let webhook = Converter::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("create -f -", &webhook.definition(), "created");
        server.ok("wait --for=condition=Established crd/jobs.example.com --timeout=30s", "", "condition met");
        server.ok("create -f -", &job("v1", "a", "cron", "1"), "created");
        server.ok("create -f -", &job("v2", "b", "schedule", "2"), "created");
        let fields = "-o jsonpath={.apiVersion}={.spec.cron}{.spec.schedule}";
        server.ok(&format!("get jobs.v1.example.com b {fields}"), "", "example.com/v1=2");
        server.ok(&format!("get jobs.v2.example.com a {fields}"), "", "example.com/v2=1");
        server.ok("create -f -", &job("v1", "c", "cron", "3"), "created");
        let before = webhook.calls.load(Ordering::SeqCst);
        server.ok("get jobs.v2.example.com -o jsonpath={.items[*].spec.schedule}", "", "1 2 3");
        assert_eq!(webhook.calls.load(Ordering::SeqCst) - before, 1, "a list is converted in one call");
        server.ok(
            "patch jobs.v2.example.com a --type=merge -p \
            {\"spec\":{\"schedule\":\"9\"},\"metadata\":{\"labels\":{\"x\":\"y\"}}}",
            "",
            "patched",
        );
        server.ok(&format!("get jobs.v1.example.com a {fields}"), "", "example.com/v1=9");
        server.ok(
            "wait jobs.v2.example.com/a --for=jsonpath={.spec.schedule}=9 --timeout=10s",
            "",
            "condition met",
        );
        server.ok("get jobs.v2.example.com -l x=y", "", "a ");
        server.fails(
            "create -f -",
            &job("v2", "d", "schedule", "unknown"),
            "conversion webhook for example.com/v2, Kind=Job failed: cannot convert that",
        );
        let broken = format!(
            "patch crd jobs.example.com --type=merge -p \
            {{\"spec\":{{\"conversion\":{{\"webhook\":{{\"clientConfig\":{{\"caBundle\":\"{}\"}}}}}}}}}}",
            STANDARD.encode("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
        );
        server.ok(&broken, "", "patched");
        server.fails(
            "get jobs.v2.example.com a",
            "",
            "conversion webhook for example.com/v1, Kind=Job failed: Post",
        );
        server.ok("get jobs.v1.example.com a", "", "a ");
        server.ok("delete jobs.v1.example.com a", "", "deleted");
    })
    .await
    .unwrap();
}
