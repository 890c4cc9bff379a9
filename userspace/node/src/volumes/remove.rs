//! Removes a folder that pods could write.
//!
//! In: its path. Out: nothing of it is left, and nothing else is touched. Each step goes from one opened folder to the
//! next: links are removed and never followed, and a mount is detached and never entered, also one of the same file
//! system. However deep the tree is, few folders are open.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags,
    openat, openat2, renameat_with, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// Folders below this depth are moved to the top first: each open level costs a file descriptor.
const MAX_DEPTH: u32 = 32;
/// More mounts over each other than this are an error.
const MAX_STACKED_MOUNTS: u32 = 64;

/// Whether a mount begins at `path`; a link is not followed.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, path, flags, StatxFlags::MNT_ID)?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Removes whatever is at `path`; nothing there is fine.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let Some(folder) = enter(&parent, &name)? else { return remove_file(&parent, &name) };
    let mut removal = Removal { top: folder, moved: 0, serial: 0 };
    loop {
        removal.moved = 0;
        let top = removal.top.try_clone()?;
        removal.empty(&top, 0)?;
        if removal.moved == 0 {
            return absent_is_fine(unlinkat(&parent, &name, AtFlags::REMOVEDIR));
        }
    }
}

fn absent_is_fine(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes something that is not a folder; what is mounted on it is detached first.
fn remove_file(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    for _ in 0..MAX_STACKED_MOUNTS {
        match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::BUSY) => detach(parent, name)?,
            other => return absent_is_fine(other),
        }
    }
    Err(Errno::BUSY.into())
}

/// Opens the folder `name` of `parent`, after detaching what is mounted there; `None` if it is not a folder.
fn enter(parent: &OwnedFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    for _ in 0..MAX_STACKED_MOUNTS {
        match openat2(parent, name, flags, Mode::empty(), resolve) {
            Ok(folder) => return Ok(Some(folder)),
            Err(Errno::XDEV) => detach(parent, name)?,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(None),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::BUSY.into())
}

/// Detaches the mount at `name`. The parent is named by its descriptor, so that no rename leads elsewhere.
fn detach(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    Ok(())
}

struct Removal {
    /// The folder that is emptied.
    top: OwnedFd,
    /// How many deep folders this pass moved to the top; the next pass removes them.
    moved: u32,
    serial: u64,
}

impl Removal {
    fn empty(&mut self, folder: &OwnedFd, depth: u32) -> io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let maybe_folder = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            let inner = if maybe_folder { enter(folder, name)? } else { None };
            match inner {
                None => remove_file(folder, name)?,
                Some(_) if depth >= MAX_DEPTH => self.move_up(folder, name)?,
                Some(inner) => {
                    self.empty(&inner, depth + 1)?;
                    match unlinkat(folder, name, AtFlags::REMOVEDIR) {
                        // Its deepest folders were moved away, and nothing else is left; or it is not empty yet.
                        Err(Errno::NOTEMPTY) if self.moved > 0 => {}
                        other => absent_is_fine(other)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn move_up(&mut self, folder: &OwnedFd, name: &CStr) -> io::Result<()> {
        loop {
            let free = format!("..removed-{}", self.serial);
            self.serial += 1;
            match renameat_with(folder, name, &self.top, &free, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
                Ok(()) => {
                    self.moved += 1;
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_removed_and_not_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let (outside, tree) = (folder.path().join("outside"), folder.path().join("tree"));
        std::fs::create_dir_all(tree.join("a/b")).expect("made");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("file"), "kept").expect("written");
        symlink(&outside, tree.join("a/link")).expect("linked");
        symlink(outside.join("file"), tree.join("file")).expect("linked");
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert_eq!(std::fs::read_to_string(outside.join("file")).expect("read"), "kept");
        symlink(&outside, &tree).expect("linked");
        remove_tree(&tree).expect("removed");
        assert!(std::fs::symlink_metadata(&tree).is_err());
        assert!(outside.join("file").exists());
        remove_tree(&tree).expect("nothing is left to remove");
    }

    #[test]
    fn a_deep_tree_needs_few_descriptors() {
        let folder = tempfile::tempdir().expect("folder");
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).expect("made");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = openat(CWD, &tree, flags, Mode::empty()).expect("opened");
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            at = openat(&at, "d", flags, Mode::empty()).expect("opened");
        }
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
    }
}
