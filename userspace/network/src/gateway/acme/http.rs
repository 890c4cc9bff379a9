//! HTTP to the authority. In: requests of the ACME client. Out: bounded responses in bounded time, and when the authority wants to be
//! asked again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::Limited;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY_BYTES: usize = 1 << 20;

#[derive(Clone)]
pub(super) struct AcmeHttp {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    /// Of the last refusal, in seconds since 1970.
    retry_at: Arc<AtomicI64>,
}

impl AcmeHttp {
    pub(super) fn new(tls: rustls::ClientConfig) -> AcmeHttp {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_all_versions();
        let client = Client::builder(TokioExecutor::new()).build(connector.build());
        AcmeHttp { client, retry_at: Arc::default() }
    }

    /// When the authority wants to be asked again, if that is after `now`, in seconds since 1970.
    pub(super) fn retry_at(&self, now: i64) -> Option<i64> {
        Some(self.retry_at.load(Ordering::Relaxed)).filter(|at| *at > now)
    }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (response, retry_at) = (self.client.request(request), self.retry_at.clone());
        Box::pin(async move {
            let response = tokio::time::timeout(TIMEOUT, response).await;
            let response = response.map_err(|_| Error::Str("a response in time"))?;
            let response = response.map_err(|error| Error::Other(Box::new(error)))?;
            let status = response.status();
            if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
                retry_at.store(retry_after(response.headers()).unwrap_or_default(), Ordering::Relaxed);
            }
            Ok(BytesResponse::from(response.map(|body| Limited::new(body, MAX_BODY_BYTES))))
        })
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<i64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u32>() {
        Ok(seconds) => Some(jiff::Timestamp::now().as_second() + i64::from(seconds)),
        Err(_) => Some(jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_second()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_says_in_seconds_or_by_date_when_to_come_back() {
        let parse = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        let now = jiff::Timestamp::now().as_second();
        assert!((now + 60..now + 65).contains(&parse("60").unwrap()));
        assert_eq!(parse("Fri, 15 Jan 2027 08:00:00 GMT"), Some(1_800_000_000));
        assert_eq!(parse("soon"), None);
    }
}
