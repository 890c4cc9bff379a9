//! Joins a machine to a cluster and renews its certificates.
//!
//! In: a bootstrap token and the hash of the CA, or certificates on disk. Out: the node's [`Identity`].

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rcgen::KeyPair;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use skep_control::NODE_ADDRESSES;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig::{self, Credentials};
use crate::pki::{self, CertifiedPem, Leaf, SERVER, hash_of_der};

/// The cluster to join, and the credentials for it.
#[derive(Clone, Debug)]
pub(crate) struct Invitation {
    pub server: String,
    /// Only needed without a client certificate on disk, like `ca_hash`.
    pub token: Option<String>,
    pub ca_hash: Option<String>,
}

/// The certificates of a node, and the CAs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub trusted: Trusted,
    pub client: CertifiedPem,
    pub serving: CertifiedPem,
}

/// The CAs that a node trusts, each as a PEM bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trusted {
    /// The API server's.
    pub cluster: String,
    /// The one that certifies nodes' kubelet APIs.
    pub kubelet_serving: String,
    /// The one that certifies the API server as a client of kubelets.
    pub kubelet_client: String,
}

impl Identity {
    /// The time at which the first certificate should be renewed.
    pub(crate) fn due(&self) -> Option<SystemTime> {
        let due = |pem: &CertifiedPem| pki::due(&pem.certificate);
        Some(due(&self.client)?.min(due(&self.serving)?))
    }
}

