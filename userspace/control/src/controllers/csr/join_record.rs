//! What the join of a machine recorded: the key that it proved to have, and its addresses. PURE.
//!
//! The record of a node is a Secret of kube-system, which nodes cannot write. It binds the node's name to the machine that
//! joined first, and it bounds the addresses that the node may be certified for: the Node object is the node's own word.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skep_api::time;

use crate::action::{Action, Context};
use crate::cache::{Key, View};
use crate::config::NodeNames;
use crate::meta;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "skep-node.";
/// The type of the Secrets that are records; informers read only these.
pub const JOIN_RECORD_TYPE: &str = "skep.io/join-record";
const PUBLIC_KEY: &str = "public-key";
const ADDRESSES: &str = "addresses";
/// A machine that joined registers within this time, or its record goes.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Bounds the name of the record.
const MAX_NAME_LENGTH: usize = 253 - PREFIX.len();

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JoinRecord {
    /// The machine's public key (SubjectPublicKeyInfo in DER, as hex); empty for a node of an earlier version.
    pub(super) public_key: String,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// Why a name or an address is not a node's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0:?} is not a DNS subdomain of at most {MAX_NAME_LENGTH} characters")]
    NotSubdomain(String),
    #[error("{0:?} is reserved for the API server and for Services; choose another name")]
    ReservedName(String),
    #[error("{0} cannot be the address of a node")]
    NotNodeAddress(IpAddr),
    #[error("{0} is an address of Services")]
    ServiceAddress(IpAddr),
    #[error("{0} is an address of the API server")]
    ServerAddress(IpAddr),
    #[error("{address} is the address of node {node}; delete that Node if its machine is gone")]
    Taken { address: IpAddr, node: String },
}

impl JoinRecord {
    pub(super) fn of(view: &View, node: &str) -> Option<JoinRecord> {
        view.secrets.get(&key(node)).map(|secret| JoinRecord::read(secret))
    }

    fn read(secret: &Secret) -> JoinRecord {
        let field = |name: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(name));
            value.and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
        };
        JoinRecord { public_key: field(PUBLIC_KEY).to_owned(), addresses: parse_addresses(field(ADDRESSES)) }
    }

    /// Creates the record of a node, or replaces it.
    pub(super) fn write(&self, view: &View, node: &str) -> Option<Action> {
        let joined =
            |all: &BTreeSet<IpAddr>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let data = [(PUBLIC_KEY, self.public_key.clone()), (ADDRESSES, joined(&self.addresses))];
        let data = Some(data.map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes()))).into());
        match view.secrets.get(&key(node)) {
            Some(old) if old.data == data => None,
            Some(old) => Some(Action::update(Secret { data, ..old.as_ref().clone() })),
            None => {
                let metadata = ObjectMeta {
                    name: Some(format!("{PREFIX}{node}")),
                    namespace: Some(NAMESPACE.to_owned()),
                    ..ObjectMeta::default()
                };
                let type_ = Some(JOIN_RECORD_TYPE.to_owned());
                Some(Action::Create(Secret { metadata, type_, data, ..Secret::default() }.into()))
            }
        }
    }
}

/// The addresses of a list; what is no address is left out.
pub(super) fn parse_addresses(list: &str) -> BTreeSet<IpAddr> {
    list.split(',').filter_map(|text| text.trim().parse().ok()).collect()
}

/// The key of a node's record.
pub(super) fn key(node: &str) -> Key {
    Key::new(NAMESPACE, &format!("{PREFIX}{node}"))
}

/// The node whose record has that key.
pub(super) fn node_of(key: &Key) -> Option<&str> {
    (&*key.namespace == NAMESPACE).then(|| key.name.strip_prefix(PREFIX)).flatten()
}

/// The record belongs to its Node, and the garbage collector removes it with the Node. A record whose machine never
/// registered is deleted.
pub(super) fn reconcile(view: &View, key: &Key, node: &str, context: Context<'_>) -> Vec<Action> {
    let Some(record) = view.secrets.get(key).filter(|record| !meta::terminating(&record.metadata)) else {
        return Vec::new();
    };
    let owners = record.metadata.owner_references.as_deref().unwrap_or_default();
    match view.nodes.get(&Key::cluster(node)) {
        Some(node) if !owners.iter().any(|owner| Some(&owner.uid) == node.metadata.uid.as_ref()) => {
            let mut owned = record.as_ref().clone();
            owned.metadata.owner_references = Some(vec![owner(node)]);
            vec![Action::update(owned)]
        }
        None if owners.is_empty() => {
            let expires = time::after(meta::created(&record.metadata), REGISTRATION_TIMEOUT);
            if expires > context.now {
                return vec![Action::RequeueAt(expires)];
            }
            vec![Action::delete(record.as_ref().clone())]
        }
        _ => Vec::new(),
    }
}

fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: meta::name(&node.metadata).to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// Whether a DNS name may be a node's: it must not be taken for the API server or a Service.
pub(super) fn check_name(names: &NodeNames, name: &str) -> Result<(), Refusal> {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        label.len() <= 63
            && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| inner(*byte))
            && bytes.last().is_some_and(|byte| inner(*byte))
    };
    if name.len() > MAX_NAME_LENGTH || !name.split('.').all(label) {
        return Err(Refusal::NotSubdomain(name.to_owned()));
    }
    let labels: Vec<&str> = name.split('.').collect();
    let reserved = labels.first() == Some(&"kubernetes")
        || labels.last() == Some(&"localhost")
        || labels.contains(&"svc")
        || labels.ends_with(&["cluster", "local"])
        || name.parse::<IpAddr>().is_ok()
        || names.servers.contains(name);
    if reserved { Err(Refusal::ReservedName(name.to_owned())) } else { Ok(()) }
}

/// Whether an address may be a node's at all.
pub(super) fn check_address(names: &NodeNames, address: IpAddr) -> Result<(), Refusal> {
    let plain = address.to_canonical();
    let special = plain.is_loopback()
        || plain.is_unspecified()
        || plain.is_multicast()
        || match plain {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
    if special {
        return Err(Refusal::NotNodeAddress(address));
    }
    if names.service_cidrs.iter().any(|cidr| cidr.contains(plain)) {
        return Err(Refusal::ServiceAddress(address));
    }
    Ok(())
}

/// Whether an address may become a node's without a person's approval: it is not an API server's or another node's.
pub(super) fn check_free(names: &NodeNames, view: &View, node: &str, address: IpAddr) -> Result<(), Refusal> {
    check_address(names, address)?;
    let plain = address.to_canonical();
    let is_ours = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == plain);
    let mut endpoints = view
        .slices
        .get(&Key::new("default", "kubernetes"))
        .into_iter()
        .flat_map(|slice| slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses));
    if names.servers.iter().any(|server| is_ours(server)) || endpoints.any(|server| is_ours(server)) {
        return Err(Refusal::ServerAddress(address));
    }
    let other = view.secrets.iter().find_map(|(key, record)| {
        let other = node_of(key).filter(|other| *other != node)?;
        JoinRecord::read(record).addresses.iter().any(|ip| ip.to_canonical() == plain).then_some(other)
    });
    other.map_or(Ok(()), |other| Err(Refusal::Taken { address, node: other.to_owned() }))
}
