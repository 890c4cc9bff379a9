//! What the kernel side and the user side share: map keys and values, names and limits.
//!
//! Every type is `repr(C)`, integers only, without implicit padding, so that it is plain bytes on both sides.
//! Any change of layout or meaning raises [`ABI_VERSION`], which is part of the path of every pin.
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
pub const ABI_VERSION: u32 = 5;

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
