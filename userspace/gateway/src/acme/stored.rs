//! A Secret as orders see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::Certificate;

/// On a Secret that was ordered: the directory of the authority that issued it. A Secret without it is never replaced.
pub const DIRECTORY_ANNOTATION: &str = "skep.io/acme-directory";

/// What a Secret has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    Missing,
    /// It was not ordered here.
    Foreign,
    /// It was ordered, and its certificate does not parse or does not belong to its key.
    Broken,
    /// Times in seconds since 1970.
    Issued {
        directory: String,
        names: BTreeSet<Arc<str>>,
        not_before: i64,
        not_after: i64,
    },
}

impl Stored {
    /// `None`: the Secret does not exist.
    pub fn parse(secret: Option<&Secret>) -> Stored {
        let Some(secret) = secret else { return Stored::Missing };
        let annotations = secret.metadata.annotations.as_ref();
        let Some(directory) = annotations.and_then(|all| all.get(DIRECTORY_ANNOTATION)) else {
            return Stored::Foreign;
        };
        let data = |name| secret.data.as_ref().and_then(|data| data.get(name));
        let bytes = |name| data(name).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        issued(directory, bytes("tls.crt"), bytes("tls.key")).unwrap_or(Stored::Broken)
    }
}

fn issued(directory: &str, chain: &[u8], key: &[u8]) -> Option<Stored> {
    Certificate::parse(chain, key).ok()?;
    let leaf = CertificateDer::pem_slice_iter(chain).next()?.ok()?;
    let (_, leaf) = X509Certificate::from_der(&leaf).ok()?;
    let alternatives = leaf.subject_alternative_name().ok()??;
    let names = alternatives.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    let validity = leaf.validity();
    Some(Stored::Issued {
        directory: directory.to_owned(),
        names: names.collect(),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}
