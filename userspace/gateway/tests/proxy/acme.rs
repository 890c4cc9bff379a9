//! Challenges of ACME, as an authority asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use skep_gateway::acme::{Challenge, ChallengeKind, Challenges};
use skep_gateway::config::{Config, StreamRoute, TlsAction, TlsServer, TlsServers};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::endpoint::Endpoint;
use crate::harness::{HTTPS, Routes, TestGateway, certificate, get, limits, tls};

const KEY_AUTHORIZATION: &str = "token.thumbprint";
/// id-pe-acmeIdentifier (RFC 8737, 3).
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

fn with_challenge(mut config: Config, kind: ChallengeKind, host: &str) -> Config {
    let challenge = Challenge { kind, host: host.into(), key_authorization: KEY_AUTHORIZATION.into() };
    config.challenges =
        Arc::new(Challenges::parse(&BTreeMap::from([("token".to_owned(), challenge.write())])));
    config
}

#[tokio::test]
async fn a_token_is_answered_before_routes_and_other_tokens_by_routes() {
    let endpoint = Endpoint::start("a").await;
    let routes = Routes::to(&[endpoint.address]);
    let config = with_challenge(routes.config(), ChallengeKind::Http, "a.com");
    let gateway = TestGateway::of(&config, limits()).await;
    let path = "/.well-known/acme-challenge/token";
    let answer = get(gateway.http, "A.com:80", path).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, KEY_AUTHORIZATION));
    assert_eq!(endpoint.count(), 0);
    // Solvers of other controllers are endpoints of routes.
    for (host, path) in [("b.com", path), ("a.com", "/.well-known/acme-challenge/other")] {
        assert_eq!(get(gateway.http, host, path).await.status, 200);
    }
    assert_eq!(endpoint.count(), 2);
    gateway.gateway.apply(&routes.config());
    assert_ne!(get(gateway.http, "a.com", path).await.text, KEY_AUTHORIZATION);
}

/// Takes every certificate: that of a challenge is checked by its content.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256]
    }
}

/// The leaf that is presented to a client that offers these protocols.
async fn presented(gateway: &TestGateway, name: &str, protocols: &[&[u8]]) -> std::io::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Any)).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(gateway.https).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

fn is_of_challenge(leaf: &[u8], name: &str) -> bool {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY_AUTHORIZATION.as_bytes());
    let mut extensions = leaf.extensions().iter();
    let Some(found) = extensions.find(|extension| extension.oid.to_id_string() == ACME_IDENTIFIER) else {
        return false;
    };
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let is_named = names == [x509_parser::extensions::GeneralName::DNSName(name)];
    // An OCTET STRING of 32 bytes.
    found.critical && is_named && found.value == [&[4, 32], digest.as_ref()].concat()
}

#[tokio::test]
async fn a_handshake_that_validates_gets_the_certificate_of_its_challenge_and_no_other_handshake_does() {
    let endpoint = Endpoint::start("a").await;
    let (own, pem) = certificate("a.com");
    let routes = Routes::to(&[endpoint.address]).certificate("a.com", &own);
    let gateway =
        TestGateway::of(&with_challenge(routes.config(), ChallengeKind::TlsAlpn, "a.com"), limits()).await;
    let validates: &[&[u8]] = &[b"acme-tls/1"];
    assert!(is_of_challenge(&presented(&gateway, "a.com", validates).await.unwrap(), "a.com"));
    let expected = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    for protocols in [&[b"h2" as &[u8], b"acme-tls/1"] as &[&[u8]], &[b"http/1.1"], &[]] {
        assert_eq!(presented(&gateway, "a.com", protocols).await.unwrap(), expected.to_vec());
    }
    assert!(presented(&gateway, "b.com", validates).await.is_err());
    assert!(tls(gateway.https, "a.com", &pem, b"h2").await.is_ok());
    gateway.gateway.apply(&routes.config());
    assert!(presented(&gateway, "a.com", validates).await.is_err());
}

#[tokio::test]
async fn a_name_that_passes_through_is_validated_here_only_while_it_has_a_challenge() {
    let mut config = Routes::to(&[]).certificate("a.com", &certificate("a.com").0).config();
    let listener = config.listeners.get_mut(&HTTPS).unwrap();
    let mut servers = skep_gateway::routing::HostTable::default();
    let route = Arc::new(StreamRoute::default());
    let server = || {
        Arc::new(TlsServer { certificates: Vec::new(), clients: None, action: TlsAction::Passthrough(route) })
    };
    servers.entry(skep_gateway::routing::HostPattern::of_ingress("a.com"), server);
    listener.tls = Some(Arc::new(TlsServers::new(servers)));
    let with = with_challenge(config.clone(), ChallengeKind::TlsAlpn, "a.com");
    let gateway = TestGateway::of(&with, limits()).await;
    let validates: &[&[u8]] = &[b"acme-tls/1"];
    assert!(is_of_challenge(&presented(&gateway, "a.com", validates).await.unwrap(), "a.com"));
    gateway.gateway.apply(&config);
    assert!(presented(&gateway, "a.com", validates).await.is_err());
}
