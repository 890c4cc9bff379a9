//! Files of a volume that change atomically: a new folder is written, then a rename replaces the link `..data`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::payload::{File, Payload};

/// The user and group that may read the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user of the pod's containers, if all have the same.
    pub user: Option<u32>,
    pub group: Option<u32>,
}

const DATA: &str = "..data";

/// Makes `payload` the exact contents of the volume at `root`. Returns false when it already was.
pub fn write(root: &Path, payload: &Payload, owner: Owner, now: Timestamp) -> io::Result<bool> {
    fs::create_dir_all(root)?;
    let data = root.join(DATA);
    if holds(&data, payload, owner)? {
        return Ok(false);
    }
    let old = fs::read_link(&data).ok();
    let fresh = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%f"));
    let folder = root.join(&fresh);
    if let Err(error) = fill(&folder, payload, owner) {
        let _ = fs::remove_dir_all(&folder);
        return Err(error);
    }
    let link = root.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&fresh, &link)?;
    fs::rename(&link, &data)?;
    link_names(root, payload)?;
    if let Some(old) = old.filter(|old| old != Path::new(&fresh)) {
        let _ = fs::remove_dir_all(root.join(old));
    }
    own(root, owner, 0o755)?;
    Ok(true)
}

fn holds(data: &Path, payload: &Payload, owner: Owner) -> io::Result<bool> {
    if fs::symlink_metadata(data).is_err() {
        return Ok(false);
    }
    let mut present = BTreeSet::new();
    list(data, PathBuf::new(), &mut present)?;
    if present.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        let full = data.join(path);
        let same = fs::read(&full).is_ok_and(|content| content == file.content)
            && fs::metadata(&full).is_ok_and(|m| m.permissions().mode() & 0o777 == mode(file, owner));
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(root: &Path, within: PathBuf, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(&within))? {
        let entry = entry?;
        let path = within.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, path, into)?;
        } else {
            into.insert(path);
        }
    }
    Ok(())
}

/// The group may read what the owner may read. A token is readable by no other user.
fn mode(file: &File, owner: Owner) -> u32 {
    let base = if file.token && (owner.user.is_some() || owner.group.is_some()) { 0o600 } else { file.mode };
    if owner.group.is_some() { base | ((base & 0o600) >> 3) & 0o040 } else { base }
}

fn fill(folder: &Path, payload: &Payload, owner: Owner) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    own(folder, owner, 0o755)?;
    for (path, file) in payload {
        let full = folder.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
            own(parent, owner, 0o755)?;
        }
        fs::write(&full, &file.content)?;
        let user = owner.user.filter(|_| file.token && owner.group.is_none());
        chown(&full, user, owner.group)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(mode(file, owner)))?;
    }
    Ok(())
}

fn own(folder: &Path, owner: Owner, mode: u32) -> io::Result<()> {
    if owner.group.is_some() {
        chown(folder, None, owner.group)?;
    }
    let setgid = if owner.group.is_some() { 0o2000 } else { 0 };
    fs::set_permissions(folder, fs::Permissions::from_mode(mode | setgid))
}

/// Containers see links through `..data`, which stay the same when only contents change.
fn link_names(root: &Path, payload: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &names {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            fs::remove_file(root.join(name.as_ref()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pairs: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { content: text.as_bytes().to_vec(), mode: 0o640, token: false };
        pairs.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("in range")
    }

    #[test]
    fn an_update_replaces_one_link_and_leaves_no_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().join("v");
        let first = payload(&[("a", "1"), ("d/b", "2")]);
        assert!(write(&root, &first, Owner::default(), at(0)).expect("written"));
        assert!(!write(&root, &first, Owner::default(), at(1)).expect("unchanged"));
        let before = fs::read_link(root.join(DATA)).expect("link");
        assert!(write(&root, &payload(&[("a", "3")]), Owner::default(), at(2)).expect("updated"));
        assert_eq!(fs::read_to_string(root.join("a")).expect("file"), "3");
        assert!(fs::symlink_metadata(root.join("d")).is_err());
        assert!(!root.join(before).exists());
        assert_eq!(fs::metadata(root.join("a")).expect("file").permissions().mode() & 0o777, 0o640);
    }
}
