//! `skep backup`: the store at one revision and the keys, in one checksummed file.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use skep_store::backup::{AtRevision, Summary, verify};
use skep_store::embedded::EmbeddedStore;
use skep_store::etcd::EtcdStore;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::backup_server::{KEYS, send, socket};
use super::etcd::EtcdFlags;
use super::server::{STORE_FILE, StoreChoice};

#[derive(clap::Args)]
pub(crate) struct Backup {
    /// File to write; it must not exist. It holds every key of the cluster: only its owner can read it
    file: PathBuf,
    /// Data directory of the server
    #[arg(long, default_value = "/var/lib/skep/server")]
    data_dir: PathBuf,
    /// The server's store: `embedded`, or `etcd=URL[,URL...]`
    #[arg(long, default_value = "embedded")]
    store: StoreChoice,
    #[command(flatten)]
    etcd: EtcdFlags,
}

pub(crate) async fn run(backup: Backup) -> Result<()> {
    let Backup { file, data_dir, store, etcd: etcd_flags } = &backup;
    if file.exists() {
        bail!("{} exists already", file.display());
    }
    if !data_dir.join(KEYS).is_dir() {
        bail!("{} has no keys of a server; pass the server's --data-dir", data_dir.display());
    }
    let unfinished = file.with_added_extension("unfinished");
    let written = async {
        match store {
            StoreChoice::Embedded => of_embedded(data_dir, &unfinished).await?,
            StoreChoice::Etcd(urls) => {
                let store = EtcdStore::connect(urls, etcd_flags.options()?).await;
                let store = store.with_context(|| format!("connect to etcd at {}", urls.join(",")))?;
                let mut out = create(&unfinished)?;
                send(&AtRevision::now(&store).await?, data_dir, &mut out).await?;
                out.sync_all().await?;
            }
        }
        complete(&unfinished, file)
    };
    let result: Result<Summary> = written.await;
    if result.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    let Summary { manifest, files, entries } = result?;
    println!("Wrote {entries} entries at revision {} and {files} key files.", manifest.revision);
    println!("Keep {} as safe as the keys in it. `skep restore` reads it.", file.display());
    Ok(())
}

/// From the running server, or from the files if none runs.
async fn of_embedded(data_dir: &Path, unfinished: &Path) -> Result<()> {
    let mut out = create(unfinished)?;
    match UnixStream::connect(socket(data_dir)).await {
        Ok(mut server) => {
            tokio::io::copy(&mut server, &mut out).await.context("read from the server")?;
        }
        Err(_) => {
            let path = data_dir.join(STORE_FILE);
            if !path.exists() {
                bail!("{} does not exist; pass the server's --data-dir", path.display());
            }
            let store = EmbeddedStore::open(&path).with_context(|| format!("open {}", path.display()))?;
            send(&store.pin()?, data_dir, &mut out).await?;
        }
    }
    out.flush().await?;
    Ok(out.sync_all().await?)
}

fn create(path: &Path) -> Result<tokio::fs::File> {
    let _ = fs::remove_file(path);
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    Ok(tokio::fs::File::from_std(file.with_context(|| format!("create {}", path.display()))?))
}

/// Reads what was written, and gives it its name.
fn complete(unfinished: &Path, file: &Path) -> Result<Summary> {
    let input = std::io::BufReader::new(File::open(unfinished)?);
    let summary = verify(input).context("the server did not send a whole backup; its log says why")?;
    fs::rename(unfinished, file).with_context(|| format!("create {}", file.display()))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(summary)
}
