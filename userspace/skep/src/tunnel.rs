//! The agent's tunnels to API servers: with the node's own certificate.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use skep_tunnel::{Keeper, ServerAddress};

use crate::join::Identity;

/// `server` is the URL that the agent was started with.
pub(crate) fn keeper(node: &str, server: &str, identity: &Identity) -> Result<Keeper> {
    let url: http::Uri = server.parse().with_context(|| format!("{server:?} is not a URL"))?;
    let host = url.host().with_context(|| format!("{server:?} names no host"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let first = ServerAddress { host, port: url.port_u16().unwrap_or(443) };
    Ok(Keeper::new(node, Arc::new(tls(identity)?), first))
}

fn tls(identity: &Identity) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(identity.trusted.cluster.as_bytes()) {
        roots.add(ca.context("the cluster's CA is not PEM")?)?;
    }
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(identity.client.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.client.key.as_bytes());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            chain.context("the node's certificate is not PEM")?,
            key.context("the node's key is not PEM")?,
        )?;
    // The switch of protocols exists in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
