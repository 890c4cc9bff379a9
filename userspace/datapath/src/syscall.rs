//! bpf(2), for the few commands that aya does not offer.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Runs a command. The attributes are the first words of `union bpf_attr`, whose rest is 0. They have no padding, since the
/// kernel reads every byte.
pub(crate) fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let attributes: *const T = attributes;
    // SAFETY: the commands that are called here write nothing to the attributes but to cells, and to memory that they name; a path
    // in them is a string that lives over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// Runs a command that returns a new descriptor.
pub(crate) fn bpf_fd<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel just made the descriptor for this call, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
