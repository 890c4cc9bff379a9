//! The check that a type is plain bytes, and the trait by which the user side relies on it.

/// Declares types with their sizes: fixed layout, no padding, every bit pattern a value.
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
