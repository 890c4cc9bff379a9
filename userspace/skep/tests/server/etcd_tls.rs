//! etcd that requires client certificates.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use skep_test_servers::free_address;

use crate::harness::{Process, Server, refusal};

/// Writes `ca.crt`, and a certificate and key for each name.
fn make_certificates(folder: &Path, names: &[&str]) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "etcd-ca");
    fs::write(folder.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let ca = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, *name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, &ca).unwrap().pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A running etcd, and its URL.
fn start_etcd(folder: &Path) -> (Process, String) {
    let (address, peers) = (free_address().unwrap(), format!("http://{}", free_address().unwrap()));
    let url = format!("https://{address}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.arg(format!("--initial-cluster=default={peers}")).arg("--client-cert-auth");
    for (flag, file) in [("trusted-ca-file", "ca.crt"), ("cert-file", "etcd.crt"), ("key-file", "etcd.key")] {
        command.arg(format!("--{flag}")).arg(folder.join(file));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process(command.spawn().expect("etcd (Debian: apt-get install etcd-server)"));
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "etcd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    (process, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_authenticates_to_etcd_and_trusts_the_configured_ca() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_certificates(folder, &["etcd", "client"]);
    let (_etcd, url) = start_etcd(folder);
    let flag = |name: &str, file: &str| format!("--{name}={}", folder.join(file).display());
    let store = format!("--store=etcd={url}");
    let ca = flag("etcd-cafile", "ca.crt");
    let own = [flag("etcd-certfile", "client.crt"), flag("etcd-keyfile", "client.key")];
    let all = [store.clone(), ca.clone(), own[0].clone(), own[1].clone()];
    let server = Server::start(&folder.join("data"), &all).await;
    let namespaces: Api<Namespace> = Api::all(server.client().await);
    namespaces.get("kube-system").await.unwrap();
    drop(server);
    // etcd refuses clients without a certificate, and a certificate needs its key.
    let refused = refusal(&folder.join("other"), &[store.clone(), ca.clone()]);
    assert!(refused.contains(&format!("connect to etcd at {url}")), "{refused}");
    let refused = refusal(&folder.join("other"), &[store, ca, own[0].clone()]);
    assert!(refused.contains("--etcd-keyfile"), "{refused}");
}
