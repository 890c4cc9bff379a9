//! Writes kubeconfig files and creates API clients.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use kube::Client;
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::pki::{self, CertifiedPem};

/// The credentials of a client.
#[derive(Clone, Copy)]
pub(crate) enum Credentials<'a> {
    Token(&'a str),
    Certificate(&'a CertifiedPem),
}

/// The user as whom a client acts.
#[derive(Clone, Copy)]
pub(crate) struct Impersonated {
    pub(crate) user: &'static str,
    pub(crate) group: &'static str,
}

/// Idle watches receive a bookmark each minute. A connection that is silent for longer is dead, although its other end never closed
/// it.
const MAX_SILENCE: Duration = Duration::from_secs(75);

fn give_up_silent_connections(config: &mut Config, limit: Duration) {
    config.read_timeout = Some(limit);
    config.reset_reader_on_write = true;
}

/// A client of `server` that trusts only the CAs of the bundle `ca`, as the owner of the credentials or as another user.
pub(crate) fn client(
    server: &str,
    ca: &str,
    credentials: Credentials<'_>,
    impersonated: Option<Impersonated>,
) -> Result<Client> {
    let url = server.parse().with_context(|| format!("{server:?} is not a URL; use https://HOST:PORT"))?;
    let mut config = Config::new(url);
    give_up_silent_connections(&mut config, MAX_SILENCE);
    let trusted: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca.as_bytes()).collect();
    let trusted = trusted.ok().filter(|all| !all.is_empty()).context("the CA is not a PEM certificate")?;
    config.root_cert = Some(trusted.iter().map(|ca| ca.to_vec()).collect());
    config.auth_info = match credentials {
        Credentials::Token(token) => AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() },
        Credentials::Certificate(pem) => AuthInfo {
            client_certificate_data: Some(STANDARD.encode(&pem.certificate)),
            client_key_data: Some(STANDARD.encode(&pem.key).into()),
            ..AuthInfo::default()
        },
    };
    if let Some(Impersonated { user, group }) = impersonated {
        let header = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        config.headers = vec![header("impersonate-user", user), header("impersonate-group", group)];
    }
    Client::try_from(config).context("create a client of the API server")
}

/// A client from a kubeconfig file.
pub(crate) async fn client_from_file(file: &Path) -> Result<(Kubeconfig, Client)> {
    let read = Kubeconfig::read_from(file).with_context(|| format!("read {}", file.display()))?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(read.clone(), &options).await;
    let config = config.with_context(|| format!("parse {}", file.display()))?;
    Ok((read, Client::try_from(config).context("create a client of the API server")?))
}

/// Writes an administrator's kubeconfig with embedded certificates and key.
pub(crate) fn write(file: &Path, server: &str, ca: &str, admin: &CertifiedPem) -> Result<()> {
    let (ca, certificate, key) =
        (STANDARD.encode(ca), STANDARD.encode(&admin.certificate), STANDARD.encode(&admin.key));
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: skep
clusters:
- name: skep
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: skep
  context:
    cluster: skep
    user: admin
"
    );
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    pki::write_private(file, text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use k8s_openapi::api::core::v1::Node;
    use kube::Api;

    use super::*;

    #[tokio::test]
    async fn a_request_on_a_dead_connection_fails() {
        // Its backlog completes handshakes, and nothing ever answers.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::new(format!("http://{}", server.local_addr().unwrap()).parse().unwrap());
        give_up_silent_connections(&mut config, Duration::from_millis(200));
        let nodes: Api<Node> = Api::all(Client::try_from(config).unwrap());
        let begun = Instant::now();
        assert!(nodes.get("n1").await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
