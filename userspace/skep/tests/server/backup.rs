//! Damage in the middle of the log, and the way out: a backup of the running server, restored.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::harness::{Server, refusal, skep, store_files};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn run(arguments: &[&str], file: &Path, folder: &Path) -> Output {
    let mut command = skep();
    command.arg(arguments[0]).arg(file).arg("--data-dir").arg(folder).args(&arguments[1..]);
    command.output().unwrap()
}

async fn create(server: &Server, names: impl Iterator<Item = String>) {
    let objects: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    for name in names {
        let object = json!({"metadata": {"name": name}, "data": {"text": format!("value-of-{name}")}});
        objects.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
}

/// Fills with zeros the sector in which the text begins.
fn zero_sector(folder: &Path, text: &str) {
    let mut zeroed = 0;
    for path in store_files(folder) {
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = found {
            bytes[at / 512 * 512..][..512].fill(0);
            fs::write(&path, bytes).unwrap();
            zeroed += 1;
        }
    }
    assert!(zeroed > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zeroed_sector_loses_no_write_in_silence_and_a_backup_restores_all() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("server");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let server = Server::start(&data, &[]).await;
    assert_eq!(mode(&data), 0o700);
    store_files(&data).iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
    create(&server, (0..20).map(|n| format!("object-{n:02}"))).await;
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}})).unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(server.client().await);
    secrets.create(&PostParams::default(), &secret).await.unwrap();

    let file = folder.path().join("backup");
    let output = run(&["backup"], &file, &data);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(mode(&file), 0o600);
    server.kill();

    zero_sector(&data, "value-of-object-05");
    let refused = refusal(&data, &[]);
    let names_log = refused.contains("store.redb.log-") && refused.contains("at byte");
    assert!(names_log && refused.contains("skep restore"), "{refused}");

    let output = run(&["restore"], &file, &data);
    assert!(!output.status.success(), "the folder is not empty");
    let output = run(&["restore", "--force"], &file, &data);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::start(&data, &[]).await;
    let objects: Api<ConfigMap> = Api::default_namespaced(server.client().await);
    for n in 0..20 {
        objects.get(&format!("object-{n:02}")).await.unwrap();
    }
    let secrets: Api<Secret> = Api::default_namespaced(server.client().await);
    assert_eq!(secrets.get("s").await.unwrap().data.unwrap()["a"].0, b"b");
    create(&server, ["new".to_owned()].into_iter()).await;
    server.kill();
}
