//! Gives a volume's files to a group (`fsGroup`).
//!
//! In: the root of a volume, whose contents other processes may change at any time. Out: every file has the group and is as
//! readable and writable for it as for its user; folders hand the group on. Links are not followed, and other file systems
//! below the root are left alone.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, chownat, fstat, openat};
use rustix::io::Errno;

/// The volume's files could not be given to the group.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct OwnershipError {
    operation: &'static str,
    source: io::Error,
}

impl OwnershipError {
    pub(super) fn join(error: &tokio::task::JoinError) -> OwnershipError {
        OwnershipError { operation: "run", source: io::Error::other(error.to_string()) }
    }
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> OwnershipError {
    move |errno| OwnershipError { operation, source: errno.into() }
}

/// Deeper folders are an error: each level holds a file descriptor.
const MAX_DEPTH: u32 = 256;
const FOLDER_MODE: u32 = 0o2770;
const FILE_MODE: u32 = 0o660;

/// `only_on_mismatch`: nothing is done if the root already is the group's.
pub(super) fn set_group(root: &Path, group: u32, only_on_mismatch: bool) -> Result<(), OwnershipError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, root, flags, Mode::empty()).map_err(failed("open volume"))?;
    let stat = fstat(&opened).map_err(failed("inspect volume"))?;
    if only_on_mismatch && is_done(&stat, group) {
        return Ok(());
    }
    set(&opened, &stat, group, 0)
}

fn is_done(stat: &Stat, group: u32) -> bool {
    stat.st_gid == group && stat.st_mode & wanted(stat) == wanted(stat)
}

fn wanted(stat: &Stat) -> u32 {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FOLDER_MODE,
        _ => FILE_MODE,
    }
}

/// Contents come before their folder, so that a root that is done has contents that are.
fn set(file: &OwnedFd, stat: &Stat, group: u32, depth: u32) -> Result<(), OwnershipError> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        if depth > MAX_DEPTH {
            return Err(failed("too many levels of folders")(Errno::NAMETOOLONG));
        }
        set_contents(file, stat, group, depth)?;
    }
    if is_done(stat, group) {
        return Ok(());
    }
    if stat.st_gid != group {
        chownat(file, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH).map_err(failed("chown"))?;
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Ok(());
    }
    // The descriptor names this very file, also if its path has changed, and opens no device.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let mode = stat.st_mode & 0o7777 | wanted(stat);
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| OwnershipError { operation: "chmod", source })
}

fn set_contents(folder: &OwnedFd, stat: &Stat, group: u32, depth: u32) -> Result<(), OwnershipError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let readable = openat(folder, c".", flags, Mode::empty()).map_err(failed("open folder"))?;
    for entry in Dir::read_from(&readable).map_err(failed("read folder"))? {
        let entry = entry.map_err(failed("read folder"))?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = match openat(folder, name, flags, Mode::empty()) {
            // Another pod removed it.
            Err(Errno::NOENT) => continue,
            other => other.map_err(failed("open"))?,
        };
        let found = fstat(&inner).map_err(failed("inspect"))?;
        if found.st_dev == stat.st_dev {
            set(&inner, &found, group, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn every_file_gets_the_group_and_no_link_is_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let (outside, volume) = (folder.path().join("outside"), folder.path().join("volume"));
        fs::create_dir_all(volume.join("a")).expect("made");
        fs::write(&outside, "").expect("written");
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(volume.join("a/file"), "").expect("written");
        fs::set_permissions(volume.join("a/file"), fs::Permissions::from_mode(0o604)).expect("set");
        symlink(&outside, volume.join("link")).expect("linked");
        let group = 4711;
        set_group(&volume, group, false).expect("set");
        let of =
            |path: &Path| fs::symlink_metadata(path).map(|m| (m.gid(), m.mode() & 0o7777)).expect("there");
        assert_eq!(of(&volume), (group, 0o2775));
        assert_eq!(of(&volume.join("a")), (group, 0o2775));
        assert_eq!(of(&volume.join("a/file")), (group, 0o664));
        assert_eq!(of(&volume.join("link")).0, group);
        assert_eq!(of(&outside).1, 0o600);
        assert_ne!(of(&outside).0, group);
        // What was changed below stays, unless everything is to be set again.
        fs::set_permissions(volume.join("a/file"), fs::Permissions::from_mode(0o600)).expect("set");
        set_group(&volume, group, true).expect("nothing to do");
        assert_eq!(of(&volume.join("a/file")).1, 0o600);
        set_group(&volume, group, false).expect("set");
        assert_eq!(of(&volume.join("a/file")).1, 0o660);
    }
}
