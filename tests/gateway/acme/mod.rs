//! Certificates by ACME, from annotations to handshakes: the real server, a node's gateway, and an authority that looks at it.

mod authority;
mod validation;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use skep_gateway::acme::Pace;
use skep_network::AcmeSettings;
use skep_tests::api_server::Authority;

use crate::gateway_api::{self, apply_with};
use crate::world::{DEADLINE, World, run};
use authority::{AcmeAuthority, Refusal};

const CHALLENGES: &str = "skep-acme-challenges";

async fn world() -> Result<(World, Arc<AcmeAuthority>)> {
    let authority = Arc::new(Authority::new()?);
    let acme = AcmeAuthority::start(authority.clone()).await?;
    let mut settings =
        AcmeSettings::new(acme.directory.clone(), Vec::new(), Some(acme.certificate().as_bytes()))?;
    settings.pace = Pace {
        first_retry: Duration::from_secs(1),
        max_retry: Duration::from_secs(2),
        rate_limited: Duration::from_secs(600),
        propagation: Duration::from_millis(300),
    };
    Ok((World::start(authority, Some(settings)).await?, acme))
}

/// An Ingress whose hosts have their certificate in a Secret of the same name.
async fn ingress(world: &World, name: &str, annotations: Value, hosts: &[&str]) -> Result<()> {
    let backend = json!({"service": {"name": "web", "port": {"number": 8080}}});
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "annotations": annotations},
        "spec": {"ingressClassName": "skep", "defaultBackend": backend, "tls": [{"hosts": hosts, "secretName": name}]},
    });
    world.ingresses().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await?;
    Ok(())
}

fn secrets(world: &World) -> Api<Secret> {
    Api::namespaced(world.client(), "default")
}

