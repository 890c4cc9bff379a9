//! A volume's subPath, resolved once and held.
//!
//! In: the volume's root and a path within it, which the pod's other containers may change at any time. Out: a bind
//! mount at a path that only the agent can change. The runtime receives that path: it never resolves one that a
//! container can exchange for a link. The kernel resolves each part beneath the root (RESOLVE_BENEATH): links that stay
//! in the volume are followed, others are refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::remove::remove_tree;

/// Why a subPath was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It leaves the volume: by `..`, or by a link.
    #[error("the path leaves the volume")]
    Escapes,
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
}

fn failed(operation: &'static str) -> impl FnOnce(Errno) -> SubPathError {
    move |errno| match errno {
        // A link or `..` out of the volume, a link in a folder's stead, or a chain of links.
        Errno::XDEV | Errno::LOOP => SubPathError::Escapes,
        other => SubPathError::Io { operation, source: other.into() },
    }
}

/// The mounts of one container's subPaths. They are needed until the container has started: it has mounts of its own
/// then. Dropping this unmounts them; what an ended agent left is removed with the pod's folder, or by the next start.
#[derive(Debug, Default)]
pub struct SubPathMounts {
    targets: Vec<PathBuf>,
}

impl SubPathMounts {
    /// Mounts `sub_path` of the volume at `root` at `target`, which is in a folder that no container can write.
    pub fn add(&mut self, root: &Path, sub_path: &str, target: PathBuf) -> Result<PathBuf, SubPathError> {
        let io = |operation| move |source| SubPathError::Io { operation, source };
        let source = open(root, Path::new(sub_path))?;
        remove_tree(&target).map_err(io("remove the old mount"))?;
        make_target(&source, &target).map_err(io("make the mount point"))?;
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(source.as_fd(), "", flags).map_err(failed("clone the mount"))?;
        self.targets.push(target.clone());
        move_mount(tree.as_fd(), "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("mount"))?;
        Ok(target)
    }
}

impl Drop for SubPathMounts {
    fn drop(&mut self) {
        for target in &self.targets {
            if let Err(error) = remove_tree(target) {
                tracing::warn!(path = %target.display(), %error, "unmount subPath failed");
            }
        }
    }
}

/// A folder for a folder, and a file for anything else, as mount(2) requires.
fn make_target(source: &OwnedFd, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if FileType::from_raw_mode(fstat(source)?.st_mode) == FileType::Directory {
        return std::fs::create_dir(target);
    }
    std::fs::File::create_new(target).map(drop)
}

/// A handle of `sub_path` under `root`. Missing folders are made, with the root's mode.
fn open(root: &Path, sub_path: &Path) -> Result<OwnedFd, SubPathError> {
    let mut parts = Vec::new();
    for component in sub_path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(SubPathError::Escapes);
            }
        }
    }
    let root = openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open"))?;
    let mut path = PathBuf::new();
    let mut parent = None;
    let mut rest = parts.iter();
    for part in rest.by_ref() {
        path.push(part);
        match beneath(&root, &path) {
            Ok(found) => parent = Some(found),
            Err(Errno::NOENT) => {
                let at = parent.as_ref().unwrap_or(&root);
                parent = Some(make_folder(&root, at, part)?);
                break;
            }
            Err(errno) => return Err(failed("open")(errno)),
        }
    }
    for part in rest {
        let at = parent.as_ref().unwrap_or(&root);
        parent = Some(make_folder(&root, at, part)?);
    }
    Ok(parent.unwrap_or(root))
}

