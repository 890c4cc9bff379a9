//! A real server for kubectl: TLS, client certificate, embedded store.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use skep_apiserver::{ApiServer, Config, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys};
use skep_store::embedded::EmbeddedStore;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A server with an administrator's kubeconfig in its folder.
pub(crate) struct Server {
    folder: TempDir,
}

pub(crate) struct Pem {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    let certificate = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), certificate)
}

pub(crate) fn leaf(ca: &Issuer<'_, KeyPair>, name: &str, group: &str) -> Pem {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    Pem { certificate: params.signed_by(&key, ca).unwrap().pem(), key: key.serialize_pem() }
}

impl Server {
    pub(crate) async fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let (ca, ca_pem) = authority();
        let (serving, admin) = (leaf(&ca, "server", "x"), leaf(&ca, "admin", "system:masters"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tokens = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let config = Config {
            store: Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap()),
            services: ServiceNetwork { cidrs: vec!["10.96.0.0/12".parse().unwrap()], node_ports: NODE_PORTS },
            advertise: address,
            client_ca: ca_pem.clone(),
            tokens: TokenKeys {
                private: tokens.serialize_pem(),
                public: tokens.public_key_pem(),
                issuer: "https://kubernetes.default.svc".to_owned(),
            },
            node_tls: NodeTls {
                certificate: admin.certificate.clone(),
                key: admin.key.clone(),
                ca: ca_pem.clone(),
            },
            audit: None,
        };
        let server = ApiServer::new(config).await.unwrap();
        tokio::spawn(
            async move { server.serve(&listener, &serving.certificate, &serving.key).await.unwrap() },
        );
        write_kubeconfig(&folder, address, &ca_pem, &admin);
        Server { folder }
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.folder.path().join("config")
    }

    /// Runs kubectl with standard input; its output and whether it succeeded.
    fn kubectl(&self, args: &str, input: &str) -> (bool, String) {
        let mut child = Command::new("kubectl")
            .args(args.split(' ').filter(|part| !part.is_empty()))
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path())
            .env("KUBE_EDITOR", "sed -i s/replicas:.*/replicas:\\ 5/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    pub(crate) fn ok(&self, args: &str, input: &str, wanted: &str) -> String {
        let (success, text) = self.kubectl(args, input);
        assert!(success && text.contains(wanted), "kubectl {args}: wanted {wanted:?}, got:\n{text}");
        text
    }

    pub(crate) fn fails(&self, args: &str, input: &str, wanted: &str) {
        let (success, text) = self.kubectl(args, input);
        assert!(
            !success && text.contains(wanted),
            "kubectl {args}: wanted an error with {wanted:?}, got:\n{text}"
        );
    }
}

fn write_kubeconfig(folder: &TempDir, address: SocketAddr, ca: &str, admin: &Pem) {
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, certificate, key) =
        (file("ca.pem", ca), file("admin.pem", &admin.certificate), file("admin.key", &admin.key));
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: t\nclusters:\n- name: t\n  cluster: {{server: 'https://{address}', \
         certificate-authority: {ca}}}\nusers:\n- name: t\n  user: {{client-certificate: {certificate}, client-key: {key}}}\n\
         contexts:\n- name: t\n  context: {{cluster: t, user: t}}\n"
    );
    file("config", &config);
}
