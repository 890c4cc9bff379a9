//! What the kernel side and the user side share: map keys and values, names and limits.
//!
//! Every type is `repr(C)`, integers only, without implicit padding, so that it is plain bytes on both sides.
//! Any change of layout or meaning raises [`ABI_VERSION`], which is part of the path of every pin, and the version beside the
//! map in [`MAPS`].
#![no_std]

mod addr;
mod bandwidth;
mod config;
mod conntrack;
mod flow;
mod maglev;
mod pod;
mod policy;
mod service;
mod socket;

pub use addr::*;
pub use bandwidth::*;
pub use config::*;
pub use conntrack::*;
pub use flow::*;
pub use maglev::*;
pub use pod::*;
pub use policy::*;
pub use service::*;
pub use socket::*;

/// Version of everything in this crate; maps are pinned below a folder of this number.
pub const ABI_VERSION: u32 = 6;

/// Maps that outlive the agent, and since which version one can be read and written as it is now. In 6 the upper half of
/// a flow's `tick`, always zero before, became `fin`.
pub const MAPS: [(&str, u32); 18] = [
    ("AFFINITY", 5),
    ("BACKENDS", 5),
    ("BUCKETS", 5),
    ("CLASSES_EVEN", 5),
    ("CLASSES_ODD", 5),
    ("CLUSTER", 5),
    ("CONFIG", 5),
    ("CONNECTED", 6),
    ("CONNTRACK", 5),
    ("DROPS", 5),
    ("FLOWS", 5),
    ("FRAGMENTS", 5),
    ("MAGLEV", 5),
    ("PODS", 5),
    ("RANGES", 5),
    ("SERVICES", 5),
    ("SOCKETS", 5),
    ("VERDICTS", 5),
];

/// Declares that a type is plain bytes: fixed layout, no padding, any bit pattern valid.
macro_rules! plain {
    ($($type:ty: $size:literal),+ $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: `repr(C)` or `repr(transparent)` integers whose sizes add up to the size asserted above,
        // so there is no padding and every bit pattern is a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )+};
}
pub(crate) use plain;
