//! Gateway API from objects to requests: the real server with the kinds installed, a node's gateway, and what both say in statuses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::world::{DEADLINE, NODE_IP, World, run};

fn api(world: &World, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind));
    match kind {
        "GatewayClass" => Api::all_with(world.client(), &resource),
        _ => Api::namespaced_with(world.client(), "default", &resource),
    }
}

pub(crate) async fn apply(world: &World, kind: &str, name: &str, spec: Value) -> Result<()> {
    apply_with(world, kind, name, json!({}), spec).await
}

pub(crate) async fn apply_with(
    world: &World,
    kind: &str,
    name: &str,
    annotations: Value,
    spec: Value,
) -> Result<()> {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "annotations": annotations}, "spec": spec,
    });
    let params = PatchParams::apply("test").force();
    api(world, kind)
        .patch(name, &params, &Patch::Apply(object))
        .await
        .with_context(|| format!("{kind} {name}"))?;
    Ok(())
}

/// Waits until the object's JSON is as `test` wants it.
pub(crate) async fn until(
    world: &World,
    kind: &str,
    name: &str,
    test: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let end = Instant::now() + DEADLINE;
    loop {
        let found = api(world, kind).get_opt(name).await?;
        let value = serde_json::to_value(found)?;
        if test(&value) {
            return Ok(value);
        }
        ensure!(Instant::now() < end, "{kind} {name}: {value:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn condition<'a>(conditions: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let mut all = conditions.as_array().into_iter().flatten();
    let found = all.find(|condition| condition["type"] == kind);
    let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default();
    (text("status"), text("reason"))
}

/// A server with the kinds, and the class that it made.
async fn world() -> Result<World> {
    let world = World::new().await?;
    installed(&world).await?;
    Ok(world)
}

/// Waits for the kinds and the class.
pub(crate) async fn installed(world: &World) -> Result<()> {
    let is_accepted =
        |class: &Value| condition(&class["status"]["conditions"], "Accepted") == ("True", "Accepted");
    until(world, "GatewayClass", "skep", is_accepted).await?;
    Ok(())
}

async fn gateway(world: &World, name: &str, listeners: Value) -> Result<()> {
    apply(world, "Gateway", name, json!({"gatewayClassName": "skep", "listeners": listeners})).await
}

async fn programmed(world: &World, name: &str) -> Result<Value> {
    let is_programmed = |gateway: &Value| {
        condition(&gateway["status"]["conditions"], "Programmed") == ("True", "Programmed")
            && gateway["status"]["addresses"] == json!([{"type": "IPAddress", "value": NODE_IP}])
    };
    until(world, "Gateway", name, is_programmed).await
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 8080}])
}

#[test]
fn a_gateway_serves_http_and_tls_by_its_routes() -> Result<()> {
    run("gwapi-http", || async {
        let mut world = world().await?;
        world.service("web", 2).await?;
        world.service("other", 1).await?;
        world.secret("cert", "secure.example").await?;
        let tls = json!({"certificateRefs": [{"name": "cert"}]});
        let listeners = json!([
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "secure.example", "tls": tls},
        ]);
        gateway(&world, "main", listeners).await?;
        let route = json!({
            "parentRefs": [{"name": "main"}],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}], "backendRefs": to("other"),
                 "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}]},
                {"matches": [{"path": {"type": "Exact", "value": "/away"}}],
                 "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]},
                {"matches": [{"path": {"type": "Exact", "value": "/nowhere"}}], "backendRefs": to("missing")},
                {"backendRefs": to("web")},
            ],
        });
        apply(&world, "HTTPRoute", "main", route).await?;
        let status = programmed(&world, "main").await?;
        let attached: Vec<_> = status["status"]["listeners"].as_array().unwrap().iter().collect();
        ensure!(attached.iter().all(|listener| listener["attachedRoutes"] == 1), "{status:#}");
        let refused = |route: &Value| {
            let parent = &route["status"]["parents"][0];
            parent["controllerName"] == "skep.io/gateway"
                && condition(&parent["conditions"], "Accepted") == ("True", "Accepted")
                && condition(&parent["conditions"], "ResolvedRefs") == ("False", "BackendNotFound")
        };
        until(&world, "HTTPRoute", "main", refused).await?;
        let answer = world.served("a.com", "/x").await?;
        ensure!((answer.status, answer.service()) == (200, "web"), "{answer:?}");
        let answer = world.get("a.com", "/old/y").await?;
        ensure!((answer.service(), &answer.received["path"]) == ("other", &json!("/new/y")), "{answer:?}");
        let answer = world.get("a.com", "/away").await?;
        ensure!(answer.status == 301 && answer.headers["location"] == "https://a.com/away", "{answer:?}");
        ensure!(world.get("a.com", "/nowhere").await?.status == 500);
        let (answer, _) = world.served_tls("secure.example", "/x").await?;
        ensure!((answer.status, answer.service()) == (200, "web"), "{answer:?}");
        Ok(())
    })
}

