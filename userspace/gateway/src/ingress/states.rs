//! Services, Secrets and ConfigMaps as the translators of Ingress and of Gateway API see them. PURE.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoints::ServiceFacts;
use crate::authorities::{Authorities, AuthoritiesError, CERTIFICATES_KEY, REVOCATIONS_KEY};
use crate::certificate::{Certificate, CertificateError};

pub(crate) type SecretStates = HashMap<Arc<str>, SecretState>;
pub(crate) type ConfigMapStates = HashMap<Arc<str>, ConfigMapState>;
pub(crate) type ServiceStates = HashMap<Arc<str>, ServiceFacts>;

/// A value of an object. The last one that was valid stays in force.
pub(crate) enum Parsed<T, E> {
    Good(Arc<T>),
    Bad(E, Option<Arc<T>>),
}

pub(crate) type CertificateState = Parsed<Certificate, CertificateError>;
pub(crate) type AuthoritiesState = Parsed<Authorities, AuthoritiesError>;

/// A Secret that was looked for.
pub(crate) enum SecretState {
    Missing,
    Found(SecretFacts),
}

/// What a Secret says about TLS.
pub(crate) struct SecretFacts {
    pub(crate) certificate: CertificateState,
    /// `None`: it never had certificates of authorities.
    pub(crate) authorities: Option<AuthoritiesState>,
}

/// A ConfigMap that was looked for.
pub(crate) enum ConfigMapState {
    Missing,
    Found(ConfigMapFacts),
}

/// What is kept of a ConfigMap.
pub(crate) struct ConfigMapFacts {
    /// Texts but for those of [`ConfigMapFacts::authorities`].
    pub(crate) data: BTreeMap<String, String>,
    /// `None`: it never had certificates of authorities.
    pub(crate) authorities: Option<AuthoritiesState>,
}

impl<T: PartialEq, E> Parsed<T, E> {
    /// A value that equals the last one is the same one, so that what was made with it goes on.
    fn renewed(value: Result<T, E>, last: Option<Arc<T>>) -> Parsed<T, E> {
        match value {
            Ok(value) => Parsed::Good(last.filter(|last| **last == value).unwrap_or_else(|| Arc::new(value))),
            Err(error) => Parsed::Bad(error, last),
        }
    }
}

impl<T, E> Parsed<T, E> {
    pub(crate) fn in_force(&self) -> Option<&Arc<T>> {
        match self {
            Parsed::Good(value) => Some(value),
            Parsed::Bad(_, last) => last.as_ref(),
        }
    }

    pub(crate) fn error(&self) -> Option<&E> {
        match self {
            Parsed::Good(_) => None,
            Parsed::Bad(error, _) => Some(error),
        }
    }
}

impl SecretState {
    /// `None`: the Secret does not exist. A certificate that expired at `now` does not replace one that did not.
    pub(super) fn parse(secret: Option<&Secret>, old: Option<SecretState>, now: i64) -> SecretState {
        let Some(secret) = secret else { return SecretState::Missing };
        let (certificate, authorities) = match &old {
            Some(SecretState::Found(old)) => (old.certificate.in_force(), old.authorities.as_ref()),
            _ => (None, None),
        };
        let last = certificate.cloned();
        let parsed = certificate_of(secret).and_then(|new| match &last {
            Some(last) if new.not_after <= now && last.not_after > now => {
                Err(CertificateError::Expired(new.not_after))
            }
            _ => Ok(new),
        });
        SecretState::Found(SecretFacts {
            certificate: Parsed::renewed(parsed, last),
            authorities: authorities_of(
                bytes(secret, CERTIFICATES_KEY),
                bytes(secret, REVOCATIONS_KEY),
                authorities,
            ),
        })
    }

    /// `None`: the Secret does not exist.
    pub(crate) fn certificate(&self) -> Option<&CertificateState> {
        match self {
            SecretState::Missing => None,
            SecretState::Found(facts) => Some(&facts.certificate),
        }
    }
}

