//! The kubeconfig of a webhook: its server and how this one proves itself there. What would weaken the connection is refused:
//! plain HTTP, certificates that are not verified, proxies, programs that make credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use rustls::ClientConfig;
use serde::Deserialize;

use crate::body;
use crate::dial::Dialer;
use crate::https::{Answer, HttpsClient, HttpsError, Url};
use crate::tls::{self, ClientCertificate, Trust};

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: {why}", path.display())]
    Invalid { path: PathBuf, why: String },
}

/// A server that a kubeconfig names.
pub(crate) struct RemoteServer {
    url: Url,
    client: HttpsClient,
    credential: Credential,
}

/// What a request proves itself with beside the client certificate.
enum Credential {
    None,
    Header(HeaderValue),
    /// Read for every request: another process renews it.
    TokenFile(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<NamedContext>,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Context,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

impl RemoteServer {
    /// The server of the current context. Paths are relative to the file.
    pub(crate) fn read(path: &Path, dialer: &Dialer) -> Result<RemoteServer, KubeconfigError> {
        let text = read(path)?;
        let invalid = |why: String| KubeconfigError::Invalid { path: path.to_owned(), why };
        let value = body::json_or_yaml(text.as_bytes()).map_err(|status| invalid(status.message))?;
        let config: Kubeconfig = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        config.into_server(folder, dialer, &invalid)
    }

    /// Posts JSON to the server's URL.
    pub(crate) async fn post(&self, body: Bytes, timeout: Duration) -> Result<Answer, HttpsError> {
        let exchange = async {
            let mut headers = HeaderMap::new();
            headers.extend(self.authorization().await?.map(|value| (AUTHORIZATION, value)));
            self.client.post(&self.url, &headers, body).await
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HttpsError::Timeout))
    }

    async fn authorization(&self) -> Result<Option<HeaderValue>, HttpsError> {
        let path = match &self.credential {
            Credential::None => return Ok(None),
            Credential::Header(header) => return Ok(Some(header.clone())),
            Credential::TokenFile(path) => path,
        };
        let failed = |why: String| HttpsError::Connect(format!("read {}: {why}", path.display()));
        let token = tokio::fs::read_to_string(path).await.map_err(|error| failed(error.to_string()))?;
        bearer(&token).map(Some).ok_or_else(|| failed("it is no token".to_owned()))
    }
}

impl Kubeconfig {
    fn into_server(
        self,
        folder: &Path,
        dialer: &Dialer,
        invalid: &dyn Fn(String) -> KubeconfigError,
    ) -> Result<RemoteServer, KubeconfigError> {
        let Kubeconfig { current_context, contexts, clusters, users } = self;
        let missing = |what: &str, name: &str| invalid(format!("{what} {name:?} does not exist"));
        let context = contexts.into_iter().find(|it| it.name == current_context);
        let Context { cluster, user } = context.ok_or_else(|| missing("context", &current_context))?.context;
        let found = clusters.into_iter().find(|it| it.name == cluster);
        let cluster = found.ok_or_else(|| missing("cluster", &cluster))?.cluster;
        let user = match user.as_str() {
            "" => User::default(),
            name => {
                let found = users.into_iter().find(|it| it.name == name);
                found.ok_or_else(|| missing("user", name))?.user
            }
        };
        let refused = [
            (cluster.insecure_skip_tls_verify, "insecure-skip-tls-verify"),
            (!cluster.proxy_url.is_empty(), "proxy-url"),
            (user.exec.is_some(), "exec"),
            (user.auth_provider.is_some(), "auth-provider"),
        ];
        if let Some((_, field)) = refused.into_iter().find(|(is_set, _)| *is_set) {
            return Err(invalid(format!("{field} is not supported")));
        }
        let url = Url::parse(&cluster.server).map_err(|error| invalid(error.to_string()))?;
        let name = Some(cluster.tls_server_name.clone()).filter(|name| !name.is_empty());
        let tls = tls_of(&cluster, &user, folder, invalid)?;
        let credential =
            credential(user, folder).ok_or_else(|| invalid("the token is not valid".to_owned()))?;
        Ok(RemoteServer { url, client: HttpsClient::new(dialer.clone(), tls, name), credential })
    }
}

fn tls_of(
    cluster: &Cluster,
    user: &User,
    folder: &Path,
    invalid: &dyn Fn(String) -> KubeconfigError,
) -> Result<Arc<ClientConfig>, KubeconfigError> {
    // Data takes precedence over a file.
    let pem = |data: &str, file: &str| -> Result<String, KubeconfigError> {
        match (data, file) {
            ("", "") => Ok(String::new()),
            ("", file) => read(&folder.join(file)),
            (data, _) => {
                let decoded = STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                decoded.ok_or_else(|| invalid("data is not PEM in base64".to_owned()))
            }
        }
    };
    let ca = pem(&cluster.certificate_authority_data, &cluster.certificate_authority)?;
    let certificate = pem(&user.client_certificate_data, &user.client_certificate)?;
    let key = pem(&user.client_key_data, &user.client_key)?;
    let bad = |error: tls::TlsError| invalid(error.to_string());
    let trust =
        if ca.is_empty() { Trust::System } else { Trust::Bundle(ca.as_bytes(), "certificate-authority") };
    let shown = match (certificate.is_empty(), key.is_empty()) {
        (true, true) => None,
        (false, false) => Some(
            ClientCertificate::read(&certificate, &key, "the client certificate or its key").map_err(bad)?,
        ),
        _ => return Err(invalid("a client certificate needs a key, and a key a certificate".to_owned())),
    };
    tls::client(trust, shown.as_ref()).map_err(bad)
}

/// `None` if it cannot be sent as a header.
fn credential(user: User, folder: &Path) -> Option<Credential> {
    Some(if !user.token_file.is_empty() {
        Credential::TokenFile(folder.join(user.token_file))
    } else if !user.token.is_empty() {
        Credential::Header(bearer(&user.token)?)
    } else if !user.username.is_empty() {
        let pair = STANDARD.encode(format!("{}:{}", user.username, user.password));
        Credential::Header(secret(&format!("Basic {pair}"))?)
    } else {
        Credential::None
    })
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {}", token.trim()))
}

/// A header whose value is never printed.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn read(path: &Path) -> Result<String, KubeconfigError> {
    std::fs::read_to_string(path).map_err(|error| KubeconfigError::Read { path: path.to_owned(), error })
}
