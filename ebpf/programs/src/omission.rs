//! Parts that a benchmark leaves out; see [`skep_abi::Omission`].

/// The parts. It is set before the programs are loaded: what it leaves out is dead code for the verifier, and so are these tests.
#[unsafe(no_mangle)]
static OMITTED: u32 = 0;

#[inline(always)]
pub(crate) fn omits(part: u32) -> bool {
    // SAFETY: a global that is set before the program is loaded and never written.
    unsafe { core::ptr::read_volatile(&raw const OMITTED) & part != 0 }
}
