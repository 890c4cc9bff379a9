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
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use skep_apiserver::{ApiServer, Config, Credentials, Identity, NODE_PORTS, ServiceNetwork};
use skep_control::{Clients, LeaderElection, NodeNames};
use skep_network::{Acme, AcmeSettings};
use skep_store::Store;
use skep_store::embedded::EmbeddedStore;
use skep_store::etcd::EtcdStore;
use skep_store::sealed::{Resealed, SealedStore, holds_sealed};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::access::AccessFlags;
use super::acme::AcmeFlags;
use super::audit::AuditFlags;
use super::etcd::EtcdFlags;
use super::{backup_server, duration};
use crate::controllers::Controllers;
use crate::credentials::{Following, Loaded};
use crate::pki::{CertifiedPem, Leaf, Pki, SERVER};
use crate::{advertise, cluster_keys, credentials, kubeconfig};

#[derive(clap::Args)]
pub(crate) struct Server {
    /// Data directory: keys and the embedded store
    #[arg(long, default_value = "/var/lib/skep/server")]
    data_dir: PathBuf,
    /// Address on which the API is served; other nodes must be able to reach it
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Address at which nodes, pods and users reach the API [default: that of --listen, or of the default route]
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Additional DNS name or IP address in the API's certificate; may be repeated
    #[arg(long = "tls-san")]
    sans: Vec<String>,
    /// `embedded`, or `etcd=URL[,URL...]`
    #[arg(long, default_value = "embedded")]
    store: StoreChoice,
    #[command(flatten)]
    etcd: EtcdFlags,
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
    #[command(flatten)]
    acme: AcmeFlags,
    /// How long a node without heartbeats counts as ready
    #[arg(long, default_value = "50s", value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// File for an administrator's kubeconfig, in addition to the default [default: DATA_DIR/admin.kubeconfig]
    #[arg(long)]
    write_kubeconfig: Option<PathBuf>,
    /// Elect one of the servers that share an etcd to run controllers and scheduler. An embedded store has one server
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: bool,
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

/// The embedded store's file in the data directory. The files of its log begin with the same name.
pub(super) const STORE_FILE: &str = "store.redb";
/// How long a stopping server tries to hand over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a panic in the task that accepts connections.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Prefix of Secrets in the store.
const SECRETS_PREFIX: &str = "/registry/secrets/";

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The allocator returns memory in pieces of 64 KiB. With huge pages the kernel clears 2 MiB for each that is used again: a
/// twentieth of the server's processor time, and a tenth of its memory, when objects are created as fast as it can.
fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "disable huge pages failed");
    }
}

pub(crate) async fn run(server: Server) -> Result<()> {
    if server.node_monitor_grace_period < Duration::from_secs(5) {
        bail!("--node-monitor-grace-period must be at least 5s");
    }
    super::raise_descriptor_limit();
    use_small_pages();
    let advertise = advertise::address(server.listen, server.advertise_address, &server.service_cidrs)?;
    let acme = server.acme.settings()?;
    let server = Running { flags: server, advertise, identity: identity()?, acme };
    let serving = serving_leaf(&server);
    let loaded = credentials::load(&server.flags.data_dir.join("pki"), &serving)?;
    let (current, following) = watch::channel(Arc::new(loaded));
    let pki = current.borrow().pki.clone();
    private_folder(&server.flags.data_dir)?;
    let (store, backups) = open_store(&server.flags).await?;
    let shared = server.is_shared().then(|| store.clone());
    if let Some(store) = &shared {
        cluster_keys::check(&**store, &pki).await?;
    }
    let store = seal_secrets(store, &pki).await?;
    let mut config = api_config(&server, current.borrow().api.clone(), store)?;
    let controllers = Controllers::start().context("start the threads of the controllers")?;
    config.neighbours.push(Arc::new(controllers.neighbour()));
    let api = ApiServer::new(config).await.context("start the API server")?;
    write_kubeconfig(&server, &following.borrow().clone())?;
    let clients = clients(&api);
    tracing::info!(listen = %server.flags.listen, advertise = %advertise, "serving");
    let ended = tokio::select! {
        served = serve(&server, following.clone(), &api, shared) => served,
        ended = control(&server, &clients, following, &controllers) => ended,
        () = credentials::follow(&serving, &current) => Ok(()),
        asked = super::terminated() => asked.context("wait for a signal"),
        never = backups => match never {},
    };
    leave(&server, &api, &clients).await;
    ended
}

