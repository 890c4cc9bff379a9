//! Certificates of clients and of endpoints: the gateway is the endpoint of its own requests, and asks itself for what it presents.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use skep_tests::api_server::Authority;

use crate::gateway_api::{apply, condition, installed, until};
use crate::world::{DEADLINE, NODE_IP, World, run};

const HOST: &str = "secure.example";

/// A Service whose endpoint is the listener of TLS.
async fn inner(world: &World) -> Result<()> {
    let services: Api<Service> = Api::namespaced(world.client(), "default");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "inner"},
        "spec": {"ports": [{"name": "https", "port": 8443}]},
    });
    let slices: Api<EndpointSlice> = Api::namespaced(world.client(), "default");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "inner", "labels": {"kubernetes.io/service-name": "inner"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [NODE_IP]}],
        "ports": [{"name": "https", "port": 443, "protocol": "TCP"}],
    });
    let params = PatchParams::apply("test").force();
    services.patch("inner", &params, &Patch::Apply(service)).await?;
    slices.patch("inner", &params, &Patch::Apply(slice)).await?;
    Ok(())
}

async fn trust(world: &World, pem: &str) -> Result<()> {
    let config_maps: Api<ConfigMap> = Api::namespaced(world.client(), "default");
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": pem},
    });
    config_maps.patch("ca", &PatchParams::apply("test").force(), &Patch::Apply(object)).await?;
    Ok(())
}

/// A Gateway that asks its clients over TLS for certificates and presents one itself; requests without TLS go to the listener with it.
async fn routes(world: &World) -> Result<()> {
    let reference = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    let gateway = json!({
        "gatewayClassName": "skep",
        "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}},
        ],
        "tls": {
            "backend": {"clientCertificateRef": {"name": "identity"}},
            "frontend": {"default": {"validation": {"caCertificateRefs": reference}}},
        },
    });
    apply(world, "Gateway", "main", gateway).await?;
    for (section, service, port) in [("http", "inner", 8443), ("https", "web", 8080)] {
        let rules = json!([{"backendRefs": [{"name": service, "port": port}]}]);
        let spec = json!({"parentRefs": [{"name": "main", "sectionName": section}], "rules": rules});
        apply(world, "HTTPRoute", section, spec).await?;
    }
    let policy = json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "inner", "sectionName": "https"}],
        "validation": {"caCertificateRefs": reference, "hostname": HOST},
    });
    apply(world, "BackendTLSPolicy", "inner", policy).await
}

/// Waits until the policy and the listener of TLS have these conditions of the type `Accepted`.
async fn accepted(world: &World, policy: (&str, &str), listener: (&str, &str)) -> Result<()> {
    let is_policy =
        |found: &Value| condition(&found["status"]["ancestors"][0]["conditions"], "Accepted") == policy;
    until(world, "BackendTLSPolicy", "inner", is_policy).await?;
    let is_listener = |found: &Value| {
        let mut all = found["status"]["listeners"].as_array().into_iter().flatten();
        let https = all.find(|listener| listener["name"] == "https");
        https.is_some_and(|https| condition(&https["conditions"], "Accepted") == listener)
    };
    until(world, "Gateway", "main", is_listener).await?;
    Ok(())
}

async fn fails(world: &World) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = world.get(HOST, "/").await;
        if answer.as_ref().is_ok_and(|answer| matches!(answer.status, 502 | 503)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the answer is {answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn both_ends_have_certificates_of_the_authorities_that_are_named_or_nothing_is_said() -> Result<()> {
    run("gwapi-certs", || async {
        let authority = Arc::new(Authority::new()?);
        let mut world = World::start(authority.clone(), None).await?;
        installed(&world).await?;
        world.service("web", 1).await?;
        inner(&world).await?;
        world.secret("cert", HOST).await?;
        world.secret("identity", "gateway.example").await?;
        routes(&world).await?;
        let refused = ("False", "NoValidCACertificate");
        accepted(&world, refused, refused).await?;
        fails(&world).await?;
        trust(&world, &authority.certificate).await?;
        accepted(&world, ("True", "Accepted"), ("True", "Accepted")).await?;
        let answer = world.served(HOST, "/x").await?;
        ensure!((answer.service(), &answer.received["path"]) == ("web", &json!("/x")), "{answer:?}");
        let without = world.get_tls(HOST, "/").await;
        ensure!(without.is_err(), "{without:?}");
        // Of other authorities neither end has a certificate.
        trust(&world, &Authority::new()?.certificate).await?;
        fails(&world).await?;
        trust(&world, &authority.certificate).await?;
        world.served(HOST, "/x").await?;
        Ok(())
    })
}
