//! Flags of `skep server` that say which authority certificates of Ingresses and Gateways are ordered from.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use skep_network::AcmeSettings;

#[derive(clap::Args)]
pub(super) struct AcmeFlags {
    /// URL of the directory of an ACME authority, from which certificates are ordered for Ingresses and Gateways with the annotation
    /// skep.io/acme [default: none are ordered]
    #[arg(long, value_name = "URL")]
    acme_directory: Option<String>,
    /// Mail address that the authority may write to; may be repeated. Counts when the account is made
    #[arg(long = "acme-contact", value_name = "ADDRESS", requires = "acme_directory")]
    acme_contacts: Vec<String>,
    /// Agree to the authority's terms of service; --acme-directory needs it
    #[arg(long, requires = "acme_directory")]
    acme_terms_agreed: bool,
    /// File with the CAs, in PEM, that may have signed the directory's certificate [default: those of the machine]
    #[arg(long, value_name = "FILE", requires = "acme_directory")]
    acme_ca_file: Option<PathBuf>,
}

impl AcmeFlags {
    /// `None`: no certificates are ordered.
    pub(super) fn settings(&self) -> Result<Option<AcmeSettings>> {
        let Some(directory) = &self.acme_directory else { return Ok(None) };
        if !self.acme_terms_agreed {
            bail!("--acme-directory needs --acme-terms-agreed: read the authority's terms of service first");
        }
        if !directory.starts_with("https://") {
            bail!("--acme-directory {directory}: the URL of a directory begins with https://");
        }
        let contact = |address: &String| match address.starts_with("mailto:") {
            true => address.clone(),
            false => format!("mailto:{address}"),
        };
        let contacts = self.acme_contacts.iter().map(contact).collect();
        let authorities = self.acme_ca_file.as_ref().map(|file| {
            std::fs::read(file).with_context(|| format!("read --acme-ca-file {}", file.display()))
        });
        let authorities = authorities.transpose()?;
        let settings = AcmeSettings::new(directory.clone(), contacts, authorities.as_deref());
        Ok(Some(settings.context("set up the client of the ACME authority")?))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        acme: AcmeFlags,
    }

    fn settings(arguments: &[&str]) -> Result<Option<AcmeSettings>> {
        Flags::try_parse_from([&["skep"], arguments].concat())?.acme.settings()
    }

    #[test]
    fn a_directory_needs_its_terms_agreed_to_and_other_flags_a_directory() {
        assert!(settings(&[]).unwrap().is_none());
        let directory = ["--acme-directory", "https://acme.example/directory"];
        assert!(settings(&directory).is_err());
        let agreed = [&directory[..], &["--acme-terms-agreed", "--acme-contact", "a@b.example"]].concat();
        assert_eq!(settings(&agreed).unwrap().unwrap().contacts, ["mailto:a@b.example"]);
        assert!(settings(&["--acme-terms-agreed"]).is_err());
        assert!(settings(&["--acme-directory", "http://acme.example/", "--acme-terms-agreed"]).is_err());
        let no_file = [&agreed[..], &["--acme-ca-file", "/nowhere"]].concat();
        assert!(settings(&no_file).is_err());
    }
}
