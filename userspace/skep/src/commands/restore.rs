//! `skep restore`: a data directory, or an empty etcd and the keys, from a backup.

use std::fs::{self, DirBuilder, File};
use std::io::BufReader;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use skep_store::Store as _;
use skep_store::backup::{Decoder, Fill, Part, Summary, restore_embedded, restore_etcd, verify};
use skep_store::etcd::EtcdStore;
use tokio::net::UnixStream;

use super::backup_server::{KEYS, socket};
use super::etcd::EtcdFlags;
use super::server::{STORE_FILE, StoreChoice};
use crate::pki::write_private;

/// Writes that a cluster may have made between a backup and its loss. With etcd each costs a write.
const DEFAULT_BUMP: u64 = 1_000_000_000;
const DEFAULT_ETCD_BUMP: u64 = 10_000;

#[derive(clap::Args)]
pub(crate) struct Restore {
    /// File that `skep backup` wrote
    file: PathBuf,
    /// Data directory to make; the server must not run
    #[arg(long)]
    data_dir: PathBuf,
    /// Where the entries go: `embedded`, or `etcd=URL[,URL...]`, which must be empty
    #[arg(long, default_value = "embedded")]
    store: StoreChoice,
    #[command(flatten)]
    etcd: EtcdFlags,
    /// Restore into a data directory that has files; its store and keys are moved into a folder in it
    #[arg(long)]
    force: bool,
    /// How far above the backup's revision the new one is, so that no watcher takes a new write for an older one that it
    /// knows [default: 1000000000; with etcd 10000, since each is a write]
    #[arg(long)]
    bump_revision: Option<u64>,
}

pub(crate) async fn run(restore: Restore) -> Result<()> {
    let Restore { file, data_dir, store, etcd: etcd_flags, force, bump_revision } = &restore;
    // Before anything is changed.
    let Summary { manifest, files, .. } =
        verify(open(file)?).with_context(|| format!("verify {}", file.display()))?;
    let etcd = match store {
        StoreChoice::Embedded => None,
        StoreChoice::Etcd(urls) => Some(empty_etcd(urls, etcd_flags).await?),
    };
    prepare(data_dir, *force).await?;
    restore_files(file, data_dir)?;
    let backup = Decoder::new(open(file)?)?;
    let Fill { entries, revision } = match etcd {
        None => restore_embedded(backup, &data_dir.join(STORE_FILE), bump_revision.unwrap_or(DEFAULT_BUMP))?,
        Some(etcd) => restore_etcd(backup, &etcd, bump_revision.unwrap_or(DEFAULT_ETCD_BUMP)).await?,
    };
    println!("Restored {entries} entries of revision {} and {files} key files.", manifest.revision);
    println!(
        "The store is at revision {revision}. Next: start `skep server --data-dir {}`.",
        data_dir.display()
    );
    Ok(())
}

async fn empty_etcd(urls: &[String], tls: &EtcdFlags) -> Result<EtcdStore> {
    let etcd = EtcdStore::connect(urls, tls.options()?).await;
    let etcd = etcd.with_context(|| format!("connect to etcd at {}", urls.join(",")))?;
    if etcd.count("/registry/", None, None).await? > 0 {
        bail!(
            "the etcd at {} has objects; restore into an empty one, or below another --etcd-prefix",
            urls.join(",")
        );
    }
    Ok(etcd)
}

fn open(file: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(file).with_context(|| format!("open {}", file.display()))?))
}

/// Makes the folder. With `force` moves an older store and its keys aside.
async fn prepare(data_dir: &Path, force: bool) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.with_context(|| format!("create {}", data_dir.display()))?;
    if UnixStream::connect(socket(data_dir)).await.is_ok() {
        bail!("a server runs with {}; stop it first", data_dir.display());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        names.push(entry?.file_name());
    }
    if names.is_empty() {
        return Ok(());
    }
    if !force {
        bail!("{} is not empty; --force moves its store and keys into a folder in it", data_dir.display());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = data_dir.join(format!("replaced-{now}"));
    DirBuilder::new().mode(0o700).create(&aside).with_context(|| format!("create {}", aside.display()))?;
    for name in names {
        if name == KEYS || name.as_encoded_bytes().starts_with(STORE_FILE.as_bytes()) {
            fs::rename(data_dir.join(&name), aside.join(&name))?;
        }
    }
    Ok(())
}

