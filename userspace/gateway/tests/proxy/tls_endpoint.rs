//! Authorities, and endpoints behind TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use skep_gateway::authorities::Authorities;
use skep_gateway::certificate::Certificate;
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{self, Endpoint};

/// An authority that signs certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
pub(crate) struct Signed {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        Arc::new(Authorities::parse(self.pem.as_bytes(), None).unwrap())
    }

    /// A certificate for a host, with a URI if there is one.
    pub(crate) fn sign(&self, host: &str, uri: Option<&str>) -> Signed {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { chain, key: key.serialize_pem() }
    }
}

impl Signed {
    pub(crate) fn certificate(&self) -> Arc<Certificate> {
        Arc::new(Certificate::parse(self.chain.as_bytes(), self.key.as_bytes()).unwrap())
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// What an endpoint learned in its handshakes.
#[derive(Default)]
pub(crate) struct Handshakes {
    pub(crate) count: AtomicUsize,
    pub(crate) names: std::sync::Mutex<Vec<Option<String>>>,
}

/// An echo over TLS that presents the certificate; `clients`: what signs those of its clients.
pub(crate) async fn start(presented: &Signed, clients: Option<&Authority>) -> (Endpoint, Arc<Handshakes>) {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(presented.chain(), presented.key()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshakes = Arc::new(Handshakes::default());
    let (noted, requests) = (handshakes.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = requests.clone();
    let mut endpoint = Endpoint::of(move |stream| {
        let (acceptor, noted, counted) = (acceptor.clone(), noted.clone(), counted.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            noted.count.fetch_add(1, Ordering::Relaxed);
            noted.names.lock().unwrap().push(stream.get_ref().1.server_name().map(str::to_owned));
            endpoint::serve(stream, "tls", counted).await;
        }
    })
    .await;
    endpoint.requests = requests;
    (endpoint, handshakes)
}