/// A node's folder of keys and certificates.
pub(crate) struct IdentityFolder {
    path: PathBuf,
    node: String,
    ips: Vec<IpAddr>,
}

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// The ConfigMap of kube-system with the CAs.
const AUTHORITIES: &str = "skep-certificate-authorities";
/// The key of the machine. It proves that a later join under the same name is from the same machine.
const NODE_KEY: &str = "node.key";
/// How often a pending certificate request is logged.
const PENDING_LOG_INTERVAL: Duration = Duration::from_secs(15);
/// Pause between attempts to join.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl IdentityFolder {
    pub(crate) fn new(path: PathBuf, node: &str, ips: &[IpAddr]) -> IdentityFolder {
        IdentityFolder { path, node: node.to_owned(), ips: ips.to_vec() }
    }

    /// The node's identity. Requests missing certificates and renews old ones; keeps an old one that cannot be renewed now.
    /// Retries while the server is unreachable.
    pub(crate) async fn identity(&self, invitation: &Invitation) -> Result<Identity> {
        let mut logged = false;
        loop {
            match self.try_identity(invitation).await {
                Err(error) if is_transient(&error) => {
                    if !logged {
                        tracing::warn!(
                            server = invitation.server,
                            error = format!("{error:#}"),
                            "join failed; retrying"
                        );
                        logged = true;
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                result => return result,
            }
        }
    }

    async fn try_identity(&self, invitation: &Invitation) -> Result<Identity> {
        std::fs::create_dir_all(&self.path).with_context(|| format!("create {}", self.path.display()))?;
        let server = invitation.server.as_str();
        let ca = self.ca(invitation).await?;
        let user = Leaf::new(&format!("system:node:{}", self.node), &["system:nodes"]);
        let client = match self.read("client", &user, &ca) {
            OnDisk::Current(pem) | OnDisk::Due(pem) => pem,
            OnDisk::Missing => self.first_certificate(invitation, &ca, &user).await?,
        };
        let trusted = self.trusted(server, &ca, &client).await?;
        let client = match self.read("client", &user, &trusted.cluster) {
            OnDisk::Current(pem) => pem,
            _ => {
                or_old(self.renew("client", server, &trusted.cluster, &client, &user).await, client, "client")
            }
        };
        let names: BTreeSet<String> =
            self.ips.iter().map(ToString::to_string).chain([self.node.clone()]).collect();
        let wanted = Leaf { purpose: SERVER, names, ..user };
        let serving = match self.read("serving", &wanted, &trusted.kubelet_serving) {
            OnDisk::Current(pem) => pem,
            OnDisk::Due(pem) => {
                let renewed = self.renew("serving", server, &trusted.cluster, &client, &wanted).await;
                or_old(renewed, pem, "serving")
            }
            OnDisk::Missing => self.renew("serving", server, &trusted.cluster, &client, &wanted).await?,
        };
        Ok(Identity { trusted, client, serving })
    }

    /// The first client certificate, by the bootstrap token. It is for the key of the machine: the server gives no other
    /// key a certificate under this name.
    async fn first_certificate(
        &self,
        invitation: &Invitation,
        ca: &str,
        user: &Leaf,
    ) -> Result<CertifiedPem> {
        let token = invitation.token.as_deref().context(
            "this machine has not joined yet: pass --token-file and --ca-hash as `skep token create` prints them",
        )?;
        let bootstrapper = kubeconfig::client(&invitation.server, ca, Credentials::Token(token), None)?;
        let addresses: Vec<String> = self.ips.iter().map(ToString::to_string).collect();
        let metadata = ObjectMeta {
            generate_name: Some("node-".to_owned()),
            annotations: Some([(NODE_ADDRESSES.to_owned(), addresses.join(","))].into()),
            ..ObjectMeta::default()
        };
        let issued = certify(bootstrapper, CLIENT_SIGNER, user, self.node_key()?, metadata).await?;
        self.write("client", &issued)?;
        Ok(issued)
    }

    /// The key of the machine: the one on disk, or that of an earlier version's client certificate, or a new one.
    fn node_key(&self) -> Result<KeyPair> {
        let file = self.path.join(NODE_KEY);
        let found =
            [file.clone(), self.path.join("client.key")].iter().find_map(|f| std::fs::read_to_string(f).ok());
        let key = match &found {
            Some(pem) => KeyPair::from_pem(pem).with_context(|| format!("read {}", file.display()))?,
            None => KeyPair::generate().context("make the key of this machine")?,
        };
        if !file.exists() {
            pki::write_private(&file, key.serialize_pem().as_bytes())?;
        }
        Ok(key)
    }

    /// The CA of the API server: from the folder, or from the server if it has the expected hash.
    async fn ca(&self, invitation: &Invitation) -> Result<String> {
        let file = self.path.join("ca.crt");
        if let Ok(found) = std::fs::read_to_string(&file) {
            return Ok(found);
        }
        let hash = invitation.ca_hash.as_deref().context(
            "the server's CA is not known yet: pass --token-file and --ca-hash as `skep token create` prints them",
        )?;
        let ca = fetch_ca(&invitation.server, hash).await?;
        pki::write_private(&file, ca.as_bytes())?;
        Ok(ca)
    }

    /// The CAs: as the server publishes them; those of the folder if it cannot be asked.
    async fn trusted(&self, server: &str, ca: &str, client: &CertifiedPem) -> Result<Trusted> {
        let client = kubeconfig::client(server, ca, Credentials::Certificate(client), None)?;
        match fetch_trusted(client).await {
            Ok(trusted) => {
                for (name, text) in trusted.files() {
                    let file = self.path.join(name);
                    if std::fs::read_to_string(&file).ok().as_deref() != Some(text) {
                        pki::write_private(&file, text.as_bytes())?;
                    }
                }
                Ok(trusted)
            }
            Err(error) => {
                let read = |name: &str| std::fs::read_to_string(self.path.join(name)).ok();
                let found = (read("kubelet-serving-ca.crt"), read("kubelet-client-ca.crt"));
                let (Some(kubelet_serving), Some(kubelet_client)) = found else { return Err(error) };
                tracing::warn!(error = format!("{error:#}"), "read CAs failed; the known ones stay in use");
                Ok(Trusted { cluster: ca.to_owned(), kubelet_serving, kubelet_client })
            }
        }
    }

    fn read(&self, name: &str, wanted: &Leaf, ca: &str) -> OnDisk {
        let read = |extension| std::fs::read_to_string(self.path.join(format!("{name}.{extension}"))).ok();
        let (Some(certificate), Some(key)) = (read("crt"), read("key")) else { return OnDisk::Missing };
        let pem = CertifiedPem { certificate, key };
        if wanted.matches(&pem.certificate, ca) {
            return OnDisk::Current(pem);
        }
        if wanted.matches_and_is_valid(&pem.certificate, ca) { OnDisk::Due(pem) } else { OnDisk::Missing }
    }

    fn write(&self, name: &str, pem: &CertifiedPem) -> Result<()> {
        let certificate = self.path.join(format!("{name}.crt"));
        // The key first: a certificate on disk means that the pair is complete.
        let _ = std::fs::remove_file(&certificate);
        pki::write_private(&self.path.join(format!("{name}.key")), pem.key.as_bytes())?;
        pki::write_private(&certificate, pem.certificate.as_bytes())?;
        Ok(())
    }

    async fn renew(
        &self,
        name: &'static str,
        server: &str,
        ca: &str,
        by: &CertifiedPem,
        wanted: &Leaf,
    ) -> Result<CertifiedPem> {
        let client = kubeconfig::client(server, ca, Credentials::Certificate(by), None)?;
        let signer = if wanted.purpose == SERVER { SERVING_SIGNER } else { CLIENT_SIGNER };
        if wanted.purpose == SERVER {
            register_addresses(client.clone(), &self.node, &self.ips).await?;
        }
        let key = KeyPair::generate().context("make a key")?;
        let metadata = ObjectMeta { generate_name: Some("node-".to_owned()), ..ObjectMeta::default() };
        let issued = certify(client, signer, wanted, key, metadata).await?;
        self.write(name, &issued)?;
        tracing::info!(certificate = name, "certificate renewed");
        Ok(issued)
    }
}

impl Trusted {
    /// File names, which are also the keys of the ConfigMap but for the cluster's.
    fn files(&self) -> [(&'static str, &str); 3] {
        [
            ("ca.crt", &self.cluster),
            ("kubelet-serving-ca.crt", &self.kubelet_serving),
            ("kubelet-client-ca.crt", &self.kubelet_client),
        ]
    }
}

/// The CAs as the server publishes them.
pub(crate) async fn fetch_trusted(client: Client) -> Result<Trusted> {
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    let found = maps.get(AUTHORITIES).await.context("read the CAs of the cluster")?;
    let mut data = found.data.unwrap_or_default();
    let mut take = |key: &str| {
        let pem = data.remove(key).filter(|pem| !pki::certificates(pem).is_empty());
        pem.with_context(|| format!("ConfigMap kube-system/{AUTHORITIES} has no {key}"))
    };
    Ok(Trusted {
        cluster: take("cluster-ca.crt")?,
        kubelet_serving: take("kubelet-serving-ca.crt")?,
        kubelet_client: take("kubelet-client-ca.crt")?,
    })
}

/// Whether a retry may succeed: the server is unreachable or overloaded; it did not refuse.
fn is_transient(error: &anyhow::Error) -> bool {
    if let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<kube::Error>()) {
        return match error {
            kube::Error::Api(status) => status.code >= 500 || status.code == 429,
            kube::Error::HyperError(_) | kube::Error::Service(_) => true,
            _ => false,
        };
    }
    // An untrusted certificate is reported as invalid data.
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| {
        !matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::NotFound | ErrorKind::PermissionDenied)
    })
}

