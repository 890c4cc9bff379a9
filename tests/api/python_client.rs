//! The Python client, unmodified: create, watch and patch flows of a script, which says what it saw.

use std::process::Command;

use xtask::deps;

use crate::harness::Server;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/api/testdata/client.py");

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_creates_watches_and_patches() {
    let packages = deps::python_client().expect("the Python client");
    let server = Server::with_controllers().await;
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("python3");
        command.arg(SCRIPT).env("PYTHONPATH", packages).env("KUBECONFIG", server.kubeconfig());
        command.output().expect("python3")
    });
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("all done\n"), "{said}");
}
