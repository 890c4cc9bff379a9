//! What the BPF programs and the user side share: map keys and values, names and limits ([`MAPS`] and the noun's own
//! module), and the pure decisions of the programs ([`logic`]).
//!
//! In: nothing; this crate has no I/O. Out: types that are plain bytes on both sides (`repr(C)`, integers only, no
//! implicit padding). A change of layout or meaning raises [`ABI_VERSION`], which is part of the path of every pin, and
//! the version of the map in [`MAPS`].
#![no_std]

mod addr;
mod bandwidth;
mod config;
mod conntrack;
mod flow;
mod layout;
pub mod logic;
mod maglev;
mod maps;
mod omission;
mod pod;
mod policy;
mod service;
mod socket;
mod stable_hash;

pub use addr::*;
pub use bandwidth::*;
pub use config::*;
pub use conntrack::*;
pub use flow::*;
pub use maglev::*;
pub use maps::*;
pub use omission::*;
pub use pod::*;
pub use policy::*;
pub use service::*;
pub use socket::*;
pub use stable_hash::*;
