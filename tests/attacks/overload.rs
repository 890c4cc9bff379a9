//! More work, connections or memory than the server has: others are still served.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skep_tests::api_server::{Pem, TestApiServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// HTTP/2's preface and empty settings (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Opens TLS connections to a server.
struct Dialer {
    server: SocketAddr,
    tls: TlsConnector,
}

impl Dialer {
    /// With a client certificate, or without credentials.
    fn new(server: &TestApiServer, client: Option<&Pem>, protocol: &[u8]) -> Result<Dialer> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.ca.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes())?],
                PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?,
            )?,
        };
        config.alpn_protocols = vec![protocol.to_owned()];
        Ok(Dialer { server: server.address()?, tls: Arc::new(config).into() })
    }

    /// From an address of this machine.
    async fn dial(&self, from: IpAddr) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(self.server).await?;
        Ok(self.tls.connect("127.0.0.1".try_into()?, stream).await?)
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The answer to a GET on an HTTP/1.1 connection, headers and the first of its body.
async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
    let mut answer = vec![0; 1 << 10];
    let length = timeout(Duration::from_secs(10), stream.read(&mut answer)).await.context("no answer")??;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Whether the server still has the connection.
async fn is_open(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut bytes = [0; 4 << 10];
    loop {
        match timeout(Duration::from_millis(20), stream.read(&mut bytes)).await {
            Err(_) => return true,
            Ok(Ok(length)) if length > 0 => {}
            Ok(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_without_credentials_leave_room_for_others() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1_024), maximum })?;
    let server = TestApiServer::listen(|_| {}).await?;
    // The clients are in the same process.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let jane = server.ca.issue("jane", "dev")?;
    let mut jane = Dialer::new(&server, Some(&jane), b"http/1.1")?.dial(LOCALHOST).await?;
    ensure!(get(&mut jane, "/version").await?.starts_with("HTTP/1.1 200"));
    let attacker = Dialer::new(&server, None, b"h2")?;
    let mut idle = Vec::new();
    for at in 0..1_100u32 {
        // From a few addresses, as a botnet would.
        let from = IpAddr::from([127, 0, 1, (at % 8) as u8 + 1]);
        let mut stream = attacker.dial(from).await?;
        stream.write_all(PREFACE).await?;
        idle.push(stream);
    }
    let mut open = 0;
    for stream in &mut idle {
        open += usize::from(is_open(stream).await);
    }
    ensure!(open <= 128, "{open} idle connections are still open");
    let mut probe = Dialer::new(&server, None, b"http/1.1")?.dial(LOCALHOST).await?;
    ensure!(get(&mut probe, "/readyz").await?.starts_with("HTTP/1.1 200"));
    let admin = server.ca.issue("root", "system:masters")?;
    let mut admin = Dialer::new(&server, Some(&admin), b"http/1.1")?.dial(LOCALHOST).await?;
    ensure!(get(&mut admin, "/api/v1/namespaces").await?.starts_with("HTTP/1.1 200"));
    ensure!(get(&mut jane, "/version").await?.starts_with("HTTP/1.1 200"), "a known connection was closed");
    Ok(())
}
