//! How much disk a folder takes that a pod may change meanwhile.
//!
//! No link is followed and no mount entered. Few descriptors are open, however deep the folder is.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat, openat2, statat};
use rustix::io::Errno;

/// After so many files the sum so far is the answer.
const MAX_FILES: usize = 2_000_000;

/// The bytes that a file takes; 0 if there is none.
pub(super) fn of_file(path: &Path) -> u64 {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| bytes(&stat))
}

/// The bytes that a folder and all in it take. A path that is too long for the kernel counts as endless: its files cannot be
/// measured.
pub(super) fn of_folder(path: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(0),
        other => other?,
    };
    let mut sum = Sum { total: 0, files: 0, linked: HashSet::new() };
    let mut folders = vec![PathBuf::from(".")];
    while let Some(folder) = folders.pop() {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match openat2(&root, &folder, flags, Mode::empty(), resolve) {
            Ok(opened) => sum.add(&opened, &folder, &mut folders)?,
            Err(Errno::NAMETOOLONG) => return Ok(u64::MAX),
            // It was removed or exchanged meanwhile, or it is a mount.
            Err(_) => {}
        }
        if sum.files > MAX_FILES {
            tracing::warn!(path = %path.display(), "folder has too many files to measure all");
            break;
        }
    }
    Ok(sum.total)
}

struct Sum {
    total: u64,
    files: usize,
    /// Files with several names, which count once.
    linked: HashSet<u64>,
}

impl Sum {
    fn add(&mut self, folder: &OwnedFd, path: &Path, folders: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            self.files += 1;
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder {
                folders.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
            if is_folder || stat.st_nlink == 1 || self.linked.insert(stat.st_ino) {
                self.total = self.total.saturating_add(bytes(&stat));
            }
            if self.files > MAX_FILES {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What the file takes, which is less than its length if it has holes.
fn bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_counts_its_files_once_and_follows_no_link() {
        let folder = tempfile::tempdir().expect("folder");
        let inner = folder.path().join("inner");
        std::fs::create_dir_all(inner.join("a/b")).expect("made");
        let before = of_folder(&inner).expect("measured");
        std::fs::write(inner.join("a/b/file"), vec![1; 1 << 20]).expect("written");
        std::fs::hard_link(inner.join("a/b/file"), inner.join("again")).expect("linked");
        std::os::unix::fs::symlink("/", inner.join("root")).expect("linked");
        let grown = of_folder(&inner).expect("measured") - before;
        assert!((1 << 20..2 << 20).contains(&grown), "{grown}");
        assert_eq!(of_folder(&folder.path().join("absent")).expect("measured"), 0);
    }
}