/// Writes the backup's files, readable by their owner only.
fn restore_files(file: &Path, data_dir: &Path) -> Result<()> {
    let mut backup = Decoder::new(open(file)?)?;
    while let Some(part) = backup.next()? {
        let Part::File(found) = part else { continue };
        let name = Path::new(&found.name);
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            bail!("the backup has a file outside of the data directory: {}", found.name);
        }
        let path = data_dir.join(name);
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        write_private(&path, &found.bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use bytes::Bytes;
    use skep_store::Expect;
    use skep_store::embedded::EmbeddedStore;

    use super::super::{backup, backup_server};
    use super::*;
    use crate::pki::Pki;

    async fn back_up(file: &Path, data_dir: &Path) -> Result<()> {
        let arguments = [Path::new("backup"), file, Path::new("--data-dir"), data_dir];
        backup::run(parse(arguments)).await
    }

    async fn restore(file: &Path, data_dir: &Path, more: &[&str]) -> Result<()> {
        let arguments = [Path::new("restore"), file, Path::new("--data-dir"), data_dir];
        run(parse(arguments.into_iter().chain(more.iter().map(Path::new)))).await
    }

    fn parse<'a, T: clap::Args>(arguments: impl IntoIterator<Item = &'a Path>) -> T {
        #[derive(clap::Parser)]
        struct Line<T: clap::Args> {
            #[command(flatten)]
            inner: T,
        }
        <Line<T> as clap::Parser>::parse_from(arguments).inner
    }

    #[tokio::test]
    async fn a_backup_of_a_running_and_of_a_stopped_server_restores_store_and_keys() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let pki = Pki::open(&old.join(KEYS)).unwrap();
        pki.create_sealing_key().unwrap();
        let store = Arc::new(EmbeddedStore::open(&old.join(STORE_FILE)).unwrap());
        let put = store.put("/registry/a", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
        let serving = tokio::spawn(backup_server::serve(store.clone(), old.clone()));
        while !socket(&old).exists() {
            tokio::task::yield_now().await;
        }
        let (online, offline) = (folder.path().join("online"), folder.path().join("offline"));
        back_up(&online, &old).await.unwrap();
        assert!(back_up(&online, &old).await.is_err(), "an older backup is kept");
        assert!(restore(&online, &old, &["--force"]).await.is_err(), "a server runs there");
        serving.abort();
        let _ = serving.await;
        drop(store);
        back_up(&offline, &old).await.unwrap();

        for backup in [&online, &offline] {
            assert_eq!(fs::metadata(backup).unwrap().permissions().mode() & 0o777, 0o600);
            restore(backup, &new, &[]).await.unwrap();
            let restored = EmbeddedStore::open(&new.join(STORE_FILE)).unwrap();
            assert_eq!(restored.get("/registry/a", None).await.unwrap().0, Some(put.clone()));
            assert_eq!(restored.revision().await.unwrap(), put.modified + DEFAULT_BUMP);
            for name in ["ca.crt", "ca.key", "secrets.keys"] {
                let read = |folder: &Path| fs::read(folder.join(KEYS).join(name)).unwrap();
                assert_eq!(read(&new), read(&old));
            }
            drop(restored);
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&new), mode(&new.join(KEYS).join("ca.key"))), (0o700, 0o600));
            let refused = restore(backup, &new, &[]).await.unwrap_err().to_string();
            assert!(refused.contains("not empty"), "{refused}");
            restore(backup, &new, &["--force", "--bump-revision", "5"]).await.unwrap();
            let mut aside = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().path());
            let aside = aside.find(|path| path.to_string_lossy().contains("replaced-")).unwrap();
            assert!(aside.join(STORE_FILE).exists() && aside.join(KEYS).join("ca.key").exists());
            fs::remove_dir_all(&new).unwrap();
        }

        let mut damaged = fs::read(&online).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&online, damaged).unwrap();
        assert!(restore(&online, &new, &[]).await.is_err());
        assert!(!new.exists(), "nothing was made");
    }
}