/// A certificate on disk.
enum OnDisk {
    Missing,
    /// Valid, but should be renewed.
    Due(CertifiedPem),
    Current(CertifiedPem),
}

fn or_old(renewed: Result<CertifiedPem>, old: CertifiedPem, name: &str) -> CertifiedPem {
    renewed.unwrap_or_else(|error| {
        tracing::warn!(
            certificate = name,
            error = format!("{error:#}"),
            "certificate renewal failed; the old certificate stays in use"
        );
        old
    })
}

/// Registers the node and its addresses: serving certificates are issued for registered addresses only.
async fn register_addresses(client: Client, node: &str, ips: &[IpAddr]) -> Result<()> {
    let nodes: Api<Node> = Api::all(client);
    let found = nodes.get_opt(node).await.with_context(|| format!("look for node {node}"))?;
    if found.is_none() {
        let metadata = ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() };
        let created = nodes.create(&PostParams::default(), &Node { metadata, ..Node::default() }).await;
        created.with_context(|| format!("register node {node}"))?;
    }
    let mut addresses: Vec<_> =
        ips.iter().map(|ip| serde_json::json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(serde_json::json!({"type": "Hostname", "address": node}));
    let patch = Patch::Merge(serde_json::json!({"status": {"addresses": addresses}}));
    let patched = nodes.patch_status(node, &PatchParams::default(), &patch).await;
    patched.with_context(|| format!("write the addresses of node {node}"))?;
    Ok(())
}

