//! Starts a server process in a folder and creates clients of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use skep_test_servers::free_address;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that is killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Server {
    folder: PathBuf,
    _process: Process,
}

pub(crate) fn skep() -> Command {
    Command::new(env!("CARGO_BIN_EXE_skep"))
}

fn command(folder: &Path, args: &[String]) -> Command {
    let mut command = skep();
    command
        .args(["server", "--listen", &free_address().unwrap().to_string(), "--data-dir"])
        .arg(folder)
        .args(args);
    command.env("RUST_LOG", "info").stdin(Stdio::null());
    command
}

/// The error output of a server that refuses to start.
pub(crate) fn refusal(folder: &Path, args: &[String]) -> String {
    let Output { status, stderr, .. } = command(folder, args).output().unwrap();
    assert!(!status.success());
    String::from_utf8_lossy(&stderr).into_owned()
}

impl Server {
    /// Starts a server and waits until it answers.
    pub(crate) async fn start(folder: &Path, args: &[String]) -> Server {
        // The kubeconfig of an earlier start has another port.
        let _ = std::fs::remove_file(folder.join("admin.kubeconfig"));
        std::fs::create_dir_all(folder).unwrap();
        let log = File::options().create(true).append(true).open(folder.join("server.log")).unwrap();
        let process = Process(command(folder, args).stderr(log).spawn().unwrap());
        let server = Server { folder: folder.to_owned(), _process: process };
        let start = Instant::now();
        loop {
            if let Some(client) = server.try_client().await
                && client.apiserver_version().await.is_ok()
            {
                return server;
            }
            assert!(
                start.elapsed() < START_TIMEOUT,
                "the server does not answer; its log:\n{}",
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_client(&self) -> Option<Client> {
        let read = Kubeconfig::read_from(self.folder.join("admin.kubeconfig")).ok()?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.ok()?;
        Client::try_from(config).ok()
    }

    pub(crate) async fn client(&self) -> Client {
        self.try_client().await.expect("a client of a server that answers")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// kill -9.
    pub(crate) fn kill(self) {}
}

/// The files of the embedded store.
pub(crate) fn store_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_of_store = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("store.redb");
    let mut files: Vec<PathBuf> = files.filter(is_of_store).collect();
    files.sort();
    files
}
