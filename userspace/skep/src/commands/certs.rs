//! `skep certs`: what the server's certificates are, and the rotation of its CAs and token key.

use std::path::PathBuf;

use anyhow::{Result, bail};
use jiff::Timestamp;
use x509_parser::pem::Pem;

use crate::pki::{Pki, Stage, due};

#[derive(clap::Subcommand)]
pub(crate) enum Certs {
    /// List certificates with their expiry
    Show(Show),
    /// Replace CAs and the key of tokens, in three stages: trust, sign, drop. Running servers follow within seconds
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(crate) struct Show {
    /// Data directory of the server, or of an agent
    #[arg(long, default_value = "/var/lib/skep/server")]
    data_dir: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// Data directory of the server
    #[arg(long, default_value = "/var/lib/skep/server")]
    data_dir: PathBuf,
    /// What to do now
    #[arg(long, value_enum)]
    stage: Stage,
    /// Only this one: ca, kubelet-serving-ca, kubelet-client-ca, front-proxy-ca or service-account; may be repeated
    #[arg(long = "only")]
    only: Vec<String>,
}

pub(crate) fn run(certs: Certs) -> Result<()> {
    match certs {
        Certs::Show(show) => self::show(&show),
        Certs::Rotate(rotate) => self::rotate(&rotate),
    }
}

fn show(arguments: &Show) -> Result<()> {
    let folder = arguments.data_dir.join("pki");
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => bail!("read {}: {error}; has the server of this folder started?", folder.display()),
    };
    files.retain(|file| file.extension().is_some_and(|extension| extension == "crt"));
    files.sort();
    println!("{:<26} {:<44} {:<4} {:<21} {:<21}", "FILE", "SUBJECT", "CA", "EXPIRES", "RENEWAL");
    for file in files {
        let text = std::fs::read(&file)?;
        for pem in Pem::iter_from_buffer(&text).flatten() {
            let Ok(certificate) = pem.parse_x509() else { continue };
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let renewal = match certificate.is_ca() {
                true => "skep certs rotate".to_owned(),
                false => due(&String::from_utf8_lossy(&text))
                    .and_then(|at| Timestamp::try_from(at).ok())
                    .and_then(|at| Timestamp::from_second(at.as_second()).ok())
                    .map_or_else(String::new, |at| at.to_string()),
            };
            let expires = Timestamp::from_second(certificate.validity().not_after.timestamp())?;
            let subject = certificate.subject().to_string();
            let ca = if certificate.is_ca() { "yes" } else { "no" };
            println!("{name:<26} {subject:<44} {ca:<4} {expires:<21} {renewal:<21}");
        }
    }
    Ok(())
}

fn rotate(arguments: &Rotate) -> Result<()> {
    let folder = arguments.data_dir.join("pki");
    if !folder.join("ca.key").exists() {
        bail!("{} has no keys: the server of this folder has not started yet", folder.display());
    }
    let pki = Pki::open(&folder)?;
    let all = pki.rotatable();
    if let Some(unknown) = arguments.only.iter().find(|name| !all.contains(&name.as_str())) {
        bail!("--only {unknown}: choose of {}", all.join(", "));
    }
    let chosen = |name: &&&str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == *name);
    for name in all.iter().filter(chosen) {
        pki.rotate(name, arguments.stage)?;
        println!("{name}: {:?}", arguments.stage);
    }
    let shared = pki.shared_files().join(", ");
    println!(
        "The running server follows within seconds. Copy {shared} and *-next.* and *-old.* to the other servers, if any."
    );
    match arguments.stage {
        Stage::Trust => println!(
            "Next: --stage sign, once all nodes and pods trust the new CAs (nodes within two minutes, pods as they reread \
             their token volume; kubeconfig files have to be written anew)."
        ),
        Stage::Sign => println!(
            "Next: --stage drop, once nodes have renewed their certificates (two minutes) and the tokens that the old key \
             signed have expired (an hour, for those of pods)."
        ),
        Stage::Drop => println!("The rotation has ended."),
    }
    Ok(())
}
