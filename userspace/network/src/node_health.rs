//! The node's health for load balancers, on kube-proxy's port 10256.
//!
//! In: [`Published`], the network's state. Out: `/livez`, whether the network is as the API says; `/healthz`, whether
//! the node may also receive new traffic (KEP-3836). Codes, headers and fields are kube-proxy's. Also `/metrics`: the
//! network's problems, and its other metrics.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use crate::NetworkState;
use crate::health::{RETRY_INTERVAL, listen};
use crate::metrics::Metrics;
use crate::problems::Problems;
use crate::published::Published;

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Sources {
    published: watch::Receiver<Published>,
    state: watch::Receiver<NetworkState>,
    problems: watch::Receiver<Problems>,
    metrics: Metrics,
    /// When the network was last healthy.
    healthy_at: Arc<Mutex<Option<Timestamp>>>,
}

impl Sources {
    pub(crate) fn new(
        published: watch::Receiver<Published>,
        state: watch::Receiver<NetworkState>,
        problems: watch::Receiver<Problems>,
        metrics: Metrics,
    ) -> Self {
        Sources { published, state, problems, metrics, healthy_at: Arc::default() }
    }
}

/// Runs until it is dropped; a port that is taken is tried again.
pub(crate) async fn run(port: u16, sources: Sources) {
    let router = Router::new().route("/healthz", get(healthz)).route("/livez", get(livez));
    let router = router.route("/metrics", get(metrics)).with_state(sources);
    loop {
        let served = match listen(port).await {
            Ok(listener) => axum::serve(listener, router.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::warn!(port, %error, "serve the node's health failed");
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn healthz(State(sources): State<Sources>) -> Response {
    let eligible = sources.published.borrow().eligible;
    answer(&sources, Some(eligible))
}

async fn livez(State(sources): State<Sources>) -> Response {
    answer(&sources, None)
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let mut text = sources.problems.borrow().metrics();
    sources.metrics.write(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn answer(sources: &Sources, eligible: Option<bool>) -> Response {
    let ready = *sources.state.borrow() == NetworkState::Ready;
    let now = Timestamp::now();
    let updated = {
        let mut healthy_at = sources.healthy_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ready {
            *healthy_at = Some(now);
        }
        // Go's zero time.
        healthy_at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
    };
    let family = json!({"lastUpdated": updated, "healthy": ready});
    let mut body = json!({
        "lastUpdated": updated, "currentTime": now.to_string(),
        "status": {"IPv4": family, "IPv6": family},
    });
    if let Some(eligible) = eligible {
        body["nodeEligible"] = json!(eligible);
    }
    let code = match ready && eligible != Some(false) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(ready: bool, eligible: Option<bool>) -> u16 {
        let state = match ready {
            true => NetworkState::Ready,
            false => NetworkState::NotReady("it failed".into()),
        };
        let (_, published) = watch::channel(Published::default());
        let (_, problems) = watch::channel(Problems::default());
        let sources = Sources::new(published, watch::channel(state).1, problems, Metrics::default());
        answer(&sources, eligible).status().as_u16()
    }

    #[test]
    fn a_leaving_node_lives_but_takes_nothing_new() {
        assert_eq!((code(true, None), code(true, Some(true)), code(true, Some(false))), (200, 200, 503));
        assert_eq!((code(false, None), code(false, Some(true))), (503, 503));
    }

    #[tokio::test]
    async fn the_answer_has_kube_proxys_fields() {
        let (publish, published) = watch::channel(Published { eligible: true, ..Published::default() });
        let (_network, state) = watch::channel(NetworkState::Ready);
        let (_, problems) = watch::channel(Problems::default());
        let sources = Sources::new(published, state, problems, Metrics::default());
        let read = |response: Response| async {
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let body = read(healthz(State(sources.clone())).await).await;
        assert_eq!(body["nodeEligible"], true);
        assert_eq!(body["lastUpdated"], body["currentTime"]);
        assert_eq!(body["status"]["IPv6"]["healthy"], true);
        publish.send_replace(Published::default());
        assert_eq!(read(healthz(State(sources.clone())).await).await["nodeEligible"], false);
        assert!(read(livez(State(sources)).await).await.get("nodeEligible").is_none());
    }
}
