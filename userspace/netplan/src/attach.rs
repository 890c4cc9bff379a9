//! Pods that CNI ADD attached on this node, by sandbox.
//!
//! In: sandboxes with addresses, the index. Out: endpoints and the wanted content of `PODS`. Addresses come from the
//! attachment and not from the API, so policies are in force before the pod's status has the address. Labels and named
//! ports come from the pod's API object; after its deletion the last ones count until the sandbox is detached.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skep_abi::{Addr, Pod};
use skep_policy::{Endpoint, Labels};

use crate::index::Index;
use crate::write::Observed;

/// The pod of a sandbox, as named by the container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
    /// Empty if the runtime does not name it.
    pub uid: String,
}

impl Owner {
    /// `namespace/name`.
    pub fn key(&self) -> Arc<str> {
        format!("{}/{}", self.namespace, self.name).into()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    key: Arc<str>,
    uid: Box<str>,
    pub(crate) endpoint: Endpoint,
    pub(crate) pod: Pod,
}

impl Attachment {
    /// Whether the kernel already uses the pod's slot.
    pub(crate) fn is_live(&self, kernel: &Observed) -> bool {
        self.endpoint.addrs.iter().any(|addr| kernel.pods.get(addr).is_some_and(|p| p.slot == self.pod.slot))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Attachments {
    by_sandbox: BTreeMap<Arc<str>, Attachment>,
    by_addr: HashMap<Addr, Arc<str>>,
}

impl Attachments {
    pub(crate) fn put(&mut self, sandbox: &str, owner: &Owner, addrs: &[Addr], pod: Pod, index: &Index) {
        self.remove(sandbox);
        let endpoint = Endpoint {
            namespace: owner.namespace.as_str().into(),
            labels: Arc::new(Labels::default()),
            ports: Arc::new([]),
            addrs: addrs.into(),
        };
        let mut attachment = Attachment { key: owner.key(), uid: owner.uid.as_str().into(), endpoint, pod };
        refresh(&mut attachment, index);
        let sandbox: Arc<str> = sandbox.into();
        for addr in addrs {
            self.by_addr.insert(*addr, sandbox.clone());
        }
        self.by_sandbox.insert(sandbox, attachment);
    }

    pub(crate) fn remove(&mut self, sandbox: &str) -> bool {
        let Some(attachment) = self.by_sandbox.remove(sandbox) else { return false };
        for addr in attachment.endpoint.addrs.iter() {
            if self.by_addr.get(addr).is_some_and(|holder| **holder == *sandbox) {
                self.by_addr.remove(addr);
            }
        }
        true
    }

    /// Updates labels and ports from the API objects.
    pub(crate) fn refresh(&mut self, index: &Index) {
        self.by_sandbox.values_mut().for_each(|attachment| refresh(attachment, index));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Attachment)> + Clone {
        self.by_sandbox.iter()
    }

    pub(crate) fn at(&self, addr: Addr) -> Option<&Endpoint> {
        self.by_sandbox.get(self.by_addr.get(&addr)?).map(|attachment| &attachment.endpoint)
    }

    /// `namespace/name` and endpoint of the pod with the address.
    pub(crate) fn pod_at(&self, addr: Addr) -> Option<(&Arc<str>, &Endpoint)> {
        let attachment = self.by_sandbox.get(self.by_addr.get(&addr)?)?;
        Some((&attachment.key, &attachment.endpoint))
    }

    /// `namespace/name` of the pod behind the host-side interface.
    pub(crate) fn behind(&self, ifindex: u32) -> Option<&Arc<str>> {
        let found = self.by_sandbox.values().find(|attachment| attachment.pod.ifindex == ifindex);
        found.map(|attachment| &attachment.key)
    }

    pub(crate) fn get(&self, sandbox: &str) -> Option<&Attachment> {
        self.by_sandbox.get(sandbox)
    }

    /// The wanted content of `PODS`.
    pub(crate) fn pods(&self) -> BTreeMap<Addr, Pod> {
        let holders = self.by_addr.iter();
        holders.filter_map(|(addr, sandbox)| Some((*addr, self.by_sandbox.get(sandbox)?.pod))).collect()
    }
}

fn refresh(attachment: &mut Attachment, index: &Index) {
    let Some(facts) = index.pod(&attachment.key) else { return };
    // A successor with the same name is another pod.
    if attachment.uid.is_empty() || facts.uid.is_empty() || attachment.uid == facts.uid {
        attachment.endpoint.namespace = facts.endpoint.namespace.clone();
        attachment.endpoint.labels = facts.endpoint.labels.clone();
        attachment.endpoint.ports = facts.endpoint.ports.clone();
    }
}
