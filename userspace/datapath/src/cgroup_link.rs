//! The pinned links of programs on a cgroup.
//!
//! In: a pin, a program and the cgroup that it is for. Out: the link has the program, from one call of a socket to the next.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::syscall::{bpf, bpf_fd};

/// Commands of bpf(2), and what it calls a link of a cgroup.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_TYPE_CGROUP: u32 = 3;

/// The first fields of `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
struct Get {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Those for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    /// The kernel writes how many bytes it has.
    info_len: Cell<u32>,
    info: u64,
}

/// The first fields of `struct bpf_link_info` of a cgroup's link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup: u64,
    attach_type: u32,
    padding2: u32,
}

/// Those of `union bpf_attr` for BPF_LINK_UPDATE.
#[repr(C)]
struct Update {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts the program in the stead of the pinned link's. False: there is no link, or one of another cgroup, or of one that is gone.
pub(crate) fn update(pin: &Path, program: BorrowedFd, cgroup: &File) -> bool {
    open(pin).and_then(|link| replace(&link, program, cgroup)).unwrap_or(false)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    bpf_fd(BPF_OBJ_GET, &Get { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })
}

fn replace(link: &OwnedFd, program: BorrowedFd, cgroup: &File) -> io::Result<bool> {
    let link_fd = link.as_raw_fd() as u32;
    let mut info = LinkInfo::default();
    let get = GetInfo {
        bpf_fd: link_fd,
        info_len: Cell::new(size_of::<LinkInfo>() as u32),
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &get)?;
    // The number of a cgroup is that of its folder's inode.
    if info.kind != BPF_LINK_TYPE_CGROUP || info.cgroup != cgroup.metadata()?.ino() {
        return Ok(false);
    }
    let new_prog_fd = program.as_raw_fd() as u32;
    bpf(BPF_LINK_UPDATE, &Update { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 })?;
    Ok(true)
}