/// Opens a path beneath the root, also while others rename its parts.
fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    /// The kernel gives up with EAGAIN when a rename may have moved a part out of the root.
    const MAX_ATTEMPTS: u32 = 128;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut attempt = 1;
    loop {
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempt < MAX_ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

/// Makes one folder in an opened one and opens it, without following a link that took its name.
fn make_folder(root: &OwnedFd, parent: &OwnedFd, name: &std::ffi::OsStr) -> Result<OwnedFd, SubPathError> {
    // Other modes than rwx and the group's inheritance are not the volume's wish for its folders.
    let mode = Mode::from_raw_mode(fstat(root).map_err(failed("inspect"))?.st_mode & 0o2777);
    let made = match mkdirat(parent, name, mode) {
        Ok(()) => true,
        // Another container of the pod may make the same folder.
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(failed("create folder")(errno)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let folder = openat2(parent, name, flags, Mode::empty(), resolve).map_err(failed("open"))?;
    if made {
        // The agent's umask has narrowed it.
        fchmod(&folder, mode).map_err(failed("chmod"))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A volume with `inside/file`, next to `outside/secret`.
    struct Tree {
        folder: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Tree {
            let folder = tempfile::tempdir().expect("folder");
            for path in ["volume/inside", "outside"] {
                fs::create_dir_all(folder.path().join(path)).expect("made");
            }
            fs::write(folder.path().join("volume/inside/file"), "").expect("written");
            fs::write(folder.path().join("outside/secret"), "").expect("written");
            fs::set_permissions(folder.path().join("volume"), fs::Permissions::from_mode(0o2777))
                .expect("allowed");
            Tree { folder }
        }

        fn volume(&self) -> PathBuf {
            self.folder.path().join("volume")
        }

        fn link(&self, to: &str, at: &str) {
            symlink(to, self.volume().join(at)).expect("linked");
        }

        fn open(&self, path: &str) -> Result<u64, SubPathError> {
            let found = open(&self.volume(), Path::new(path))?;
            Ok(fstat(&found).expect("inspected").st_ino)
        }

        fn inode(&self, path: &str) -> u64 {
            fs::metadata(self.folder.path().join(path)).expect("inspected").ino()
        }
    }

    #[test]
    fn a_path_out_of_the_volume_is_refused() {
        let tree = Tree::new();
        tree.link("/", "root");
        tree.link("../outside", "up");
        tree.link("inside/../../outside", "winding");
        tree.link("up", "twice");
        tree.link("loop", "loop");
        tree.link("/proc/self/root", "magic");
        let outside = tree.folder.path().join("outside");
        tree.link(&outside.display().to_string(), "absolute");
        for path in [
            "..",
            "../outside",
            "inside/../..",
            "/etc",
            "root",
            "root/etc",
            "up",
            "up/secret",
            "up/made",
            "winding/secret",
            "twice/secret",
            "loop",
            "loop/a",
            "magic/etc",
            "absolute",
            "absolute/made",
        ] {
            assert!(matches!(tree.open(path), Err(SubPathError::Escapes)), "{path}: {:?}", tree.open(path));
        }
        assert_eq!(fs::read_dir(outside).expect("listed").count(), 1, "nothing is made outside");
    }

    #[test]
    fn a_link_within_the_volume_is_followed() {
        let tree = Tree::new();
        tree.link("inside", "..data");
        tree.link("..data/file", "key");
        tree.link("missing/folder", "dangling");
        for (path, expected) in [
            ("inside", "volume/inside"),
            (".", "volume"),
            ("./inside//file", "volume/inside/file"),
            ("key", "volume/inside/file"),
            ("..data/file", "volume/inside/file"),
        ] {
            assert_eq!(tree.open(path).expect(path), tree.inode(expected), "{path}");
        }
        assert!(tree.open("dangling").is_err());
    }

    #[test]
    fn missing_folders_are_made_with_the_mode_of_the_volume() {
        let tree = Tree::new();
        let made = tree.open("inside/a/b/c").expect("made");
        assert_eq!(made, tree.inode("volume/inside/a/b/c"));
        for path in ["volume/inside/a", "volume/inside/a/b", "volume/inside/a/b/c"] {
            let mode = fs::metadata(tree.folder.path().join(path)).expect("inspected").mode();
            assert_eq!(mode & 0o7777, 0o2777, "{path}");
        }
        assert!(tree.open("inside/file/a").is_err(), "a file is no folder");
    }

    #[test]
    fn an_exchange_for_a_link_never_leads_out() {
        let tree = Tree::new();
        tree.link("../outside", "swapped");
        let (one, two) = (tree.volume().join("inside"), tree.volume().join("swapped"));
        let outside = tree.inode("outside");
        let over = AtomicBool::new(false);
        let mut opened = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(CWD, &one, CWD, &two, exchange).expect("exchanged");
                }
            });
            for _ in 0..20_000 {
                for path in ["inside", "inside/made/deep", "swapped"] {
                    if let Ok(inode) = tree.open(path) {
                        assert_ne!(inode, outside);
                        opened += 1;
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(opened > 0);
        assert_eq!(fs::read_dir(tree.folder.path().join("outside")).expect("listed").count(), 1);
    }
}