/// A server's flags, and what follows from them.
struct Running {
    flags: Server,
    /// Where others reach the API.
    advertise: SocketAddr,
    /// Of this process among the servers of the cluster.
    identity: String,
    acme: Option<AcmeSettings>,
}

impl Running {
    /// Whether other servers can use the store.
    fn is_shared(&self) -> bool {
        matches!(self.flags.store, StoreChoice::Etcd(_))
    }

    /// An embedded store has one server, which needs no election.
    fn election(&self) -> Option<LeaderElection> {
        (self.flags.leader_elect && self.is_shared()).then(|| LeaderElection::new(&self.identity))
    }
}

/// Clients without a network between: the users whose rights the default roles give, under the names of upstream's
/// programs, which managed fields show.
fn clients(api: &ApiServer) -> Clients {
    let api = api.clone();
    Clients::new(move |user| {
        let agent =
            if user == "system:kube-scheduler" { "kube-scheduler" } else { "kube-controller-manager" };
        kube::Client::new(api.in_process(Identity::of_user(user), agent), "default")
    })
}

/// Host name and a random part: two processes are never the same candidate.
fn identity() -> Result<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut random = [0; 16];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        bail!("reading random numbers failed");
    }
    Ok(format!("{}_{}", host.trim(), crate::pki::to_hex(&random)))
}

/// Hands over to the other servers at once, rather than when the leases expire.
async fn leave(server: &Running, api: &ApiServer, clients: &Clients) {
    let hand_over = async {
        if let Some(election) = server.election() {
            skep_control::release(&clients.manager(), &election).await.context("release the lease")?;
        }
        api.withdraw().await.context("withdraw the endpoint")
    };
    match tokio::time::timeout(HAND_OVER_TIMEOUT, hand_over).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "hand over to other servers failed"),
        Err(_) => tracing::warn!("hand over to other servers timed out"),
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
            let store = EtcdStore::connect(urls, server.etcd.options()?).await;
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

fn api_config(server: &Running, credentials: Credentials, store: Arc<dyn Store>) -> Result<Config> {
    let Credentials { client_ca, tokens, node_tls, front_proxy } = credentials;
    Ok(Config {
        store,
        shared_store: server.is_shared(),
        services: ServiceNetwork {
            cidrs: server.flags.service_cidrs.clone(),
            pod_cidrs: server.flags.cluster_cidrs.clone(),
            node_ports: NODE_PORTS,
        },
        advertise: server.advertise,
        client_ca,
        tokens,
        access: server.flags.access.rules()?,
        node_tls,
        front_proxy,
        audit: server.flags.audit.open()?,
        neighbours: Vec::new(),
    })
}

/// Runs controllers and scheduler. They start again when the CA changes that pods trust: it is theirs to publish.
async fn control(
    server: &Running,
    clients: &Clients,
    following: Following,
    controllers: &Controllers,
) -> Result<()> {
    loop {
        let config = control_config(server, &following)?;
        let root = config.root_ca_pem.clone();
        let mut loaded = following.clone();
        let other_root = loaded.wait_for(|loaded| loaded.pki.authority().bundle() != root);
        tokio::select! {
            ended = controllers.run(clients, config) => return ended.context("run the controllers"),
            _ = other_root => tracing::info!("the cluster's CA changed; controllers start again to publish it"),
        }
    }
}

