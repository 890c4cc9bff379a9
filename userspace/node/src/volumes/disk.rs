//! Folders and mounts of volumes: host paths, emptyDirs, tmpfs.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::mount::{MountFlags, mount};

use super::VolumeError;
use super::remove::is_mount_point;
use crate::resources;

/// A failure without the name of its volume, which the caller adds.
pub(super) enum DiskError {
    Io(&'static str, io::Error),
    Type(String),
}

impl DiskError {
    pub(super) fn of_volume(self, volume: &str, path: &Path) -> VolumeError {
        let (volume, path) = (volume.to_owned(), path.display().to_string());
        match self {
            DiskError::Io(operation, source) => VolumeError::Io { volume, operation, path, source },
            DiskError::Type(expected) => VolumeError::HostPath { volume, path, expected },
        }
    }
}

/// Checks a hostPath against its type, and creates it if the type says so.
pub(super) fn check_host_path(path: &Path, type_: &str) -> Result<(), DiskError> {
    let metadata = fs::metadata(path);
    let is = |test: fn(&fs::FileType) -> bool| metadata.as_ref().is_ok_and(|m| test(&m.file_type()));
    let exists = metadata.is_ok();
    let matches = match type_ {
        "" => true,
        "DirectoryOrCreate" => {
            if !exists {
                fs::create_dir_all(path).map_err(|e| DiskError::Io("create", e))?;
                set_mode(path, 0o755)?;
            }
            !exists || is(fs::FileType::is_dir)
        }
        "FileOrCreate" => {
            if !exists {
                fs::write(path, b"").map_err(|e| DiskError::Io("create", e))?;
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
    if matches { Ok(()) } else { Err(DiskError::Type(format!("a {type_}"))) }
}

/// A folder that every user of the pod may write; on tmpfs for `medium: Memory`.
pub(super) fn make_empty_dir(
    path: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
) -> Result<(), DiskError> {
    let new = !path.exists();
    fs::create_dir_all(path).map_err(|e| DiskError::Io("create", e))?;
    if source.medium.as_deref() == Some("Memory") {
        if !is_mount_point(path).map_err(|e| DiskError::Io("inspect", e))? {
            let size = source.size_limit.as_ref().and_then(resources::units).filter(|s| *s > 0);
            mount_tmpfs(path, size).map_err(|e| DiskError::Io("mount", e))?;
        } else {
            return Ok(());
        }
    } else if !new {
        return Ok(());
    }
    if group.is_some() {
        chown(path, None, group).map_err(|e| DiskError::Io("chown", e))?;
        return set_mode(path, 0o2777);
    }
    set_mode(path, 0o777)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), DiskError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| DiskError::Io("chmod", e))
}

/// Mounts a tmpfs that only the agent can enter, until its mode is changed.
pub(super) fn mount_tmpfs(path: &Path, size: Option<i64>) -> io::Result<()> {
    let options = size.map_or_else(|| "mode=0700".to_owned(), |s| format!("mode=0700,size={s}"));
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    Ok(())
}
