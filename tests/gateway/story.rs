//! What changes while requests come: endpoints, certificates, Ingresses.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::world::{NODE_IP, World, run};

const DEADLINE: Duration = Duration::from_secs(20);
/// From a write to its first effect; the fastest of some writes keeps it on a machine that does other work too.
const WRITE_TO_ROUTE: Duration = Duration::from_millis(50);

#[test]
fn no_request_fails_while_endpoints_are_replaced() -> Result<()> {
    run("gw-rolling", || async {
        let mut world = World::new().await?;
        world.service("web", 2).await?;
        let backend = json!({"service": {"name": "web", "port": {"number": 8080}}});
        world.ingress("web", json!({"defaultBackend": backend})).await?;
        world.exposed("web").await?;
        for round in 0..6 {
            let (first, second) = (world.endpoint("web").await?, world.endpoint("web").await?);
            world.endpoints_of("web", &[first, second]).await?;
            for _ in 0..30 {
                let answer = world.get("a.com", "/").await?;
                ensure!(answer.status == 200, "round {round}: {answer:?}");
            }
        }
        let mut out = String::new();
        world.gateway.write_metrics(&mut out);
        ensure!(out.contains("requests_total{route=\"ingress/default/web\",code=\"2xx\"} 180"), "{out}");
        Ok(())
    })
}

#[test]
fn a_route_is_live_at_once_and_gone_with_its_ingress() -> Result<()> {
    run("gw-live", || async {
        let mut world = World::new().await?;
        world.service("web", 1).await?;
        let backend = json!({"service": {"name": "web", "port": {"number": 8080}}});
        world.ingress("first", json!({"rules": [{"host": "first", "http": {"paths": [{"pathType": "Prefix", "path": "/", "backend": backend}]}}]})).await?;
        world.exposed("first").await?;
        let mut fastest = Duration::MAX;
        for number in 0..5 {
            let host = format!("host-{number}");
            let rules = json!([{"host": host, "http": {"paths": [{"pathType": "Prefix", "path": "/", "backend": backend}]}}]);
            world.ingress(&host, json!({"rules": rules})).await?;
            let start = Instant::now();
            while world.get(&host, "/").await?.status != 200 {
                ensure!(start.elapsed() < DEADLINE, "{host} is not served");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            fastest = fastest.min(start.elapsed());
        }
        ensure!(fastest < WRITE_TO_ROUTE, "{fastest:?}");
        world.ingresses().delete("host-0", &DeleteParams::default()).await?;
        let start = Instant::now();
        while world.get("host-0", "/").await?.status != 404 {
            ensure!(start.elapsed() < DEADLINE, "host-0 is still served");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    })
}

#[test]
fn a_certificate_is_replaced_and_what_cannot_be_served_is_said() -> Result<()> {
    run("gw-tls", || async {
        let mut world = World::new().await?;
        world.service("web", 1).await?;
        let backend = json!({"service": {"name": "web", "port": {"number": 8080}}});
        let resource = json!({"resource": {"kind": "Bucket", "name": "x"}});
        world.secret("cert", "a.com").await?;
        let paths = json!([
            {"pathType": "Prefix", "path": "/", "backend": backend}, {"pathType": "Prefix", "path": "/bucket", "backend": resource},
        ]);
        let spec = json!({"tls": [{"hosts": ["a.com"], "secretName": "cert"}], "rules": [{"host": "a.com", "http": {"paths": paths}}]});
        world.ingress("web", spec).await?;
        world.exposed("web").await?;
        let (answer, first) = world.served_tls("a.com", "/").await?;
        ensure!(
            answer.service() == "web" && world.get("a.com", "/bucket").await?.status == 503,
            "{answer:?}"
        );
        world.secret("cert", "a.com").await?;
        let start = Instant::now();
        while world.served_tls("a.com", "/").await?.1 == first {
            ensure!(start.elapsed() < DEADLINE, "the old certificate is still in force");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while !world.events("web").await?.contains("ResourceBackend") {
            ensure!(start.elapsed() < DEADLINE, "{:?}", world.events("web").await?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The class decides who serves: with another one the route ends.
        let other = Patch::Merge(json!({"spec": {"ingressClassName": "other"}}));
        world.ingresses().patch("web", &PatchParams::default(), &other).await?;
        while world.get("a.com", "/").await.is_ok() {
            ensure!(start.elapsed() < DEADLINE, "the port is still open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
}

#[test]
fn a_port_that_another_program_has_is_said_on_the_node_until_it_is_free() -> Result<()> {
    run("gw-bind", || async {
        let mut world = World::new().await?;
        let other = tokio::net::TcpListener::bind((NODE_IP, 80)).await?;
        world.service("web", 1).await?;
        let backend = json!({"service": {"name": "web", "port": {"number": 8080}}});
        world.secret("cert", "a.com").await?;
        let spec = json!({"defaultBackend": backend, "tls": [{"hosts": ["a.com"], "secretName": "cert"}]});
        world.ingress("web", spec).await?;
        world.condition("ListenFailedInPart", "listen on 10.251.0.1:80").await?;
        ensure!(world.served_tls("a.com", "/").await?.0.service() == "web");
        drop(other);
        world.condition("Listening", "10.251.0.1:80").await?;
        ensure!(world.get("a.com", "/").await?.service() == "web");
        Ok(())
    })
}