fn control_config(server: &Running, following: &Following) -> Result<skep_control::Config> {
    let pki = following.borrow().pki.clone();
    let acme = server.acme.clone();
    Ok(skep_control::Config {
        leader_election: server.election(),
        node_grace: server.flags.node_monitor_grace_period,
        cluster_cidrs: server.flags.cluster_cidrs.clone(),
        root_ca_pem: pki.authority().bundle().to_owned(),
        signer: Some(Arc::new(CaSigner { following: following.clone() })),
        node_names: NodeNames {
            service_cidrs: server.flags.service_cidrs.clone(),
            servers: serving_leaf(server).names,
            recorded_since: Some(pki.recorded_since()?),
        },
        others: vec![("gateways", Arc::new(move |clients: &Clients| gateways(clients, acme.clone())))],
        ..skep_control::Config::default()
    })
}

/// Statuses and Services of Gateway API, and certificates.
fn gateways(clients: &Clients, settings: Option<AcmeSettings>) -> BoxFuture<()> {
    let acme = Acme { client: clients.controller("acme-controller"), settings };
    Box::pin(skep_network::publish_gateways(clients.controller("gateway-controller"), acme))
}

/// Signs certificate requests: those for kubelets' serving certificates with the CA that only the API server trusts, and
/// only for kubelets; all others with the CA of clients.
struct CaSigner {
    following: Following,
}

impl skep_control::Signer for CaSigner {
    fn sign(&self, request: &skep_control::SignRequest) -> Result<String, skep_control::SignError> {
        let pki = self.following.borrow().pki.clone();
        let authority = match request.signer_name.as_str() {
            "kubernetes.io/kubelet-serving" => pki.kubelet_serving(),
            _ => pki.authority(),
        };
        skep_control::Signer::sign(authority, request)
    }
}

fn write_kubeconfig(server: &Running, loaded: &Loaded) -> Result<()> {
    let url = format!("https://{}", server.advertise);
    let own = server.flags.data_dir.join("admin.kubeconfig");
    for file in [Some(&own), server.flags.write_kubeconfig.as_ref()].into_iter().flatten() {
        kubeconfig::write(file, &url, &loaded.api.client_ca, &loaded.admin)?;
    }
    Ok(())
}

/// Serves the API. Switches to renewed certificates and rotated CAs without closing the listener.
async fn serve(
    server: &Running,
    mut following: Following,
    api: &ApiServer,
    shared: Option<Arc<dyn Store>>,
) -> Result<()> {
    let listener = TcpListener::bind(server.flags.listen).await;
    let listener = Arc::new(listener.with_context(|| format!("listen on {}", server.flags.listen))?);
    loop {
        let loaded = following.borrow_and_update().clone();
        // A task of its own: nothing else delays it, and its panic is only its own.
        let (api_server, listener) = (api.clone(), listener.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let CertifiedPem { certificate, key } = &loaded.serving;
            api_server.serve(&listener, certificate, key).await
        });
        tokio::select! {
            Some(served) = accepting.join_next() => match served {
                Ok(served) => return Ok(served?),
                Err(error) => {
                    tracing::error!(%error, "accept connections failed; it starts again");
                    tokio::time::sleep(RESTART_PAUSE).await;
                    continue;
                }
            },
            Ok(()) = following.changed() => {}
        }
        let loaded = following.borrow().clone();
        let reloaded = api.reload(&loaded.api).await.context("use new certificates and keys");
        if let Err(error) = reloaded.and_then(|()| write_kubeconfig(server, &loaded)) {
            tracing::error!(error = format!("{error:#}"), "reload failed");
        }
        if let Some(store) = &shared
            && let Err(error) = cluster_keys::record(&**store, &loaded.pki).await
        {
            tracing::error!(error = format!("{error:#}"), "record the keys of the cluster failed");
        }
        tracing::info!("serving with the certificates and keys that were loaded");
    }
}

fn serving_leaf(server: &Running) -> Leaf {
    let Running { flags, advertise, .. } = server;
    let mut names: BTreeSet<String> = flags.sans.iter().cloned().collect();
    names.extend(
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned),
    );
    names.insert("kubernetes.default.svc.cluster.local".to_owned());
    names.insert("127.0.0.1".to_owned());
    names.insert(advertise.ip().to_string());
    if !flags.listen.ip().is_unspecified() {
        names.insert(flags.listen.ip().to_string());
    }
    names.extend(flags.service_cidrs.iter().filter_map(first_address).map(|ip| ip.to_string()));
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
