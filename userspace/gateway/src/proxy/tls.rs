//! TLS towards clients: the certificate follows the name that the client asks for, by the configuration of the moment.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Shared, acme};

/// The configuration for a port. It stays the same while certificates change.
pub(super) fn server_config(
    shared: &Arc<Shared>,
    port: u16,
    alpn: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { shared: shared.clone(), port }));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

struct Resolver {
    shared: Arc<Shared>,
    port: u16,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolver").field("port", &self.port).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.shared.snapshot.load();
        let servers = snapshot.listeners.get(&self.port)?.tls.as_ref()?;
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        if hello.alpn().is_some_and(acme::validates) {
            return acme::certificate(&snapshot, &name);
        }
        let certificates = &servers.find(&name).next()?.certificates;
        let serves = |key: &Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let now = UnixTime::now().as_secs().cast_signed();
        let mut keys = certificates.iter().map(|certificate| certificate.key_at(now));
        keys.clone().find(|key| serves(key)).or_else(|| keys.next()).cloned()
    }
}
