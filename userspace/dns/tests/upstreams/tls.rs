//! Upstreams by TLS (RFC 7858): the certificate is verified for the name, a connection serves several questions, and one that the
//! upstream closed is replaced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::PrivatePkcs8KeyDer;
use skep_dns::settings::{CacheLimits, Transport, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::node::{Node, addresses};
use crate::upstream::{RIGHT, answer};

const NAME: &str = "dns.example";

struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    trusting: Arc<ClientConfig>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Answers so many questions on a connection, then closes it.
    fn start(questions: usize) -> Server {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let serving =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let serving =
            serving.unwrap().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key.into());
        let mut roots = RootCertStore::empty();
        roots.add(ca.as_ref().der().clone()).unwrap();
        let trusting =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let trusting = Arc::new(trusting.with_root_certificates(roots).with_no_client_auth());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, acceptor) = (connections.clone(), TlsAcceptor::from(Arc::new(serving.unwrap())));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, acceptor) = (count.clone(), acceptor.clone());
                tokio::spawn(async move {
                    // A client that does not trust the certificate ends the handshake.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    for _ in 0..questions {
                        let Ok(length) = stream.read_u16().await else { return };
                        let mut bytes = vec![0; length.into()];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let packet = answer(&Message::from_vec(&bytes).unwrap(), &[RIGHT]).to_vec().unwrap();
                        stream.write_u16(packet.len() as u16).await.unwrap();
                        stream.write_all(&packet).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        Server { addr, connections, trusting, _runtime: runtime }
    }

    fn node(&self, name: &str) -> Node {
        let transport = Transport::Tls { name: name.to_owned() };
        let upstreams = vec![Upstream { addr: self.addr, transport }];
        Node::with(upstreams, CacheLimits::default(), self.trusting.clone())
    }
}

#[test]
fn one_connection_serves_the_questions_of_a_trusted_upstream() {
    let server = Server::start(usize::MAX);
    let node = server.node(NAME);
    let mut client = node.client();
    for round in 0..5 {
        assert_eq!(addresses(&client.ask(&format!("n{round}.example."))), [RIGHT]);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[test]
fn a_connection_that_the_upstream_closed_is_replaced() {
    let server = Server::start(1);
    let node = server.node(NAME);
    let mut client = node.client();
    for round in 0..5 {
        assert_eq!(addresses(&client.ask(&format!("n{round}.example."))), [RIGHT]);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 5);
}

#[test]
fn an_upstream_with_a_certificate_of_another_name_or_issuer_is_not_asked() {
    let server = Server::start(usize::MAX);
    let of_other_issuer = Server { trusting: Server::start(1).trusting, ..Server::start(1) };
    for node in [server.node("other.example"), of_other_issuer.node(NAME)] {
        let answer = node.client().ask("www.example.");
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}
