//! Errors between this process and the kernel: the operation, the object and the kernel's own error as source.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// What failed, on which object.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("{path} is not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf")]
    NoBpffs { path: PathBuf },
    #[error("{operation} {path} failed")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("load BPF programs failed")]
    Load(#[from] aya::EbpfError),
    #[error("program {name}: {operation} failed: {source}")]
    Program { name: &'static str, operation: &'static str, source: aya::programs::ProgramError },
    #[error("program {name}: its link cannot be pinned")]
    Link { name: &'static str, source: aya::programs::links::LinkError },
    #[error("the BPF object has no {what} {name}")]
    Missing { what: &'static str, name: &'static str },
    #[error("map {name}: {operation} failed")]
    Map { name: &'static str, operation: &'static str, source: aya::maps::MapError },
    #[error("pin {path} failed")]
    Pin { path: PathBuf, source: aya::pin::PinError },
    #[error("interface {name} does not exist")]
    NoInterface { name: String },
    #[error("the pod programs are not attached to interface {ifindex}")]
    NotAttached { ifindex: u32 },
    #[error("{name} was changed: {what}")]
    Changed { name: String, what: String },
    #[error("node address {via} is on no link of this node, and no route but the default leads to {cidr}")]
    OffLink { cidr: IpNetwork, via: IpAddr },
    #[error("node address {via} is on no link of this node; {cidr} is left to the route that leads there")]
    RoutedByOthers { cidr: IpNetwork, via: IpAddr },
    #[error("netlink: {operation} failed")]
    Netlink { operation: String, source: rtnetlink::Error },
    #[error("enter network namespace {path} failed")]
    Namespace { path: PathBuf, source: io::Error },
    #[error("a worker thread panicked")]
    Aborted,
}

impl DatapathError {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| DatapathError::File { operation, path, source }
    }

    pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let operation = operation.into();
        move |source| DatapathError::Netlink { operation, source }
    }

    pub(crate) fn map(
        name: &'static str,
        operation: &'static str,
    ) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| DatapathError::Map { name, operation, source }
    }
}
