//! `skep secrets`: the keys that Secrets are sealed with.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::pki::Pki;

#[derive(clap::Subcommand)]
pub(crate) enum Secrets {
    /// Make a new key to seal Secrets with
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// The server's folder of keys and store
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
        bail!("{} holds no server's keys; name the server's --data-dir", folder.display());
    }
    let pki = Pki::open(&folder)?;
    let keyring = pki.make_sealing_key()?;
    let file = pki.sealing_file();
    println!(
        "Secrets are to be sealed with the new key {}, the first line of {}.",
        keyring.id(),
        file.display()
    );
    println!(
        "Next: copy that file to the other servers of this cluster, if there are any, then restart `skep server`:"
    );
    println!(
        "it seals every Secret anew as it starts. A day later, when no history needs them, the older lines may go."
    );
    Ok(())
}