impl ConfigMapState {
    /// `None`: the ConfigMap does not exist.
    pub(super) fn parse(config_map: Option<&ConfigMap>, old: Option<ConfigMapState>) -> ConfigMapState {
        let Some(config_map) = config_map else { return ConfigMapState::Missing };
        let old = match &old {
            Some(ConfigMapState::Found(old)) => old.authorities.as_ref(),
            _ => None,
        };
        let mut data = config_map.data.clone().unwrap_or_default();
        let certificates = data.remove(CERTIFICATES_KEY);
        let authorities = authorities_of(certificates.as_deref().map(str::as_bytes), None, old);
        ConfigMapState::Found(ConfigMapFacts { data, authorities })
    }
}

fn bytes<'s>(secret: &'s Secret, name: &str) -> Option<&'s [u8]> {
    secret.data.as_ref()?.get(name).map(|bytes| bytes.0.as_slice())
}

fn certificate_of(secret: &Secret) -> Result<Certificate, CertificateError> {
    let pem = |name| bytes(secret, name).unwrap_or_default();
    let certificate = Certificate::parse(pem("tls.crt"), pem("tls.key"))?;
    Ok(match bytes(secret, "tls.ocsp-staple") {
        Some(response) => certificate.stapled(response),
        None => certificate,
    })
}

/// `None`: there are no certificates of authorities, and there never were.
fn authorities_of(
    certificates: Option<&[u8]>,
    revocations: Option<&[u8]>,
    old: Option<&AuthoritiesState>,
) -> Option<AuthoritiesState> {
    let last = old.and_then(AuthoritiesState::in_force).cloned();
    if certificates.is_none() && last.is_none() {
        return None;
    }
    let parsed = Authorities::parse(certificates.unwrap_or_default(), revocations);
    Some(Parsed::renewed(parsed, last))
}

/// NAMESPACE/NAME, or the name of an object without a namespace.
pub(crate) fn key_of(meta: &ObjectMeta) -> Arc<str> {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn authority() -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn in_force(state: &SecretState) -> Option<Arc<Authorities>> {
        match state {
            SecretState::Found(facts) => facts.authorities.as_ref()?.in_force().cloned(),
            SecretState::Missing => None,
        }
    }

    #[test]
    fn authorities_that_were_valid_stay_in_force_until_their_secret_is_gone() {
        let secret = |pem: Option<&str>| {
            let data = pem.map(|pem| ("ca.crt".to_owned(), ByteString(pem.as_bytes().to_vec())));
            Secret { data: Some(data.into_iter().collect()), ..Secret::default() }
        };
        let (one, two) = (authority(), authority());
        let next = |old, pem| SecretState::parse(Some(&secret(pem)), Some(old), 0);
        let state = next(SecretState::Missing, Some(one.as_str()));
        let first = in_force(&state).unwrap();
        let state = next(state, Some(one.as_str()));
        assert!(Arc::ptr_eq(&first, &in_force(&state).unwrap()));
        for bad in [Some("none"), None] {
            let state = next(next(SecretState::Missing, Some(one.as_str())), bad);
            assert!(first == in_force(&state).unwrap(), "{bad:?}");
            let SecretState::Found(facts) = state else { panic!("there is a Secret") };
            assert!(facts.authorities.unwrap().error().is_some() && facts.certificate.in_force().is_none());
        }
        let state = next(state, Some(two.as_str()));
        assert!(first != in_force(&state).unwrap());
        let state = next(SecretState::parse(None, Some(state), 0), None);
        assert!(in_force(&state).is_none());
    }

    #[test]
    fn texts_of_a_config_map_are_kept_without_its_certificates() {
        let data = [("X-A", "a".to_owned()), ("ca.crt", authority())];
        let data = data.map(|(name, text)| (name.to_owned(), text)).into();
        let config_map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        let ConfigMapState::Found(facts) = ConfigMapState::parse(Some(&config_map), None) else {
            panic!("there is a ConfigMap")
        };
        assert!(matches!(facts.authorities, Some(Parsed::Good(_))));
        assert_eq!(facts.data, [("X-A".to_owned(), "a".to_owned())].into());
    }
}
