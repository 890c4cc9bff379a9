//! The flags of etcd, with kube-apiserver's names where it has them. Out: how to connect.

use std::path::PathBuf;

use anyhow::{Context, Result};
use skep_store::etcd::{Certificate, EtcdOptions, Identity, TlsOptions};

#[derive(clap::Args)]
pub(super) struct EtcdFlags {
    /// CA of etcd's certificates, in PEM
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd, in PEM
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate, in PEM
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Prefix of all keys in etcd
    #[arg(long, default_value = "/registry")]
    etcd_prefix: String,
    /// User of etcd
    #[arg(long, requires = "etcd_password_file")]
    etcd_username: Option<String>,
    /// File with the user's password
    #[arg(long, requires = "etcd_username")]
    etcd_password_file: Option<PathBuf>,
}

impl EtcdFlags {
    pub(super) fn options(&self) -> Result<EtcdOptions> {
        let EtcdFlags {
            etcd_cafile,
            etcd_certfile,
            etcd_keyfile,
            etcd_prefix,
            etcd_username,
            etcd_password_file,
        } = self;
        let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("read {}", file.display()));
        let mut tls = TlsOptions::new();
        if let Some(ca) = etcd_cafile {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(certificate), Some(key)) = (etcd_certfile, etcd_keyfile) {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        let user = match (etcd_username, etcd_password_file) {
            (Some(name), Some(file)) => {
                let password = String::from_utf8(read(file)?).context("the password is not UTF-8")?;
                Some((name.clone(), password.trim_end_matches(['\r', '\n']).to_owned()))
            }
            _ => None,
        };
        Ok(EtcdOptions {
            tls: (etcd_cafile.is_some() || etcd_certfile.is_some()).then_some(tls),
            user,
            prefix: etcd_prefix.clone(),
        })
    }
}
