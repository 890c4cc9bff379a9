//! How the authority looks at the gateway: as RFC 8555, 8.3 and RFC 8737 say.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateSigningRequestParams, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::gateway;

/// id-pe-acmeIdentifier in DER, and the beginning of its value: critical, an OCTET STRING in an OCTET STRING of 32 bytes.
const ACME_IDENTIFIER: [u8; 17] = [6, 8, 43, 6, 1, 5, 5, 7, 1, 31, 1, 1, 255, 4, 34, 4, 32];

pub(super) async fn http(host: &str, token: &str, expected: &str) -> Result<()> {
    let stream = TokioIo::new(TcpStream::connect(gateway(80)).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = http::Request::get(format!("/.well-known/acme-challenge/{token}")).header("host", host);
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?).await?;
    ensure!(response.status() == 200, "the gateway answers {}", response.status());
    let text = response.into_body().collect().await?.to_bytes();
    ensure!(text == expected, "the gateway answers {text:?}");
    Ok(())
}

pub(super) async fn tls_alpn(host: &str, expected: &str) -> Result<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Any)).with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TcpStream::connect(gateway(443)).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let session = stream.get_ref().1;
    ensure!(session.alpn_protocol() == Some(b"acme-tls/1"), "another protocol was agreed on");
    let leaf = session.peer_certificates().and_then(|chain| chain.first()).context("no certificate")?;
    let wanted = [&ACME_IDENTIFIER[..], digest(&SHA256, expected.as_bytes()).as_ref()].concat();
    ensure!(
        leaf.windows(wanted.len()).any(|bytes| bytes == wanted),
        "the certificate is not of the challenge"
    );
    Ok(())
}

pub(super) fn names_of_request(request: &[u8]) -> Vec<String> {
    let Ok(request) = CertificateSigningRequestParams::from_der(&request.into()) else { return Vec::new() };
    let names = request.params.subject_alt_names.into_iter().map(|name| match name {
        SanType::DnsName(name) => name.to_string(),
        other => format!("{other:?}"),
    });
    names.collect()
}

/// Takes every certificate: that of a challenge is signed by itself.
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
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
