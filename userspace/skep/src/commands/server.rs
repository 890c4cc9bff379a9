//! `skep server`: API server, store, controllers and scheduler in one process.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use rcgen::KeyPair;
use skep_apiserver::{
    ApiServer, Config, FrontProxy, Identity, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys,
};
use skep_control::{LeaderElection, NodeNames};
use skep_store::Store;
use skep_store::embedded::EmbeddedStore;
use skep_store::etcd::{Certificate, EtcdStore, TlsOptions};
use skep_store::sealed::{Resealed, SealedStore, holds_sealed};
use tokio::net::TcpListener;

use super::access::AccessFlags;
use super::audit::AuditFlags;
use super::{backup_server, duration};
use crate::kubeconfig;
use crate::pki::{CLIENT, Leaf, Pki, SERVER, due};

#[derive(clap::Args)]
pub(crate) struct Server {
    /// Data directory: keys and the embedded store
    #[arg(long, default_value = "/var/lib/skep/server")]
    data_dir: PathBuf,
    /// Address of the API; other nodes must be able to reach it
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Additional DNS name or IP address in the API's certificate; may be repeated
    #[arg(long = "tls-san")]
    sans: Vec<String>,
    /// `embedded`, or `etcd=URL[,URL...]`
    #[arg(long, default_value = "embedded")]
    store: StoreChoice,
    #[command(flatten)]
    etcd_tls: EtcdTls,
    /// Network of Services; may be repeated for IPv4 and IPv6
    #[arg(long = "service-cidr", default_value = "10.96.0.0/12")]
    service_cidrs: Vec<IpNetwork>,
    /// Network of pods, from which every node gets a part; may be repeated for IPv4 and IPv6
    #[arg(long = "cluster-cidr", default_value = "10.244.0.0/16")]
    cluster_cidrs: Vec<IpNetwork>,
    #[command(flatten)]
    access: AccessFlags,
    #[command(flatten)]
    audit: AuditFlags,
    /// How long a node without heartbeats counts as ready
    #[arg(long, default_value = "50s", value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// File for an administrator's kubeconfig, in addition to the default [default: DATA_DIR/admin.kubeconfig]
    #[arg(long)]
    write_kubeconfig: Option<PathBuf>,
    /// Elect one of several servers with a shared etcd to run controllers
    #[arg(long)]
    leader_elect: bool,
}

/// PEM files.
#[derive(clap::Args)]
pub(super) struct EtcdTls {
    /// CA of etcd's certificates
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
}

impl EtcdTls {
    pub(super) fn options(&self) -> Result<Option<TlsOptions>> {
        let EtcdTls { etcd_cafile, etcd_certfile, etcd_keyfile } = self;
        let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("read {}", file.display()));
        let mut options = TlsOptions::new();
        if let Some(ca) = etcd_cafile {
            options = options.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(certificate), Some(key)) = (etcd_certfile, etcd_keyfile) {
            options = options.identity(skep_store::etcd::Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok((etcd_cafile.is_some() || etcd_certfile.is_some()).then_some(options))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreChoice {
    Embedded,
    Etcd(Vec<String>),
}

impl FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "embedded" => Ok(StoreChoice::Embedded),
            Some(("etcd", urls)) if !urls.is_empty() => {
                Ok(StoreChoice::Etcd(urls.split(',').map(str::to_owned).collect()))
            }
            _ => Err("a store is `embedded` or `etcd=URL[,URL...]`".to_owned()),
        }
    }
}

/// Minimum time between checks of the serving certificate.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(3600);
/// The embedded store's file in the data directory. The files of its log begin with the same name.
pub(super) const STORE_FILE: &str = "store.redb";
/// Prefix of Secrets in the store.
const SECRETS_PREFIX: &str = "/registry/secrets/";
/// Common name of the client for aggregated API servers.
const FRONT_PROXY_NAME: &str = "front-proxy-client";
/// Subject of the client for kubelets. It has no rights in the API.
const KUBELET_CLIENT_NAME: &str = "kube-apiserver-kubelet-client";
const KUBELET_CLIENT_GROUP: &str = "skep:kubelet-clients";
/// Issuer of service-account tokens.
const ISSUER: &str = "https://kubernetes.default.svc";

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) async fn run(server: Server) -> Result<()> {
    if server.node_monitor_grace_period < Duration::from_secs(5) {
        bail!("--node-monitor-grace-period must be at least 5s");
    }
    super::raise_descriptor_limit();
    let pki = Arc::new(Pki::open(&server.data_dir.join("pki"))?);
    private_folder(&server.data_dir)?;
    let (store, backups) = open_store(&server).await?;
    let store = seal_secrets(store, &pki).await?;
    let api = ApiServer::new(api_config(&server, &pki, store)?).await.context("start the API server")?;
    write_kubeconfig(&server, &pki)?;
    let controllers = skep_control::run(
        kube::Client::new(
            api.in_process(Identity::new("system:kube-controller-manager", &["system:masters"])),
            "default",
        ),
        control_config(&server, &pki)?,
    );
    tracing::info!(listen = %server.listen, "serving");
    tokio::select! {
        served = serve(&server, &pki, &api) => served,
        ended = controllers => ended.context("run the controllers"),
        asked = super::terminated() => asked.context("wait for a signal"),
        never = backups => match never {},
    }
}

