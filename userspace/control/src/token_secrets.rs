//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of their account, the cluster's CA and the
//! namespace; removed with their account. The token is bound to the Secret: it ends when the Secret does.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cache::{Change, Key, Object};
use crate::hub::{InformerEvent, Subscription};
use crate::meta;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest that the API server allows: such a token is to live as long as its Secret.
const TOKEN_SECONDS: i64 = 1 << 32;
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Works until the future is dropped or the hub is gone.
pub(crate) async fn run(client: Client, mut accounts: Subscription, root_ca_pem: String) {
    let config = watcher::Config::default().fields(&format!("type={TYPE}"));
    let secrets = watcher(Api::<Secret>::all(client.clone()), config).default_backoff();
    pin_mut!(secrets);
    let mut filler = Filler { client, root_ca_pem, accounts: HashMap::new(), jobs: JoinSet::new() };
    loop {
        tokio::select! {
            event = secrets.next() => match event {
                Some(Ok(event)) => filler.accept_secret(event),
                Some(Err(error)) => tracing::debug!(%error, "watch token secrets failed; it is retried"),
                None => return,
            },
            event = accounts.next() => match event {
                Some(InformerEvent::Change(change)) => filler.accept_account(&change),
                Some(_) => {}
                None => return,
            },
            Some(done) = filler.jobs.join_next() => filler.finish(done),
        }
    }
}

struct Filler {
    client: Client,
    root_ca_pem: String,
    /// The account of each Secret.
    accounts: HashMap<Key, String>,
    /// Each gives the key of a Secret that could not be filled.
    jobs: JoinSet<Option<Key>>,
}

impl Filler {
    fn accept_secret(&mut self, event: Event<Secret>) {
        match event {
            Event::Apply(secret) | Event::InitApply(secret) => {
                let key = Key::of(&secret.metadata);
                self.accounts.insert(key.clone(), annotation(&secret, ACCOUNT_NAME).to_owned());
                self.start(key, Duration::ZERO);
            }
            Event::Delete(secret) => drop(self.accounts.remove(&Key::of(&secret.metadata))),
            Event::Init => self.accounts.clear(),
            Event::InitDone => {}
        }
    }

    /// A new or removed account decides about its Secrets.
    fn accept_account(&mut self, change: &Change) {
        let Some(Object::ServiceAccount(account)) = change.object() else { return };
        if change.old.is_some() && change.new.is_some() {
            return;
        }
        let (namespace, name) = (meta::namespace(&account.metadata), meta::name(&account.metadata));
        let its = self.accounts.iter().filter(|(key, of)| &*key.namespace == namespace && *of == name);
        let its: Vec<Key> = its.map(|(key, _)| key.clone()).collect();
        its.into_iter().for_each(|key| self.start(key, Duration::ZERO));
    }

    fn start(&mut self, key: Key, after: Duration) {
        let (client, root_ca_pem) = (self.client.clone(), self.root_ca_pem.clone());
        self.jobs.spawn(async move {
            tokio::time::sleep(after).await;
            let error = reconcile(&client, &key, &root_ca_pem).await.err()?;
            tracing::info!(secret = %key, %error, "fill token secret failed; it is retried");
            Some(key)
        });
    }

    fn finish(&mut self, done: Result<Option<Key>, tokio::task::JoinError>) {
        match done {
            Ok(Some(key)) if self.accounts.contains_key(&key) => self.start(key, RETRY_PAUSE),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "fill token secret failed"),
        }
    }
}

async fn reconcile(client: &Client, key: &Key, root_ca_pem: &str) -> kube::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &key.namespace);
    let Some(secret) = secrets.get_opt(&key.name).await? else { return Ok(()) };
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let account = accounts.get_opt(annotation(&secret, ACCOUNT_NAME)).await?;
    let uid = account.as_ref().and_then(|account| account.metadata.uid.as_deref()).unwrap_or_default();
    let wanted = annotation(&secret, ACCOUNT_UID);
    let (Some(account), true) = (&account, wanted.is_empty() || wanted == uid) else {
        let preconditions = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        return match secrets.delete(&key.name, &params).await {
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            deleted => deleted.map(drop),
        };
    };
    let has = |field: &str, value: &[u8]| {
        secret.data.as_ref().and_then(|data| data.get(field)).is_some_and(|held| held.0 == value)
    };
    let mut data = serde_json::Map::new();
    for (field, value) in [("ca.crt", root_ca_pem), ("namespace", &*key.namespace)] {
        if !has(field, value.as_bytes()) {
            data.insert(field.to_owned(), json!(ByteString(value.as_bytes().to_vec())));
        }
    }
    let token = secret.data.as_ref().and_then(|data| data.get("token"));
    if token.is_none_or(|token| token.0.is_empty()) {
        let token = new_token(&accounts, meta::name(&account.metadata), &secret).await?;
        data.insert("token".to_owned(), json!(ByteString(token.into_bytes())));
    }
    if data.is_empty() && wanted == uid {
        return Ok(());
    }
    // The version guards against another writer, whose event comes here as well.
    let metadata =
        json!({"resourceVersion": secret.metadata.resource_version, "annotations": {ACCOUNT_UID: uid}});
    let patch = Patch::Merge(json!({"metadata": metadata, "data": data}));
    secrets.patch(&key.name, &PatchParams::default(), &patch).await.map(drop)
}

async fn new_token(accounts: &Api<ServiceAccount>, account: &str, secret: &Secret) -> kube::Result<String> {
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        name: secret.metadata.name.clone(),
        uid: secret.metadata.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: None,
        bound_object_ref: Some(bound),
        expiration_seconds: Some(TOKEN_SECONDS),
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.metadata.annotations.as_ref().and_then(|all| all.get(name)).map_or("", String::as_str)
}
