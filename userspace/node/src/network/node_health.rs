//! The node's own health as a proxy, where balancers made for kube-proxy ask for it: port 10256.
//!
//! In: [`Duties`], the network's state. Out: `/livez`, whether the network is as the API says; `/healthz`, whether new
//! traffic may come here too (KEP-3836). Codes, headers and fields are kube-proxy's.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use super::duties::Duties;
use super::health::{RETRY, listen};
use crate::config::NetworkState;

#[derive(Clone)]
struct Seen {
    duties: watch::Receiver<Duties>,
    state: watch::Receiver<NetworkState>,
    /// When the network was last seen healthy.
    healthy_at: Arc<Mutex<Option<Timestamp>>>,
}

/// Serves for as long as it is polled; a port that somebody else has is tried again.
pub(super) async fn run(port: u16, duties: watch::Receiver<Duties>, state: watch::Receiver<NetworkState>) {
    let seen = Seen { duties, state, healthy_at: Arc::default() };
    let router = Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(seen);
    loop {
        let served = match listen(port).await {
            Ok(listener) => axum::serve(listener, router.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::warn!(port, %error, "serve the node's health");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn healthz(State(seen): State<Seen>) -> Response {
    let eligible = seen.duties.borrow().eligible;
    answer(&seen, Some(eligible))
}

async fn livez(State(seen): State<Seen>) -> Response {
    answer(&seen, None)
}

fn answer(seen: &Seen, eligible: Option<bool>) -> Response {
    let works = *seen.state.borrow() == NetworkState::Ready;
    let now = Timestamp::now();
    let updated = {
        let mut healthy_at = seen.healthy_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if works {
            *healthy_at = Some(now);
        }
        // Go's zero time.
        healthy_at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
    };
    let family = json!({"lastUpdated": updated, "healthy": works});
    let mut body = json!({
        "lastUpdated": updated, "currentTime": now.to_string(),
        "status": {"IPv4": family, "IPv6": family},
    });
    if let Some(eligible) = eligible {
        body["nodeEligible"] = json!(eligible);
    }
    let code = match works && eligible != Some(false) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(works: bool, eligible: Option<bool>) -> u16 {
        let state = match works {
            true => NetworkState::Ready,
            false => NetworkState::NotReady("it failed".into()),
        };
        let (_, duties) = watch::channel(Duties::default());
        let seen = Seen { duties, state: watch::channel(state).1, healthy_at: Arc::default() };
        answer(&seen, eligible).status().as_u16()
    }

    #[test]
    fn a_leaving_node_lives_but_takes_nothing_new() {
        assert_eq!((code(true, None), code(true, Some(true)), code(true, Some(false))), (200, 200, 503));
        assert_eq!((code(false, None), code(false, Some(true))), (503, 503));
    }

    #[tokio::test]
    async fn the_answer_has_kube_proxys_fields() {
        let (told, duties) = watch::channel(Duties { eligible: true, ..Duties::default() });
        let (_network, state) = watch::channel(NetworkState::Ready);
        let seen = Seen { duties, state, healthy_at: Arc::default() };
        let read = |response: Response| async {
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let body = read(healthz(State(seen.clone())).await).await;
        assert_eq!(body["nodeEligible"], true);
        assert_eq!(body["lastUpdated"], body["currentTime"]);
        assert_eq!(body["status"]["IPv6"]["healthy"], true);
        told.send_replace(Duties::default());
        assert_eq!(read(healthz(State(seen.clone())).await).await["nodeEligible"], false);
        assert!(read(livez(State(seen)).await).await.get("nodeEligible").is_none());
    }
}
