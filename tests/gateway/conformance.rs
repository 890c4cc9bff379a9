//! The scenarios of the public suite (kubernetes-sigs/ingress-controller-conformance), as one table a feature.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::world::{World, run};

fn backend(service: &str, port: Value) -> Value {
    json!({"service": {"name": service, "port": port}})
}

fn path(kind: &str, path: &str, service: &str) -> Value {
    json!({"pathType": kind, "path": path, "backend": backend(service, json!({"number": 8080}))})
}

/// Each row: host, path, and the Service that answers or the status.
async fn expect(world: &World, rows: &[(&str, &str, Result<&str, u16>)]) -> Result<()> {
    for (host, path, wanted) in rows {
        let answer = world.get(host, path).await.with_context(|| format!("{host}{path}"))?;
        match wanted {
            Ok(service) => {
                ensure!(answer.status == 200 && answer.service() == *service, "{host}{path}: {answer:?}");
                ensure!(answer.received["host"] == **host, "{host}{path}: {answer:?}");
            }
            Err(status) => ensure!(answer.status == *status, "{host}{path}: {answer:?}"),
        }
    }
    Ok(())
}

#[test]
fn default_backend() -> Result<()> {
    run("gw-default", || async {
        let mut world = World::new().await?;
        world.service("echo-service", 1).await?;
        world
            .ingress(
                "default-backend",
                json!({"defaultBackend": backend("echo-service", json!({"number": 8080}))}),
            )
            .await?;
        world.exposed("default-backend").await?;
        for (method, host, path) in [
            ("GET", "my-host", ""),
            ("GET", "my-host", "sub-path"),
            ("POST", "some-host", ""),
            ("PUT", "", "resource"),
            ("DELETE", "some-host", "resource"),
            ("PATCH", "my-host", "resource"),
        ] {
            // A client sends the address where the suite names no host.
            let host = if host.is_empty() { "10.251.0.1" } else { host };
            let path = format!("/{path}");
            let answer = world.send(method, host, &path).await?;
            ensure!(
                answer.status == 200 && answer.service() == "echo-service",
                "{method} {host}{path}: {answer:?}"
            );
            for name in ["content-length", "content-type", "date", "server"] {
                ensure!(answer.headers.contains_key(name), "{name}: {answer:?}");
            }
            for (field, value) in [
                ("method", method),
                ("path", &path),
                ("proto", "HTTP/1.1"),
                ("user_agent", "Go-http-client/1.1"),
            ] {
                ensure!(answer.received[field] == *value, "{field}: {answer:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn host_rules() -> Result<()> {
    run("gw-hosts", || async {
        let mut world = World::new().await?;
        world.service("wildcard-foo-com", 1).await?;
        world.service("foo-bar-com", 1).await?;
        world.secret("conformance-tls", "foo.bar.com").await?;
        let by_name = json!({"pathType": "Prefix", "path": "/", "backend": backend("foo-bar-com", json!({"name": "http"}))});
        let spec = json!({
            "tls": [{"hosts": ["foo.bar.com"], "secretName": "conformance-tls"}],
            "rules": [
                {"host": "*.foo.com", "http": {"paths": [path("Prefix", "/", "wildcard-foo-com")]}},
                {"host": "foo.bar.com", "http": {"paths": [by_name]}},
            ],
        });
        world.ingress("host-rules", spec).await?;
        world.exposed("host-rules").await?;
        let (answer, _) = world.served_tls("foo.bar.com", "/").await?;
        ensure!(answer.status == 200 && answer.service() == "foo-bar-com", "{answer:?}");
        expect(
            &world,
            &[
                ("foo.bar.com", "/", Ok("foo-bar-com")),
                ("subdomain.bar.com", "/", Err(404)),
                ("bar.foo.com", "/", Ok("wildcard-foo-com")),
                ("baz.bar.foo.com", "/", Err(404)),
                ("foo.com", "/", Err(404)),
            ],
        )
        .await
    })
}

#[test]
fn ingress_class() -> Result<()> {
    run("gw-class", || async {
        let mut world = World::new().await?;
        world.service("ingress-class-prefix", 1).await?;
        let rules = json!([{"host": "ingress-class", "http": {"paths": [path("Prefix", "/", "ingress-class-prefix")]}}]);
        world
            .ingress(
                "test-ingress-class",
                json!({"ingressClassName": "some-invalid-class-name", "rules": rules}),
            )
            .await?;
        // One that is served later, so that its status is no matter of time.
        world
            .ingress(
                "served",
                json!({"defaultBackend": backend("ingress-class-prefix", json!({"number": 8080}))}),
            )
            .await?;
        world.exposed("served").await?;
        ensure!(world.addresses("test-ingress-class").await?.is_empty());
        Ok(())
    })
}

#[test]
fn load_balancing() -> Result<()> {
    run("gw-balance", || async {
        let mut world = World::new().await?;
        world.service("echo-service", 10).await?;
        world
            .ingress(
                "load-balancing",
                json!({"defaultBackend": backend("echo-service", json!({"number": 8080}))}),
            )
            .await?;
        world.exposed("load-balancing").await?;
        let mut pods = BTreeSet::new();
        for _ in 0..100 {
            let answer = world.get("load-balancing", "/").await?;
            ensure!(answer.status == 200, "{answer:?}");
            pods.insert(answer.received["pod"].to_string());
        }
        ensure!(pods.len() == 10, "{pods:?}");
        Ok(())
    })
}

#[test]
fn path_rules() -> Result<()> {
    run("gw-paths", || async {
        let mut world = World::new().await?;
        for name in [
            "foo-exact",
            "foo-prefix",
            "aaa-slash-bbb-prefix",
            "aaa-prefix",
            "aaa-slash-bbb-slash-prefix",
            "foo-slash-exact",
        ] {
            world.service(name, 1).await?;
        }
        let rules = json!([
            {"host": "exact-path-rules", "http": {"paths": [path("Exact", "/foo", "foo-exact")]}},
            {"host": "prefix-path-rules", "http": {"paths": [
                path("Prefix", "/foo", "foo-prefix"), path("Prefix", "/aaa/bbb", "aaa-slash-bbb-prefix"), path("Prefix", "/aaa", "aaa-prefix"),
            ]}},
            {"host": "mixed-path-rules", "http": {"paths": [path("Prefix", "/foo", "foo-prefix"), path("Exact", "/foo", "foo-exact")]}},
            {"host": "trailing-slash-path-rules", "http": {"paths": [
                path("Prefix", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"), path("Exact", "/foo/", "foo-slash-exact"),
            ]}},
        ]);
        world.ingress("path-rules", json!({"rules": rules})).await?;
        world.exposed("path-rules").await?;
        expect(
            &world,
            &[
                ("exact-path-rules", "/foo", Ok("foo-exact")),
                ("exact-path-rules", "/foo/", Err(404)),
                ("exact-path-rules", "/FOO", Err(404)),
                ("exact-path-rules", "/bar", Err(404)),
                ("prefix-path-rules", "/foo", Ok("foo-prefix")),
                ("prefix-path-rules", "/foo/", Ok("foo-prefix")),
                ("prefix-path-rules", "/FOO", Err(404)),
                ("prefix-path-rules", "/aaa/bbb", Ok("aaa-slash-bbb-prefix")),
                ("prefix-path-rules", "/aaa/bbb/ccc", Ok("aaa-slash-bbb-prefix")),
                ("prefix-path-rules", "/aaa/ccc", Ok("aaa-prefix")),
                ("prefix-path-rules", "/aaaccc", Err(404)),
                ("mixed-path-rules", "/foo", Ok("foo-exact")),
                ("trailing-slash-path-rules", "/aaa/bbb", Ok("aaa-slash-bbb-slash-prefix")),
                ("trailing-slash-path-rules", "/aaa/bbb/", Ok("aaa-slash-bbb-slash-prefix")),
                ("trailing-slash-path-rules", "/foo", Err(404)),
                ("trailing-slash-path-rules", "/foo/", Ok("foo-slash-exact")),
            ],
        )
        .await
    })
}
