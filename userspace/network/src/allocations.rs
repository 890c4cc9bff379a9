//! Which sandbox has which addresses, on disk, so that the next agent allocates no address twice.
//!
//! In and out: `allocations.json`. The pinned maps cannot replace it: the file also holds addresses that are allocated
//! but not yet in a map, and the sandbox id that DEL will name; and it survives a change of the maps' layout. It is
//! replaced as a whole, and synced before the runtime receives an address.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_netplan::Owner;

use crate::bandwidth::Bandwidth;
use crate::dataplane::Link;

#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is damaged: {source}; move it away if this node runs no pods")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// One interface of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    pub container_id: String,
    pub ifname: String,
    pub netns: PathBuf,
    pub host_ifname: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub addrs: Vec<IpAddr>,
    pub mtu: u32,
    /// Another plugin made the interface and allocated its addresses.
    pub chained: bool,
    /// From the pod's annotations when the sandbox was made.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

impl Allocation {
    pub fn key(&self) -> String {
        key(&self.container_id, &self.ifname)
    }

    pub fn owner(&self) -> Owner {
        Owner { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    pub fn link(&self) -> Link {
        Link {
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            host_ifname: self.host_ifname.clone(),
            addrs: self.addrs.clone(),
            mtu: self.mtu,
            chained: self.chained,
        }
    }
}

/// Identifies an interface of a sandbox.
pub fn key(container_id: &str, ifname: &str) -> String {
    format!("{container_id}/{ifname}")
}

/// The host side's name: the same for every call of the sandbox, within the kernel's 15 bytes.
pub fn host_ifname(container_id: &str, ifname: &str) -> String {
    let digest = Sha256::digest(key(container_id, ifname));
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("skep{hex}")
}

/// All allocations of the node, by [`key`].
#[derive(Debug)]
pub struct Allocations {
    path: PathBuf,
    entries: BTreeMap<String, Allocation>,
}

impl Allocations {
    /// A missing file holds no allocations.
    pub fn load(folder: &Path) -> Result<Self, AllocationError> {
        let path = folder.join("allocations.json");
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let entries: Vec<Allocation> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| AllocationError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let entries = entries.into_iter().map(|entry| (entry.key(), entry)).collect();
        Ok(Allocations { path, entries })
    }

    pub fn get(&self, key: &str) -> Option<&Allocation> {
        self.entries.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.entries.values()
    }

    /// On disk when it returns; an error leaves memory and file as before.
    pub fn put(&mut self, allocation: Allocation) -> Result<(), AllocationError> {
        let key = allocation.key();
        let before = self.entries.insert(key.clone(), allocation);
        self.save().inspect_err(|_| match before {
            Some(before) => drop(self.entries.insert(key, before)),
            None => drop(self.entries.remove(&key)),
        })
    }

    /// The removed allocation; an error leaves memory and file as before.
    pub fn remove(&mut self, key: &str) -> Result<Option<Allocation>, AllocationError> {
        let Some(before) = self.entries.remove(key) else { return Ok(None) };
        match self.save() {
            Ok(()) => Ok(Some(before)),
            Err(error) => {
                self.entries.insert(key.to_owned(), before);
                Err(error)
            }
        }
    }

    fn save(&self) -> Result<(), AllocationError> {
        let path = &self.path;
        let entries: Vec<&Allocation> = self.entries.values().collect();
        let bytes = serde_json::to_vec(&entries)
            .map_err(|source| AllocationError::Damaged { path: path.clone(), source })?;
        let fresh = path.with_extension("json.new");
        let mut file = fs::File::create(&fresh).map_err(failed("create", &fresh))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed("write", &fresh))?;
        fs::rename(&fresh, path).map_err(failed("replace", path))?;
        // The rename is durable only when the folder is synced.
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AllocationError {
    let path = path.to_owned();
    move |source| AllocationError::Io { operation, path, source }
}
