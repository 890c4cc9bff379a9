//! A persistent connection: TLS with a client certificate, HTTP/1.1, one request after the other.
//!
//! Written by hand, because it shares two cores with the measured server.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Failure;

/// The server's address and the client's TLS.
pub(crate) struct Target {
    pub(crate) address: String,
    tls: Arc<ClientConfig>,
}

impl Target {
    pub(crate) fn new(address: &str, pki: &Path) -> Result<Target, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
        let chain = vec![CertificateDer::from_pem_file(pki.join("admin.crt"))?];
        let key = PrivateKeyDer::from_pem_file(pki.join("admin.key"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Target { address: address.to_owned(), tls: Arc::new(tls) })
    }

    /// A TLS connection with `protocol` as ALPN.
    pub(crate) async fn connect(&self, protocol: &str) -> Result<TlsStream<TcpStream>, Failure> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?)
    }
}

pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    /// The beginning of the body.
    pub(crate) body: String,
}

/// Bytes of a body that an error message shows.
const KEPT: usize = 512;

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Connection, Failure> {
        Ok(Connection { stream: target.connect("http/1.1").await?, buffer: vec![0; 256 << 10] })
    }

    pub(crate) async fn expect(
        &mut self,
        codes: &[u16],
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Answer, Failure> {
        let answer = self.send(method, path, body).await?;
        if codes.contains(&answer.code) {
            return Ok(answer);
        }
        Err(format!("{method} {path}: {} {}", answer.code, answer.body).into())
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, Failure> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load/1\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer, Failure> {
        let (mut filled, head) = (0, b"\r\n\r\n");
        let end = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err("the server closed the connection".into());
            }
            filled += read;
            if let Some(at) = self.buffer[..filled].windows(4).position(|window| window == head) {
                break at + 4;
            }
        };
        let text = std::str::from_utf8(&self.buffer[..end])?;
        let code = text.get(9..12).and_then(|code| code.parse().ok()).ok_or("not an HTTP answer")?;
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .ok_or("an answer without its length")?;
        let first = &self.buffer[end..filled];
        let body = String::from_utf8_lossy(&first[..first.len().min(KEPT)]).into_owned();
        let mut left = length.checked_sub(first.len()).ok_or("more than one answer")?;
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 || read > left {
                return Err("the answer does not have the length that it names".into());
            }
            left -= read;
        }
        Ok(Answer { code, body })
    }
}
