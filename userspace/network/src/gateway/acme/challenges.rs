//! The ConfigMap from which every node's gateway learns what answers challenges.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skep_gateway::acme::{CHALLENGES, Challenge};
use tokio::sync::watch;

const MANAGER: &str = "skep-acme";
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Challenges by token, as they should be and as they are written. Clones share them.
#[derive(Clone)]
pub(super) struct Published {
    wanted: watch::Sender<Data>,
    written: watch::Receiver<Option<Data>>,
}

type Data = BTreeMap<String, String>;

/// What is published of an order; it is withdrawn with the drop.
pub(super) struct Answers {
    of: Published,
    tokens: Vec<String>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        let tokens = std::mem::take(&mut self.tokens);
        self.of.wanted.send_modify(|data| tokens.iter().for_each(|token| drop(data.remove(token))));
    }
}

/// The challenges, and the future that writes them. At first there are none.
pub(super) fn publish(client: kube::Client) -> (Published, impl Future<Output = ()>) {
    let (wanted, to_write) = watch::channel(Data::new());
    let (written_in, written) = watch::channel(None);
    (Published { wanted, written }, write(client, to_write, written_in))
}

async fn write(
    client: kube::Client,
    mut wanted: watch::Receiver<Data>,
    written: watch::Sender<Option<Data>>,
) {
    let (namespace, name) = CHALLENGES;
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    loop {
        let data = wanted.borrow_and_update().clone();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data,
        });
        match maps.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await {
            Ok(_) => drop(written.send_replace(Some(data))),
            Err(error) => {
                tracing::warn!(%error, "write the challenges of ACME failed; it is retried");
                tokio::time::sleep(RETRY_INTERVAL).await;
                continue;
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

impl Published {
    /// Publishes challenges by token; they are written when it returns. `None`: they could not be written in time.
    pub(super) async fn add(&self, challenges: Vec<(String, Challenge)>) -> Option<Answers> {
        let tokens: Vec<String> = challenges.iter().map(|(token, _)| token.clone()).collect();
        let answers = Answers { of: self.clone(), tokens };
        self.wanted.send_modify(|data| {
            data.extend(challenges.into_iter().map(|(token, challenge)| (token, challenge.write())));
        });
        let mut written = self.written.clone();
        let has_all = |data: &Option<Data>| {
            data.as_ref().is_some_and(|data| answers.tokens.iter().all(|token| data.contains_key(token)))
        };
        let complete = tokio::time::timeout(WRITE_TIMEOUT, written.wait_for(has_all)).await;
        complete.is_ok_and(|found| found.is_ok()).then_some(answers)
    }
}