/// Only the owner may enter the data directory, also if it was made with another mode.
fn private_folder(folder: &Path) -> Result<()> {
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))
        .with_context(|| format!("make {} private", folder.display()))
}

/// The store, and the future that serves its backups.
async fn open_store(server: &Server) -> Result<(Arc<dyn Store>, BoxFuture<Infallible>)> {
    match &server.store {
        StoreChoice::Embedded => {
            let file = server.data_dir.join(STORE_FILE);
            let store = EmbeddedStore::open(&file).with_context(|| format!("open {}", file.display()))?;
            let store = Arc::new(store);
            let backups = backup_server::serve(store.clone(), server.data_dir.clone());
            Ok((store, Box::pin(backups)))
        }
        StoreChoice::Etcd(urls) => {
            let store = EtcdStore::connect(urls, server.etcd_tls.options()?).await;
            let store = store.with_context(|| format!("connect to etcd at {}", urls.join(",")))?;
            Ok((Arc::new(store), Box::pin(std::future::pending())))
        }
    }
}

/// Encrypts Secrets in the store; those with an older key are encrypted again.
async fn seal_secrets(store: Arc<dyn Store>, pki: &Pki) -> Result<Arc<dyn Store>> {
    let keyring = match pki.sealing_keys()? {
        Some(keyring) => keyring,
        None if holds_sealed(&*store, SECRETS_PREFIX).await.context("search for sealed Secrets")? => bail!(
            "the store has Secrets sealed with a key of {0}, and there is no such file; restore {0} from a copy, or from \
             another server of this cluster. If there is none, `skep secrets rotate` makes a new key: those Secrets can \
             then be deleted, and nothing else",
            pki.sealing_file().display()
        ),
        None => pki.create_sealing_key()?,
    };
    let key = keyring.id().to_owned();
    let store = SealedStore::new(store, SECRETS_PREFIX, keyring);
    let Resealed { written, unreadable } = store.reseal().await.context("reseal the Secrets")?;
    if written > 0 {
        tracing::info!(secrets = written, key, "resealed Secrets with the newest key");
    }
    if unreadable > 0 {
        let file = pki.sealing_file();
        tracing::error!(
            secrets = unreadable,
            file = %file.display(),
            "opening Secrets failed; restore the lines of their keys, or delete them"
        );
    }
    Ok(Arc::new(store))
}

fn api_config(server: &Server, pki: &Pki, store: Arc<dyn Store>) -> Result<Config> {
    let private = pki.service_account_key()?;
    let public = KeyPair::from_pem(&private).context("read the service-account key")?.public_key_pem();
    let kubelet = pki.leaf(
        pki.kubelet_client(),
        "kubelet-client",
        &Leaf::new(KUBELET_CLIENT_NAME, &[KUBELET_CLIENT_GROUP]),
    )?;
    let front = pki.leaf(pki.front_proxy(), "front-proxy-client", &Leaf::new(FRONT_PROXY_NAME, &[]))?;
    let names = vec![FRONT_PROXY_NAME.to_owned()];
    Ok(Config {
        store,
        services: ServiceNetwork { cidrs: server.service_cidrs.clone(), node_ports: NODE_PORTS },
        advertise: server.listen,
        client_ca: pki.authority().bundle().to_owned(),
        tokens: TokenKeys { private, public: vec![public], issuer: ISSUER.to_owned() },
        access: server.access.rules()?,
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
            names,
        },
        audit: server.audit.open()?,
    })
}

