//! The user behind a request, and the address it came from.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    pub uid: String,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group of everyone who is authenticated.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Extra field that names the credential of a request, as upstream.
pub(crate) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
/// The user of requests without a credential, and his group.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

impl Identity {
    /// A user in groups, and in that of all who are authenticated.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Identity {
        let mut groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        groups.push(AUTHENTICATED.to_owned());
        Identity { user: user.into(), groups, ..Identity::default() }
    }

    /// A user in the groups that follow from the name: those of a service account, or none.
    pub fn of_user(user: &str) -> Identity {
        let account = user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        match account {
            Some((namespace, _)) => Identity::new(
                user,
                &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
            ),
            None => Identity::new(user, &[]),
        }
    }

    pub(crate) fn anonymous() -> Identity {
        Identity { user: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Identity::default() }
    }
}

/// Where a request comes from, in its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);
