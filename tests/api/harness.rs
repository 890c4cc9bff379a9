//! A real server for kubectl: TLS, client certificate, embedded store.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skep_tests::api_server::{Authority, Pem, TestApiServer};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server with an administrator's kubeconfig in its folder.
pub(crate) struct Server {
    api: TestApiServer,
    folder: TempDir,
    admin: Pem,
}

/// What a command said, on standard output and then on standard error.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) exit: i32,
}

impl Server {
    /// Without anybody else who writes.
    pub(crate) async fn start() -> Server {
        let api = TestApiServer::listen(|_| {}).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let admin = api.ca.issue("admin", "system:masters").unwrap();
        write_kubeconfig(&folder, api.address().unwrap(), &api.ca.certificate, &admin);
        write_files(&folder);
        Server { api, folder, admin }
    }

    pub(crate) async fn with_controllers() -> Server {
        let server = Server::start().await;
        let (clients, _) = server.api.clients_by_user();
        let clients = skep_control::Clients::new(clients);
        tokio::spawn(skep_control::run(clients, skep_control::Config::default()));
        server.has_default_account().await;
        server
    }

    /// Waits for the ServiceAccount without which no pod is accepted.
    async fn has_default_account(&self) {
        let accounts: Api<ServiceAccount> = Api::default_namespaced(self.api.client());
        while accounts.get_opt("default").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// By which other servers know this one.
    pub(crate) fn front_proxy_ca(&self) -> &str {
        &self.api.front_proxy_ca
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.folder.path().join("config")
    }

    pub(crate) async fn client(&self) -> kube::Client {
        let read = kube::config::Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }

    /// A connection of the administrator's, HTTP/1.1.
    pub(crate) async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.stream().await);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// A TLS session of the administrator's.
    pub(crate) async fn stream(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let ca = self.api.ca.certificate.as_bytes();
        roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(self.admin.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.admin.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let stream = TcpStream::connect(self.api.address().unwrap()).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// Runs a kubectl with standard input.
    pub(crate) fn run(&self, program: &Path, args: &[impl AsRef<OsStr>], input: &str) -> Answer {
        let address = self.api.address().unwrap().to_string();
        let args = args.iter().map(|arg| arg.as_ref().to_string_lossy().replace("SERVER", &address));
        let mut child = Command::new(program)
            .args(args)
            .current_dir(self.folder.path())
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path())
            .env("KUBE_EDITOR", "sed -i s/replicas:.*/replicas:\\ 5/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        // Some commands do not read what they are given.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Answer { text, exit: output.status.code().unwrap_or(-1) }
    }

    fn kubectl(&self, args: &str, input: &str) -> (bool, String) {
        let args: Vec<&str> = args.split(' ').filter(|part| !part.is_empty()).collect();
        let answer = self.run(Path::new("kubectl"), &args, input);
        (answer.exit == 0, answer.text)
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

/// What the stories name by a file, and a key pair that no repository should hold.
fn write_files(folder: &TempDir) {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/testdata/files");
    copy(&files, folder.path());
    let tls = Authority::new().unwrap().issue("example", "x").unwrap();
    std::fs::write(folder.path().join("tls.crt"), tls.certificate).unwrap();
    std::fs::write(folder.path().join("tls.key"), tls.key).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}
