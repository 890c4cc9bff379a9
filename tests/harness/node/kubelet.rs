//! Requests to the kubelet API, as the API server sends them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::TestNode;

impl TestNode {
    /// Sends a request, with the API server's certificate or with none.
    pub async fn kubelet(
        &self,
        request: Request<Empty<Bytes>>,
        certified: bool,
    ) -> Result<Response<Incoming>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = if certified {
            let chain = vec![CertificateDer::from_pem_slice(self.client_certificate.certificate.as_bytes())?];
            builder.with_client_auth_cert(
                chain,
                PrivateKeyDer::from_pem_slice(self.client_certificate.key.as_bytes())?,
            )?
        } else {
            builder.with_no_client_auth()
        };
        let stream = TcpStream::connect(self.address).await.context("connect to the kubelet API")?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(self.address.ip().into(), stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender.send_request(request).await?)
    }

    /// Waits until the kubelet API answers.
    pub async fn kubelet_is_up(&self) -> Result<()> {
        let deadline = Instant::now() + super::WAIT_TIMEOUT;
        while let Err(error) = self.kubelet_get("/healthz").await {
            anyhow::ensure!(Instant::now() < deadline, "no kubelet API: {error:#}");
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// The answer's status and text.
    pub async fn kubelet_get(&self, path: &str) -> Result<(u16, String)> {
        let request = Request::get(path).header("host", "kubelet").body(Empty::new())?;
        let response = self.kubelet(request, true).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Runs a command as kubectl does: sends `input`, closes it, collects the text of each channel.
    pub async fn exec_v5(&self, path: &str, input: &[u8]) -> Result<BTreeMap<u8, String>> {
        let request = Request::get(path)
            .header("host", "kubelet")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", "v5.channel.k8s.io")
            .body(Empty::new())?;
        let mut response = self.kubelet(request, true).await?;
        anyhow::ensure!(response.status() == 101, "answered {}", response.status());
        let upgraded = TokioIo::new(hyper::upgrade::on(&mut response).await?);
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        socket.send(Message::Binary([&[0], input].concat().into())).await?;
        socket.send(Message::Binary(vec![255, 0].into())).await?;
        let mut channels: BTreeMap<u8, String> = BTreeMap::new();
        while let Some(message) = socket.next().await {
            match message? {
                Message::Binary(bytes) => {
                    let (channel, text) = bytes.split_first().context("an empty message")?;
                    channels.entry(*channel).or_default().push_str(std::str::from_utf8(text)?);
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok(channels)
    }
}