#[test]
fn a_listener_accepts_no_connection_before_its_certificate_is_known() -> Result<()> {
    run("gwapi-cert", || async {
        let world = world().await?;
        let (mut is_open, end) = (false, Instant::now() + DEADLINE);
        for round in 0..10 {
            let secret = format!("cert-{round}");
            let certificate = world.secret(&secret, "secure.example").await?;
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
            let tls = json!({"certificateRefs": [{"name": secret}]});
            let https = json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls});
            gateway(&world, "main", json!([https])).await?;
            loop {
                match world.get_tls("secure.example", "/").await {
                    Ok((_, leaf)) if leaf == certificate => break,
                    Ok(_) => {}
                    Err(error) => ensure!(!is_open && is_refused(&error), "round {round}: {error:#}"),
                }
                ensure!(Instant::now() < end, "round {round}: the certificate is not served");
            }
            is_open = true;
        }
        Ok(())
    })
}

fn is_refused(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[test]
fn conflicts_and_references_that_lead_nowhere_are_conditions() -> Result<()> {
    run("gwapi-faults", || async {
        let mut world = world().await?;
        world.service("web", 1).await?;
        let listeners = json!([
            {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "a.com"},
            {"name": "tcp", "port": 80, "protocol": "TCP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "missing"}]}},
            {"name": "ok", "port": 8080, "protocol": "HTTP"},
        ]);
        gateway(&world, "main", listeners).await?;
        let of = |gateway: &Value, name: &str, kind: &str| {
            let mut all = gateway["status"]["listeners"].as_array().into_iter().flatten();
            let found = all.find(|listener| listener["name"] == name).cloned().unwrap_or_default();
            let (status, reason) = condition(&found["conditions"], kind);
            (status.to_owned(), reason.to_owned())
        };
        let is = |found: (String, String), status: &str, reason: &str| {
            found == (status.to_owned(), reason.to_owned())
        };
        let as_wanted = |gateway: &Value| {
            ["http", "tcp"].iter().all(|name| is(of(gateway, name, "Conflicted"), "True", "ProtocolConflict"))
                && is(of(gateway, "https", "ResolvedRefs"), "False", "InvalidCertificateRef")
                && is(of(gateway, "ok", "Programmed"), "True", "Programmed")
        };
        until(&world, "Gateway", "main", as_wanted).await?;
        for (name, parent, hostnames, reason) in [
            ("no-section", json!({"name": "main", "sectionName": "none"}), json!([]), "NoMatchingParent"),
            (
                "no-host",
                json!({"name": "main", "sectionName": "http"}),
                json!(["b.com"]),
                "NoMatchingListenerHostname",
            ),
            ("kind", json!({"name": "main", "sectionName": "tcp"}), json!([]), "NotAllowedByListeners"),
        ] {
            let rules = json!([{"backendRefs": to("web")}]);
            apply(
                &world,
                "HTTPRoute",
                name,
                json!({"parentRefs": [parent], "hostnames": hostnames, "rules": rules}),
            )
            .await?;
            let is_refused = |route: &Value| {
                condition(&route["status"]["parents"][0]["conditions"], "Accepted") == ("False", reason)
            };
            until(&world, "HTTPRoute", name, is_refused).await?;
        }
        Ok(())
    })
}

#[test]
fn what_the_schemas_refuse_does_not_reach_the_gateway() -> Result<()> {
    run("gwapi-schema", || async {
        let world = world().await?;
        let invalid = json!({"gatewayClassName": "skep", "listeners": [
            {"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "a", "port": 81, "protocol": "HTTP"}]});
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "invalid"}, "spec": invalid,
        });
        let refused =
            api(&world, "Gateway").create(&PostParams::default(), &serde_json::from_value(object)?).await;
        ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 422), "{refused:?}");
        Ok(())
    })
}

#[test]
fn connections_are_passed_on_by_weight_and_by_the_name_in_their_handshake() -> Result<()> {
    run("gwapi-streams", || async {
        let mut world = world().await?;
        world.service("web", 1).await?;
        world.service("other", 1).await?;
        world.secret("cert", "secure.example").await?;
        let listeners = json!([
            {"name": "tcp", "port": 80, "protocol": "TCP"},
            {"name": "tls", "port": 443, "protocol": "TLS", "hostname": "secure.example",
             "tls": {"mode": "Terminate", "certificateRefs": [{"name": "cert"}]}},
        ]);
        gateway(&world, "main", listeners).await?;
        let weighed =
            json!([{"name": "web", "port": 8080, "weight": 1}, {"name": "other", "port": 8080, "weight": 1}]);
        apply(
            &world,
            "TCPRoute",
            "main",
            json!({
                "parentRefs": [{"name": "main", "sectionName": "tcp"}], "rules": [{"backendRefs": weighed}],
            }),
        )
        .await?;
        apply(
            &world,
            "TLSRoute",
            "main",
            json!({
                "parentRefs": [{"name": "main", "sectionName": "tls"}], "hostnames": ["secure.example"],
                "rules": [{"backendRefs": to("web")}],
            }),
        )
        .await?;
        programmed(&world, "main").await?;
        let (mut seen, end) = (std::collections::BTreeSet::new(), Instant::now() + DEADLINE);
        while seen.len() < 2 {
            ensure!(Instant::now() < end, "only {seen:?}");
            if let Ok(answer) = world.get("a.com", "/").await {
                seen.insert(answer.service().to_owned());
            }
        }
        let (answer, _) = world.served_tls("secure.example", "/x").await?;
        ensure!((answer.status, answer.service()) == (200, "web"), "{answer:?}");
        Ok(())
    })
}
