//! `skep secrets`: the keys that encrypt Secrets at rest.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::pki::Pki;

#[derive(clap::Subcommand)]
pub(crate) enum Secrets {
    /// Add a new key that encrypts Secrets from now on
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// Data directory of the server
    #[arg(long, default_value = "/var/lib/skep/server")]
    data_dir: PathBuf,
}

pub(crate) fn run(secrets: Secrets) -> Result<()> {
    match secrets {
        Secrets::Rotate(rotate) => self::rotate(rotate),
    }
}

fn rotate(arguments: Rotate) -> Result<()> {
    let folder = arguments.data_dir.join("pki");
    if !folder.join("ca.key").exists() {
        bail!("{} has no keys of a server; pass the server's --data-dir", folder.display());
    }
    let pki = Pki::open(&folder)?;
    let keyring = pki.create_sealing_key()?;
    let file = pki.sealing_file();
    println!("Created key {}, the first line of {}.", keyring.id(), file.display());
    println!(
        "Next: copy that file to the other servers of this cluster, if there are any, then restart `skep server`."
    );
    println!(
        "It encrypts every Secret with the new key when it starts. Remove the older lines a day later; until then the history needs them."
    );
    Ok(())
}
