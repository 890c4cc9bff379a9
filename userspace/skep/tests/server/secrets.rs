//! Secrets at rest: unreadable without the key, readable with it, and resealed when it is rotated.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::harness::{Server, refusal, skep, store_files};

const SECRET: &str = "correct-horse-battery-staple";
const SECRET_BASE64: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==";
const PUBLIC: &str = "anyone-may-read-this";

fn is_on_disk(folder: &Path, text: &str) -> bool {
    let mut files = store_files(folder).into_iter().map(|path| fs::read(path).unwrap());
    files.any(|stored| stored.windows(text.len()).any(|window| window == text.as_bytes()))
}

async fn read(server: &Server) -> String {
    let secrets: Api<Secret> = Api::namespaced(server.client().await, "default");
    let found = secrets.get("sealed").await.unwrap();
    String::from_utf8(found.data.unwrap()["password"].0.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_sealed_on_disk_and_its_key_can_be_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, keys) = (folder.path(), folder.path().join("pki/secrets.keys"));
    let server = Server::start(folder, &[]).await;
    let client = server.client().await;
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "sealed"}, "stringData": {"password": SECRET}}))
            .unwrap();
    let public: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "public"}, "data": {"text": PUBLIC}})).unwrap();
    let post = PostParams::default();
    Api::<Secret>::namespaced(client.clone(), "default").create(&post, &secret).await.unwrap();
    Api::<ConfigMap>::namespaced(client, "default").create(&post, &public).await.unwrap();
    assert_eq!(read(&server).await, SECRET);
    server.kill();
    assert!(is_on_disk(folder, PUBLIC), "the search finds unsealed text");
    assert!(!is_on_disk(folder, SECRET) && !is_on_disk(folder, SECRET_BASE64));
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);

    let first = fs::read_to_string(&keys).unwrap();
    let rotated = skep().args(["secrets", "rotate", "--data-dir"]).arg(folder).output().unwrap();
    let output_text = String::from_utf8_lossy(&rotated.stdout).into_owned();
    assert!(
        rotated.status.success() && output_text.contains("Next:") && output_text.contains("restart"),
        "{output_text}"
    );
    let server = Server::start(folder, &[]).await;
    assert_eq!(read(&server).await, SECRET);
    assert!(server.log().contains("resealed Secrets with the newest key"), "{}", server.log());
    server.kill();

    // The new key alone is sufficient now.
    let both = fs::read_to_string(&keys).unwrap();
    let second = both.lines().next().unwrap();
    assert!(both.ends_with(&first) && !first.contains(second));
    fs::write(&keys, format!("{second}\n")).unwrap();
    let server = Server::start(folder, &[]).await;
    assert_eq!(read(&server).await, SECRET);
    server.kill();

    fs::write(&keys, &first).unwrap();
    delete_with_older_keys(folder, second.split(' ').next().unwrap(), &secret).await;
    fs::remove_file(&keys).unwrap();
    let output_text = refusal(folder, &[]);
    assert!(
        output_text.contains("there is no such file; restore") && output_text.contains("secrets.keys"),
        "{output_text}"
    );
    assert!(!keys.exists(), "no key is created in place of a missing one");
}

/// A server whose keys are older than a Secret starts, and the Secret can be deleted.
async fn delete_with_older_keys(folder: &Path, id: &str, secret: &Secret) {
    let server = Server::start(folder, &[]).await;
    let log = server.log();
    assert!(log.contains(&format!("sealed with key {id}")) && log.contains("secrets.keys"), "{log}");
    let client = server.client().await;
    assert!(Api::<ConfigMap>::namespaced(client.clone(), "default").get("public").await.is_ok());
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    secrets.delete("sealed", &DeleteParams::default()).await.unwrap();
    secrets.create(&PostParams::default(), secret).await.unwrap();
    assert_eq!(read(&server).await, SECRET);
    server.kill();
}

#[test]
fn rotating_without_a_server_names_the_flag_to_pass() {
    let folder = tempfile::tempdir().unwrap();
    let output = skep().args(["secrets", "rotate", "--data-dir"]).arg(folder.path()).output().unwrap();
    let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output_text.contains("--data-dir"), "{output_text}");
}
