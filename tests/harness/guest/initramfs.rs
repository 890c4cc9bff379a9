//! The first file system of a Linux that boots, as the archive that its kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const ALIGNMENT: usize = 4;

/// Files by their path inside, without the leading slash.
#[derive(Default)]
pub(super) struct Initramfs {
    entries: BTreeMap<PathBuf, Content>,
}

enum Content {
    Directory,
    Bytes(Vec<u8>),
}

impl Initramfs {
    pub(super) fn folder(&mut self, path: impl AsRef<Path>) {
        for folder in path.as_ref().ancestors().filter(|folder| *folder != Path::new("")) {
            self.entries.entry(folder.to_owned()).or_insert(Content::Directory);
        }
    }

    pub(super) fn script(&mut self, path: impl AsRef<Path>, text: &str) {
        self.put(path.as_ref(), text.as_bytes().to_vec());
    }

    /// A file of this machine.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.put(path.as_ref(), bytes);
        Ok(())
    }

    /// A program of this machine, and the libraries that it asks for.
    pub(super) fn program(&mut self, path: impl AsRef<Path>, from: &Path) -> Result<()> {
        self.file(path, from)?;
        let output = Command::new("ldd").arg(from).output().context("run ldd (Debian: libc-bin)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        for library in text.split_whitespace().filter_map(|word| word.strip_prefix('/')) {
            self.file(library, &Path::new("/").join(library))?;
        }
        Ok(())
    }

    fn put(&mut self, path: &Path, bytes: Vec<u8>) {
        self.folder(path.parent().unwrap_or(Path::new("")));
        self.entries.insert(path.to_owned(), Content::Bytes(bytes));
    }

    /// Folders come before what is in them, since paths are in order.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut archive = BufWriter::new(file);
        for (path, content) in &self.entries {
            let name = path.to_str().context("a path that is no text")?;
            match content {
                Content::Directory => append(&mut archive, name, DIRECTORY, &[])?,
                Content::Bytes(bytes) => append(&mut archive, name, EXECUTABLE, bytes)?,
            }
        }
        append(&mut archive, "TRAILER!!!", 0, &[])?;
        archive.flush().with_context(|| format!("write {}", to.display()))
    }
}

/// Header, name and bytes; each of the two ends on the alignment.
fn append(archive: &mut impl Write, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
    let name_size = name.len() as u32 + 1;
    // Inode, mode, owner, group, links, time, size, device and its kind (two numbers each), size of the name, sum.
    let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut header = String::from("070701");
    header.extend(fields.map(|field| format!("{field:08x}")));
    header.push_str(name);
    header.push('\0');
    for part in [header.as_bytes(), bytes] {
        archive.write_all(part)?;
        archive.write_all(&[0; ALIGNMENT][..part.len().next_multiple_of(ALIGNMENT) - part.len()])?;
    }
    Ok(())
}