/// Requests a certificate and waits until it is issued.
async fn certify(
    client: Client,
    signer: &str,
    wanted: &Leaf,
    key: KeyPair,
    metadata: ObjectMeta,
) -> Result<CertifiedPem> {
    let csr = pki::request(&key, wanted)?;
    let purpose = if wanted.purpose == SERVER { "server auth" } else { "client auth" };
    let request = CertificateSigningRequest {
        metadata,
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), purpose.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client);
    let created = requests.create(&PostParams::default(), &request).await;
    let name = created.context("request a certificate")?.metadata.name.context("the request has no name")?;
    let decided = await_condition(requests, &name, |request: Option<&CertificateSigningRequest>| {
        request.is_none_or(|request| certificate(request).is_some() || refusal(request).is_some())
    });
    tokio::pin!(decided);
    let request = loop {
        tokio::select! {
            decided = &mut decided => break decided.context("wait for the certificate")?,
            () = tokio::time::sleep(PENDING_LOG_INTERVAL) => {
                tracing::warn!(request = name, "certificate request is pending; run `kubectl certificate approve {name}`");
            }
        }
    };
    let request = request.with_context(|| format!("request {name} was deleted"))?;
    if let Some(reason) = refusal(&request) {
        bail!("request {name} was refused: {reason}");
    }
    let certificate = certificate(&request).with_context(|| format!("request {name} has no certificate"))?;
    Ok(CertifiedPem { certificate, key: key.serialize_pem() })
}

fn certificate(request: &CertificateSigningRequest) -> Option<String> {
    let bytes = &request.status.as_ref()?.certificate.as_ref()?.0;
    String::from_utf8(bytes.clone()).ok().filter(|pem| !pem.is_empty())
}

fn refusal(request: &CertificateSigningRequest) -> Option<String> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let found =
        conditions.iter().find(|condition| ["Denied", "Failed"].contains(&condition.type_.as_str()))?;
    Some(found.message.clone().unwrap_or_else(|| found.type_.clone()))
}

/// Takes the CA from the server's certificate chain.
async fn fetch_ca(server: &str, hash: &str) -> Result<String> {
    let url: http::Uri = server.parse().with_context(|| format!("{server:?} is not a URL"))?;
    let host = url.host().with_context(|| format!("{server:?} names no host"))?.to_owned();
    let port = url.port_u16().unwrap_or(443);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pinned =
        Arc::new(PinnedCa { hash: hash.to_owned(), provider: provider.clone(), found: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .with_context(|| format!("{host:?} is no host name"))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let stream = stream.with_context(|| format!("connect to {server}"))?;
    connector.connect(name, stream).await.with_context(|| format!("verify the certificate of {server}"))?;
    let found = pinned.found.lock().unwrap_or_else(PoisonError::into_inner).take();
    let found = found.context("the server sent no CA")?;
    Ok(to_pem(&found))
}

fn to_pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// Trusts a server whose chain contains the CA with the given hash, and records that CA.
#[derive(Debug)]
struct PinnedCa {
    hash: String,
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates.iter().find(|ca| hash_of_der(ca).as_deref() == Some(&*self.hash));
        let ca = ca.ok_or_else(|| {
            rustls::Error::General(format!("no CA of its chain has the hash {} of --ca-hash", self.hash))
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let verified = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
