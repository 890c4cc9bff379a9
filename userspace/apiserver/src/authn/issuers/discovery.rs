//! Fetches the keys of an issuer (OpenID Connect Discovery 1.0), and keeps them fresh.
//!
//! One task for each issuer is the only one that asks it: at the start until it has answered, then from time to time, and
//! when a token names a key that is not known, at most once in [`MIN_INTERVAL`]. Keys that were fetched stay good while the
//! issuer cannot be reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::keys::KeySet;
use crate::https::{Answer, HttpsClient, HttpsError, Url};

/// Between two attempts to reach an issuer that has not answered yet, as upstream.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Between two fetches because of tokens: a client that sends many tokens causes no more.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// Between two fetches without a cause: a key that the issuer withdrew ends after as much.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// For one document.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request with an unknown key waits for a fetch.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Why the keys of an issuer could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiscoveryError {
    #[error("{url}: {error}")]
    Https { url: String, error: HttpsError },
    #[error("{url}: {why}")]
    Document { url: String, why: String },
    #[error("no answer yet")]
    Pending,
}

/// What is known of an issuer's keys.
#[derive(Clone)]
struct Known {
    /// `None` until the issuer has answered once.
    keys: Option<Arc<KeySet>>,
    /// Of the last fetch; it says nothing about `keys`.
    error: Option<DiscoveryError>,
    fetches: u64,
    at: Instant,
}

/// The keys of an issuer while its task runs.
pub(super) struct IssuerKeys {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for IssuerKeys {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl IssuerKeys {
    /// Starts to fetch.
    pub(super) fn start(issuer: String, discovery_url: String, client: HttpsClient) -> IssuerKeys {
        let first =
            Known { keys: None, error: Some(DiscoveryError::Pending), fetches: 0, at: Instant::now() };
        let (sender, known) = watch::channel(first);
        let wanted = Arc::new(Notify::new());
        let fetcher = Fetcher { issuer, discovery_url, client, keys_url: None };
        let task = tokio::spawn(fetcher.run(sender, wanted.clone()));
        IssuerKeys { known, wanted, task }
    }

    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.known.borrow().keys.clone()
    }

    /// Why there are no keys yet.
    pub(super) fn health(&self) -> Result<(), DiscoveryError> {
        let known = self.known.borrow();
        match (&known.keys, &known.error) {
            (Some(_), _) => Ok(()),
            (None, error) => Err(error.clone().unwrap_or(DiscoveryError::Pending)),
        }
    }

    /// Keys that are newer than those of this call, if the issuer may be asked again now and it answers in time.
    pub(super) async fn newer(&self) -> Option<Arc<KeySet>> {
        let mut known = self.known.clone();
        let (fetches, at) = {
            let now = known.borrow_and_update();
            (now.fetches, now.at)
        };
        if at.elapsed() < MIN_INTERVAL {
            return None;
        }
        self.wanted.notify_one();
        let fetched = tokio::time::timeout(MAX_WAIT, known.wait_for(|known| known.fetches > fetches)).await;
        fetched.ok()?.ok()?.keys.clone()
    }
}

struct Fetcher {
    issuer: String,
    discovery_url: String,
    client: HttpsClient,
    /// From the discovery document; it is read again after a failure.
    keys_url: Option<String>,
}

impl Fetcher {
    async fn run(mut self, known: watch::Sender<Known>, wanted: Arc<Notify>) {
        loop {
            let fetched = self.fetch().await;
            if let Err(error) = &fetched {
                tracing::warn!(issuer = self.issuer, %error, "fetch keys of an issuer failed; those fetched before stay in use");
                self.keys_url = None;
            }
            known.send_modify(|known| {
                known.fetches += 1;
                known.at = Instant::now();
                match fetched {
                    Ok(keys) => (known.keys, known.error) = (Some(Arc::new(keys)), None),
                    Err(error) => known.error = Some(error),
                }
            });
            let pause = if known.borrow().error.is_some() { RETRY_INTERVAL } else { REFRESH_INTERVAL };
            // No token makes the issuer be asked sooner.
            tokio::time::sleep(MIN_INTERVAL).await;
            let _ = tokio::time::timeout(pause.saturating_sub(MIN_INTERVAL), wanted.notified()).await;
        }
    }

    async fn fetch(&mut self) -> Result<KeySet, DiscoveryError> {
        let url = match &self.keys_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let document = self.document(&url).await?;
        let bad = |why: &str| DiscoveryError::Document { url: url.clone(), why: why.to_owned() };
        let keys = KeySet::parse(&document.body).ok_or_else(|| bad("the document is no JSON Web Key Set"))?;
        if keys.is_empty() {
            return Err(bad("the key set has no key that can verify a token"));
        }
        self.keys_url = Some(url);
        Ok(keys)
    }

    /// The URL of the keys.
    async fn discover(&self) -> Result<String, DiscoveryError> {
        let url = &self.discovery_url;
        let bad = |why: String| DiscoveryError::Document { url: url.clone(), why };
        let document = self.document(url).await?;
        let document: Value = serde_json::from_slice(&document.body)
            .map_err(|error| bad(format!("the document is no JSON: {error}")))?;
        // Else one issuer could speak for another.
        let found = document["issuer"].as_str().unwrap_or_default();
        if found != self.issuer {
            return Err(bad(format!("the document is of issuer {found:?}, expected {:?}", self.issuer)));
        }
        match document["jwks_uri"].as_str() {
            Some(keys) if !keys.is_empty() => Ok(keys.to_owned()),
            _ => Err(bad("the document has no jwks_uri".to_owned())),
        }
    }

    async fn document(&self, url: &str) -> Result<Answer, DiscoveryError> {
        let failed = |error: HttpsError| DiscoveryError::Https { url: url.to_owned(), error };
        let parsed = Url::parse(url).map_err(failed)?;
        let answer = tokio::time::timeout(TIMEOUT, self.client.get(&parsed)).await;
        let answer = answer.unwrap_or(Err(HttpsError::Timeout)).map_err(failed)?;
        if answer.code == http::StatusCode::OK {
            return Ok(answer);
        }
        Err(DiscoveryError::Document { url: url.to_owned(), why: format!("status {}", answer.code.as_u16()) })
    }
}
