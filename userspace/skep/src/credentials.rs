//! What the server's folder of keys holds now, in the form that the parts of the server take; and the loop that notices when
//! that changes: a certificate is due, or `skep certs rotate` changed the files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use skep_apiserver::{Credentials, FrontProxy, NodeTls, TokenKeys};
use tokio::sync::watch;

use crate::pki::{CertifiedPem, Leaf, Pki, TokenKeyPems, due};

/// Common name of the client for aggregated API servers.
const FRONT_PROXY_NAME: &str = "front-proxy-client";
/// Subject of the client for kubelets. It has no rights in the API.
const KUBELET_CLIENT_NAME: &str = "kube-apiserver-kubelet-client";
const KUBELET_CLIENT_GROUP: &str = "skep:kubelet-clients";
/// Issuer of service-account tokens.
const ISSUER: &str = "https://kubernetes.default.svc";
/// How often the folder is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after files that could not be loaded.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The keys and certificates of a server.
pub(crate) struct Loaded {
    pub(crate) pki: Arc<Pki>,
    pub(crate) api: Credentials,
    /// What the API is served with. The chain includes the CA: a joining machine knows only the CA's hash.
    pub(crate) serving: CertifiedPem,
    /// An administrator's client certificate.
    pub(crate) admin: CertifiedPem,
    /// When the first certificate should be renewed.
    due: SystemTime,
}

/// Follows the keys of a running server.
pub(crate) type Following = watch::Receiver<Arc<Loaded>>;

/// Loads everything; creates what is missing and renews what is due.
pub(crate) fn load(folder: &Path, serving: &Leaf) -> Result<Loaded> {
    let pki = Arc::new(Pki::open(folder)?);
    let kubelet = Leaf::new(KUBELET_CLIENT_NAME, &[KUBELET_CLIENT_GROUP]);
    let kubelet = pki.leaf(pki.kubelet_client(), "kubelet-client", &kubelet)?;
    let front = pki.leaf(pki.front_proxy(), "front-proxy-client", &Leaf::new(FRONT_PROXY_NAME, &[]))?;
    let admin = Leaf::new("kubernetes-admin", &["system:masters"]);
    let admin = pki.leaf(pki.authority(), "admin", &admin)?;
    let mut served = pki.leaf(pki.authority(), "server", serving)?;
    let all = [&kubelet, &front, &admin, &served];
    let due = all.iter().filter_map(|leaf| due(&leaf.certificate)).min();
    let due = due.context("a certificate has no expiry")?;
    served.certificate.push_str(pki.authority().pem());
    let TokenKeyPems { private, public } = pki.token_keys()?;
    let api = Credentials {
        client_ca: pki.authority().bundle().to_owned(),
        tokens: TokenKeys { private, public, issuer: ISSUER.to_owned() },
        node_tls: NodeTls {
            certificate: kubelet.certificate,
            key: kubelet.key,
            ca: pki.kubelet_serving().bundle().to_owned(),
            client_ca: pki.kubelet_client().bundle().to_owned(),
        },
        front_proxy: FrontProxy {
            certificate: front.certificate,
            key: front.key,
            ca: pki.front_proxy().bundle().to_owned(),
            names: vec![FRONT_PROXY_NAME.to_owned()],
        },
    };
    Ok(Loaded { pki, api, serving: served, admin, due })
}

/// Loads again when a certificate is due or a file has changed, for ever. What cannot be loaded changes nothing.
pub(crate) async fn follow(serving: &Leaf, current: &watch::Sender<Arc<Loaded>>) {
    let folder = current.borrow().pki.folder().to_owned();
    let mut seen = state(&folder);
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if state(&folder) == seen && SystemTime::now() < current.borrow().due {
            continue;
        }
        match load(&folder, serving) {
            Ok(loaded) => {
                seen = state(&folder);
                tracing::info!("certificates and keys loaded again");
                current.send_replace(Arc::new(loaded));
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "load certificates and keys failed; those loaded before stay in use"
                );
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// Names, sizes and times of the files, in order.
fn state(folder: &Path) -> Vec<(std::ffi::OsString, u64, Option<SystemTime>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.file_name(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    files.sort();
    files
}