/// A client certificate of an administrator.
fn admin_leaf(name: &str) -> Leaf {
    Leaf { purpose: CLIENT, ..Leaf::new(name, &["system:masters"]) }
}

fn control_config(server: &Server, pki: &Arc<Pki>) -> Result<skep_control::Config> {
    let elected =
        server.leader_elect.then(|| LeaderElection::new(format!("{}-{}", server.listen, std::process::id())));
    Ok(skep_control::Config {
        leader_election: elected,
        node_grace: server.node_monitor_grace_period,
        cluster_cidrs: server.cluster_cidrs.clone(),
        root_ca_pem: pki.authority().bundle().to_owned(),
        signer: Some(Arc::new(CaSigner { pki: pki.clone() })),
        node_names: NodeNames {
            service_cidrs: server.service_cidrs.clone(),
            servers: serving_leaf(server).names,
            recorded_since: Some(pki.recorded_since()?),
        },
        ..skep_control::Config::default()
    })
}

/// Signs certificate requests: those for kubelets' serving certificates with the CA that only the API server trusts, and
/// only for kubelets; all others with the CA of clients.
struct CaSigner {
    pki: Arc<Pki>,
}

impl skep_control::Signer for CaSigner {
    fn sign(&self, request: &skep_control::SignRequest) -> Result<String, skep_control::SignError> {
        let authority = match request.signer_name.as_str() {
            "kubernetes.io/kubelet-serving" => self.pki.kubelet_serving(),
            _ => self.pki.authority(),
        };
        skep_control::Signer::sign(authority, request)
    }
}

fn write_kubeconfig(server: &Server, pki: &Pki) -> Result<()> {
    let admin = pki.leaf(pki.authority(), "admin", &admin_leaf("kubernetes-admin"))?;
    let url = format!("https://{}", server.listen);
    let own = server.data_dir.join("admin.kubeconfig");
    for file in [Some(&own), server.write_kubeconfig.as_ref()].into_iter().flatten() {
        write_one(file, &url, pki, &admin)?;
    }
    Ok(())
}

fn write_one(file: &Path, url: &str, pki: &Pki, admin: &crate::pki::CertifiedPem) -> Result<()> {
    kubeconfig::write(file, url, pki.authority().bundle(), admin)
}

/// Serves the API. Switches to a renewed certificate without closing the listener.
async fn serve(server: &Server, pki: &Pki, api: &ApiServer) -> Result<()> {
    let listener = TcpListener::bind(server.listen).await;
    let listener = Arc::new(listener.with_context(|| format!("listen on {}", server.listen))?);
    loop {
        let leaf = pki.leaf(pki.authority(), "server", &serving_leaf(server))?;
        // The chain includes the CA: a joining machine knows only the CA's hash.
        let chain = format!("{}{}", leaf.certificate, pki.authority().pem());
        let renew = due(&leaf.certificate).and_then(|at| at.duration_since(SystemTime::now()).ok());
        let renew = renew.unwrap_or(MIN_RENEWAL_INTERVAL).max(MIN_RENEWAL_INTERVAL);
        tokio::select! {
            served = api.serve(&listener, &chain, &leaf.key) => return Ok(served?),
            () = tokio::time::sleep(renew) => tracing::info!("renewing the serving certificate"),
        }
    }
}

fn serving_leaf(server: &Server) -> Leaf {
    let mut names: BTreeSet<String> = server.sans.iter().cloned().collect();
    names.extend(
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned),
    );
    names.insert("kubernetes.default.svc.cluster.local".to_owned());
    names.insert("127.0.0.1".to_owned());
    if !server.listen.ip().is_unspecified() {
        names.insert(server.listen.ip().to_string());
    }
    names.extend(server.service_cidrs.iter().filter_map(first_address).map(|ip| ip.to_string()));
    Leaf { purpose: SERVER, ..Leaf::new("kube-apiserver", &[]) }.with_names(names.into_iter().collect())
}

/// The address of the `kubernetes` Service.
fn first_address(cidr: &IpNetwork) -> Option<IpAddr> {
    cidr.iter().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_parses_in_the_notation_of_the_help() {
        assert_eq!("embedded".parse(), Ok(StoreChoice::Embedded));
        assert_eq!(
            "etcd=http://a,http://b".parse(),
            Ok(StoreChoice::Etcd(vec!["http://a".into(), "http://b".into()]))
        );
        assert!("etcd=".parse::<StoreChoice>().is_err());
        assert!("sqlite".parse::<StoreChoice>().is_err());
    }
}
