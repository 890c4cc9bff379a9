//! kubectl, unmodified, against a real server: TLS, client certificate, embedded store.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use skep_apiserver::{ApiServer, Config, NODE_PORTS, NodeTls, ServiceNetwork, TokenKeys};
use skep_store::embedded::EmbeddedStore;
use tempfile::TempDir;
use tokio::net::TcpListener;

struct Server {
    folder: TempDir,
}

struct Pem {
    certificate: String,
    key: String,
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    let certificate = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), certificate)
}

fn leaf(ca: &Issuer<'_, KeyPair>, name: &str, group: &str) -> Pem {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    Pem { certificate: params.signed_by(&key, ca).unwrap().pem(), key: key.serialize_pem() }
}

impl Server {
    async fn start() -> Server {
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
        };
        let server = ApiServer::new(config).await.unwrap();
        tokio::spawn(
            async move { server.serve(&listener, &serving.certificate, &serving.key).await.unwrap() },
        );
        write_kubeconfig(&folder, address, &ca_pem, &admin);
        Server { folder }
    }

    /// Runs kubectl with standard input; its output and whether it succeeded.
    fn kubectl(&self, args: &str, input: &str) -> (bool, String) {
        let mut child = Command::new("kubectl")
            .args(args.split(' ').filter(|part| !part.is_empty()))
            .env("KUBECONFIG", self.folder.path().join("config"))
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

    fn ok(&self, args: &str, input: &str, wanted: &str) -> String {
        let (success, text) = self.kubectl(args, input);
        assert!(success && text.contains(wanted), "kubectl {args}: wanted {wanted:?}, got:\n{text}");
        text
    }

    fn fails(&self, args: &str, input: &str, wanted: &str) {
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

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'web:1', ports: [{containerPort: 80}]}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_everything_where_it_expects_it() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.ok("version", "", "Server Version: v1.36.0");
        server.ok("api-resources", "", "deployments");
        server.ok("get namespaces", "", "kube-system");
        server.ok("get service kubernetes", "", "10.96.0.1");
        server.ok("apply -f -", DEPLOYMENT, "deployment.apps/web created");
        server.ok(
            "apply -f -",
            &DEPLOYMENT.replace("replicas: 2", "replicas: 3"),
            "deployment.apps/web configured",
        );
        server.ok(
            "apply -f -",
            &DEPLOYMENT.replace("replicas: 2", "replicas: 3"),
            "deployment.apps/web unchanged",
        );
        server.ok("get deployments -o wide", "", "web:1");
        server.ok("get deploy web -o yaml", "", "revisionHistoryLimit: 10");
        server.ok("get deploy web -o jsonpath={.metadata.generation}", "", "2");
        server.ok("label deploy web tier=a", "", "labeled");
        server.ok("get deploy -l tier=a", "", "web");
        server.ok("get deploy -l tier=b", "", "No resources found");
        server.ok("annotate deploy web note=x", "", "annotated");
        server.ok("patch deploy web -p {\"spec\":{\"paused\":true}}", "", "patched");
        server.ok(
            "patch deploy web --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/paused\"}]",
            "",
            "patched",
        );
        server.ok("patch deploy web --type=merge -p {\"spec\":{\"minReadySeconds\":1}}", "", "patched");
        server.ok("scale deploy web --replicas=4", "", "scaled");
        server.ok("edit deploy web", "", "edited");
        server.ok("get deploy web -o jsonpath={.spec.replicas}", "", "5");
        server.ok("set image deploy/web c=web:2", "", "image updated");
        server.ok("set env deploy/web A=1", "", "env updated");
        server.ok("describe deploy web", "", "A:           1");
        server.ok("explain deployment.spec.strategy", "", "rollingUpdate");
        server.ok("expose deploy web --port=80", "", "exposed");
        server.ok("describe service web", "", "IP:");
        server.ok("create configmap cm --from-literal=a=b", "", "created");
        server.ok("get cm cm -o jsonpath={.data.a}", "", "b");
        server.ok("create secret generic s --from-literal=a=b", "", "created");
        server.ok("get secret s -o jsonpath={.data.a}", "", "Yg==");
        server.ok("auth can-i create pods", "", "yes");
        server.ok("auth whoami", "", "admin");
        server.ok("create namespace other", "", "created");
        server.ok("create deployment hello --image=hello --replicas=2 -n other", "", "created");
        server.ok("get all -A", "", "deployment.apps/hello");
        server.ok("create role r --verb=get --resource=pods", "", "created");
        server.ok("create serviceaccount default", "", "created");
        server.ok("create token default", "", "ey");
        server.ok("delete deploy web", "", "deleted");
        server.fails("get deploy web", "", "deployments.apps \"web\" not found");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_the_answer_that_a_kubernetes_user_expects() {
    let server = Server::start().await;
    tokio::task::spawn_blocking(move || {
        server.fails("create -f -", &DEPLOYMENT.replace("replicas", "replcas"), "unknown field \"spec.replcas\"");
        server.fails("create -f -", &DEPLOYMENT.replace("replicas: 2", "replicas: two"), "cannot unmarshal string");
        server.fails("create -f -", &DEPLOYMENT.replace("replicas: 2", "replicas: -1"), "must be greater than or equal to 0");
        server.fails("create -f -", &DEPLOYMENT.replace("labels: {app: web}}\n    spec", "labels: {app: x}}\n    spec"), "does not match template `labels`");
        server.fails("create -f -", &DEPLOYMENT.replace("name: web", "name: Web_"), "a lowercase RFC 1123 subdomain");
        server.ok("create -f -", DEPLOYMENT, "created");
        server.fails("create -f -", DEPLOYMENT, "already exists");
        server.fails("create -f - --raw /api/v1/namespaces/default/configmaps", "{\"a\":", "unrecognized");
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}\n";
        server.fails("create -f -", policy, "must be a valid CIDR value");
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 1.2.3.4, ports: [{port: 80}]}\n";
        server.fails("create -f -", service, "not in the valid range");
        server.fails("get nonsense", "", "doesn't have a resource type");
        server.fails("delete namespace kube-system", "", "may not be deleted");
        let large = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: '{}'}}\n", "x".repeat(4 << 20));
        server.fails("create -f -", &large, "Request entity too large");
        let long = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: '{}'}}\n", "x".repeat(2 << 20));
        server.fails("create -f -", &long, "Too long");
    })
    .await
    .unwrap();
}