async fn until<T>(what: &str, mut test: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + 3 * DEADLINE;
    loop {
        if let Some(found) = test().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn secret(world: &World, name: &str) -> Result<Secret> {
    until(name, async || Ok(secrets(world).get_opt(name).await?)).await
}

async fn event(world: &World, object: &str, reason: &str) -> Result<()> {
    until(reason, async || Ok(world.events(object).await?.contains(reason).then_some(()))).await
}

fn on() -> Value {
    json!({"skep.io/acme": "true"})
}

#[test]
fn an_ingress_gets_its_certificate_and_a_new_one_before_that_expires() -> Result<()> {
    run("acme-http", || async {
        let (mut world, acme) = world().await?;
        world.service("web", 1).await?;
        acme.next_lifetime(Duration::from_secs(6));
        ingress(&world, "web", on(), &["a.example", "www.a.example"]).await?;
        let first = secret(&world, "web").await?;
        ensure!(first.type_.as_deref() == Some("kubernetes.io/tls"), "{:?}", first.type_);
        let annotations = first.metadata.annotations.unwrap_or_default();
        ensure!(annotations.get("skep.io/acme-directory") == Some(&acme.directory), "{annotations:?}");
        let owners = first.metadata.owner_references.unwrap_or_default();
        ensure!(
            owners.len() == 1 && (owners[0].kind.as_str(), owners[0].name.as_str()) == ("Ingress", "web")
        );
        // Two thirds of six seconds later there is another one, of 90 days, which the gateway presents without a restart.
        until("the renewal", async || Ok((secret(&world, "web").await?.data != first.data).then_some(())))
            .await?;
        for host in ["a.example", "www.a.example"] {
            let (answer, _) = world.served_tls(host, "/").await?;
            ensure!((answer.status, answer.service()) == (200, "web"), "{answer:?}");
        }
        ensure!(acme.count("/new-account") == 1 && acme.count("/new-order") == 2);
        // What answered the challenges is withdrawn.
        let maps: Api<ConfigMap> = Api::namespaced(world.client(), "kube-system");
        let is_empty = async || {
            let data = maps.get(CHALLENGES).await?.data.unwrap_or_default();
            Ok(data.is_empty().then_some(()))
        };
        until("no challenges", is_empty).await
    })
}

#[test]
fn a_node_reads_what_answers_challenges_and_not_the_accounts_key() -> Result<()> {
    run("acme-rights", || async {
        let (mut world, _acme) = world().await?;
        world.service("web", 1).await?;
        ingress(&world, "web", on(), &["a.example"]).await?;
        secret(&world, "web").await?;
        let maps: Api<ConfigMap> = Api::namespaced(world.client_as_node(), "kube-system");
        maps.get(CHALLENGES).await?;
        let of_system: Api<Secret> = Api::namespaced(world.client(), "kube-system");
        let all = of_system.list(&ListParams::default()).await?.items;
        let account = all.iter().find(|secret| secret.type_.as_deref() == Some("skep.io/acme-account"));
        let account = account.and_then(|secret| secret.metadata.name.as_deref()).unwrap();
        let of_node: Api<Secret> = Api::namespaced(world.client_as_node(), "kube-system");
        let refused = of_node.get(account).await;
        ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
        let written = maps.delete(CHALLENGES, &DeleteParams::default()).await;
        ensure!(matches!(&written, Err(kube::Error::Api(status)) if status.code == 403), "{written:?}");
        Ok(())
    })
}

#[test]
fn a_gateway_without_a_port_for_http_and_its_listener_set_are_validated_in_the_handshake() -> Result<()> {
    run("acme-alpn", || async {
        let (mut world, _acme) = world().await?;
        world.service("web", 1).await?;
        gateway_api::installed(&world).await?;
        let https = |host: &str, secret: &str| json!([{"name": "https", "port": 443, "protocol": "HTTPS", "hostname": host, "tls": {"certificateRefs": [{"name": secret}]}}]);
        let spec = json!({
            "gatewayClassName": "skep", "listeners": https("own.example", "own"),
            "allowedListeners": {"namespaces": {"from": "Same"}},
        });
        apply_with(&world, "Gateway", "main", on(), spec).await?;
        let spec = json!({"parentRef": {"name": "main"}, "listeners": https("set.example", "set")});
        apply_with(&world, "ListenerSet", "set", on(), spec).await?;
        let to_set = json!({"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "set"});
        let rules = json!([{"backendRefs": [{"name": "web", "port": 8080}]}]);
        let spec = json!({"parentRefs": [{"name": "main"}, to_set], "rules": rules});
        apply_with(&world, "HTTPRoute", "main", json!({}), spec).await?;
        for host in ["own.example", "set.example"] {
            let (answer, _) = world.served_tls(host, "/").await?;
            ensure!((answer.status, answer.service()) == (200, "web"), "{host}: {answer:?}");
        }
        let owners = secret(&world, "set").await?.metadata.owner_references.unwrap_or_default();
        ensure!(owners.len() == 1 && owners[0].kind == "ListenerSet", "{owners:?}");
        Ok(())
    })
}

#[test]
fn what_an_authority_refuses_is_an_event_and_ordered_again() -> Result<()> {
    run("acme-faults", || async {
        let (mut world, acme) = world().await?;
        world.service("web", 1).await?;
        acme.fail_next_validation();
        ingress(&world, "invalid", on(), &["invalid.example"]).await?;
        event(&world, "invalid", "AcmeOrderFailed").await?;
        secret(&world, "invalid").await?;
        // It says when to come back, which counts more than ten minutes.
        acme.refuse_next(Refusal { status: 429, kind: "rateLimited", retry_after: Some("2") });
        ingress(&world, "limited", on(), &["limited.example"]).await?;
        event(&world, "limited", "AcmeOrderFailed").await?;
        secret(&world, "limited").await?;
        // A nonce that is used up and an account that is gone cost another request and another account.
        acme.forget_nonces();
        acme.forget_accounts();
        ingress(&world, "forgotten", on(), &["forgotten.example"]).await?;
        secret(&world, "forgotten").await?;
        ensure!(acme.count("/new-account") == 2, "{}", acme.count("/new-account"));
        Ok(())
    })
}

#[test]
fn secrets_of_others_and_wildcards_are_refused_and_other_annotations_left_alone() -> Result<()> {
    run("acme-refused", || async {
        let (mut world, acme) = world().await?;
        world.service("web", 1).await?;
        let own = world.secret("own", "own.example").await?;
        ingress(&world, "own", on(), &["own.example"]).await?;
        event(&world, "own", "AcmeForeignSecret").await?;
        ingress(&world, "wild", on(), &["*.wild.example"]).await?;
        event(&world, "wild", "AcmeWildcard").await?;
        let of_cert_manager = json!({"cert-manager.io/cluster-issuer": "letsencrypt"});
        ingress(&world, "other", of_cert_manager.clone(), &["other.example"]).await?;
        // An order that is made later shows that the others were looked at.
        ingress(&world, "last", on(), &["last.example"]).await?;
        secret(&world, "last").await?;
        ensure!(acme.count("/new-order") == 1);
        let kept = secret(&world, "own").await?.data.unwrap_or_default();
        ensure!(kept["tls.crt"].0 == own.as_bytes());
        ensure!(
            secrets(&world).get_opt("wild").await?.is_none()
                && secrets(&world).get_opt("other").await?.is_none()
        );
        let annotations = world.ingresses().get("other").await?.metadata.annotations;
        ensure!(serde_json::to_value(annotations)? == of_cert_manager);
        Ok(())
    })
}

#[test]
fn a_server_without_a_directory_says_so() -> Result<()> {
    run("acme-off", || async {
        let mut world = World::new().await?;
        world.service("web", 1).await?;
        ingress(&world, "web", on(), &["a.example"]).await?;
        event(&world, "web", "AcmeDisabled").await?;
        ensure!(secrets(&world).get_opt("web").await?.is_none());
        Ok(())
    })
}
