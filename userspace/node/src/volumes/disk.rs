//! Folders and mounts of volumes.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::VolumeError;
use crate::resources;

/// A problem that does not know yet which volume it is of.
pub(super) enum Problem {
    Io(&'static str, io::Error),
    Type(String),
}

impl Problem {
    pub(super) fn of_volume(self, volume: &str, path: &Path) -> VolumeError {
        let (volume, path) = (volume.to_owned(), path.display().to_string());
        match self {
            Problem::Io(operation, source) => VolumeError::Io { volume, operation, path, source },
            Problem::Type(wanted) => VolumeError::HostPath { volume, path, wanted },
        }
    }
}

/// Checks a hostPath against its type, and creates it where the type says so.
pub(super) fn check_host_path(path: &Path, wanted: &str) -> Result<(), Problem> {
    let metadata = fs::metadata(path);
    let is = |test: fn(&fs::FileType) -> bool| metadata.as_ref().is_ok_and(|m| test(&m.file_type()));
    let exists = metadata.is_ok();
    let fits = match wanted {
        "" => true,
        "DirectoryOrCreate" => {
            if !exists {
                fs::create_dir_all(path).map_err(|e| Problem::Io("create", e))?;
                set_mode(path, 0o755)?;
            }
            !exists || is(fs::FileType::is_dir)
        }
        "FileOrCreate" => {
            if !exists {
                fs::write(path, b"").map_err(|e| Problem::Io("create", e))?;
                set_mode(path, 0o644)?;
            }
            !exists || is(fs::FileType::is_file)
        }
        "Directory" => is(fs::FileType::is_dir),
        "File" => is(fs::FileType::is_file),
        "Socket" => is(FileTypeExt::is_socket),
        "CharDevice" => is(FileTypeExt::is_char_device),
        "BlockDevice" => is(FileTypeExt::is_block_device),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Problem::Type(format!("a {wanted}"))) }
}

/// A folder open to every user of the pod; on tmpfs for `medium: Memory`.
pub(super) fn make_empty_dir(
    path: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
) -> Result<(), Problem> {
    let new = !path.exists();
    fs::create_dir_all(path).map_err(|e| Problem::Io("create", e))?;
    if source.medium.as_deref() == Some("Memory") {
        if !is_mount_point(path).map_err(|e| Problem::Io("inspect", e))? {
            let size = source.size_limit.as_ref().and_then(resources::units).filter(|s| *s > 0);
            mount_tmpfs(path, size).map_err(|e| Problem::Io("mount", e))?;
        } else {
            return Ok(());
        }
    } else if !new {
        return Ok(());
    }
    if group.is_some() {
        chown(path, None, group).map_err(|e| Problem::Io("chown", e))?;
        return set_mode(path, 0o2777);
    }
    set_mode(path, 0o777)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Problem> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Problem::Io("chmod", e))
}

/// A mount point lies on another device than its parent.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let own = fs::symlink_metadata(path)?.dev();
    let parent = path.parent().map(fs::symlink_metadata).transpose()?;
    Ok(parent.is_some_and(|p| p.dev() != own))
}

pub(super) fn mount_tmpfs(path: &Path, size: Option<i64>) -> io::Result<()> {
    let options = size.map_or_else(|| "mode=0755".to_owned(), |s| format!("mode=0755,size={s}"));
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    Ok(())
}

/// Removes a folder whatever is mounted under it: mounts are detached first and never descended into.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    if is_mount_point(path)? {
        unmount(path, UnmountFlags::DETACH)?;
    }
    for entry in fs::read_dir(path)? {
        remove_tree(&entry?.path())?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
