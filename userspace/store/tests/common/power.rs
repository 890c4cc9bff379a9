//! A disk in memory that writes behind: a power cut keeps what was synced and any part of the rest.
//!
//! Each sector that was written since the last sync of its file has its new or its old content afterwards, and each file
//! its new or its old length. Changes of names since the last sync of the folder are kept up to some point.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_store::embedded::disk::{Disk, DiskFile, StorageBackend};

const SECTOR_BYTES: usize = 512;

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnreliableDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    /// Names now; their files as indices.
    names: BTreeMap<PathBuf, usize>,
    /// Names as of the last sync of the folder, and the changes since.
    synced_names: BTreeMap<PathBuf, usize>,
    renames: Vec<NameChange>,
    /// Changes until the power goes; `None`: it stays.
    changes_left: Option<u64>,
    /// Handles of an earlier power-on do not work.
    power_on: u64,
    random: u64,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced_length: usize,
    /// What sectors that were written since the last sync had before.
    before: BTreeMap<usize, Vec<u8>>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Made(PathBuf, usize),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

#[derive(Debug)]
struct Handle {
    disk: UnreliableDisk,
    file: usize,
    power_on: u64,
}

fn dark() -> io::Error {
    io::Error::other("the power is off")
}

impl UnreliableDisk {
    pub(crate) fn new(seed: u64) -> UnreliableDisk {
        let disk = UnreliableDisk::default();
        disk.state().random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        disk
    }

    /// The power goes after that many changes: writes, syncs, changes of names.
    pub(crate) fn cut_power_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Cuts the power, if it is not off already, and turns it on again.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        let state = &mut *state;
        for content in &mut state.files {
            content.lose_unsynced(&mut state.random);
        }
        let kept = (next_random(&mut state.random) as usize) % (state.renames.len() + 1);
        for change in &state.renames[..kept] {
            change.apply(&mut state.synced_names);
        }
        state.names = state.synced_names.clone();
        state.renames.clear();
        state.changes_left = None;
        state.power_on += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &State, file: usize) -> Handle {
        Handle { disk: self.clone(), file, power_on: state.power_on }
    }
}

/// Xorshift.
fn next_random(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random >> 11
}

impl State {
    fn is_on(&self) -> io::Result<()> {
        if self.changes_left == Some(0) { Err(dark()) } else { Ok(()) }
    }

    fn change(&mut self) -> io::Result<()> {
        self.is_on()?;
        if let Some(left) = &mut self.changes_left {
            *left -= 1;
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.is_on()?;
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.renames.push(change);
    }

    fn create(&mut self, path: &Path) -> usize {
        self.files.push(Content::default());
        let file = self.files.len() - 1;
        self.rename(NameChange::Made(path.to_owned(), file));
        file
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Made(path, file) => drop(names.insert(path.clone(), *file)),
            NameChange::Renamed(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Removed(path) => drop(names.remove(path)),
        }
    }
}

impl Content {
    /// Remembers the sectors of a range before they change.
    fn remember(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let (from, to) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
            let length = self.bytes.len();
            let bytes = &self.bytes;
            self.before.entry(sector).or_insert_with(|| bytes[from.min(length)..to.min(length)].to_vec());
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.remember(offset, end);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    fn set_len(&mut self, length: usize) {
        self.remember(length, self.bytes.len());
        self.bytes.resize(length, 0);
    }

    fn sync(&mut self) {
        self.before.clear();
        self.synced_length = self.bytes.len();
    }

    fn lose_unsynced(&mut self, random: &mut u64) {
        let length = [self.bytes.len(), self.synced_length][(next_random(random) % 2) as usize];
        for (sector, before) in std::mem::take(&mut self.before) {
            if next_random(random).is_multiple_of(2) {
                let at = sector * SECTOR_BYTES;
                if self.bytes.len() < at + SECTOR_BYTES {
                    self.bytes.resize(at + SECTOR_BYTES, 0);
                }
                let sector = &mut self.bytes[at..at + SECTOR_BYTES];
                sector.fill(0);
                sector[..before.len()].copy_from_slice(&before);
            }
        }
        self.bytes.resize(length, 0);
        self.synced_length = length;
    }
}

impl Disk for UnreliableDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.change()?;
        let file = match state.find(path) {
            Ok(file) => {
                state.files[file].set_len(0);
                file
            }
            Err(_) => state.create(path),
        };
        Ok(Box::new(self.handle(&state, file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        Ok(Box::new(self.handle(&state, state.find(path)?)))
    }

    fn open_tables(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.state();
        state.is_on()?;
        let file = match state.find(path) {
            Ok(file) => file,
            Err(_) => state.create(path),
        };
        Ok(Box::new(self.handle(&state, file)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        Ok(state.files[state.find(path)?].bytes.clone())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.files[state.find(path)?].bytes.len() as u64)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        state.is_on()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.find(from)?;
        state.change()?;
        state.rename(NameChange::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.find(path)?;
        state.change()?;
        state.rename(NameChange::Removed(path.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.synced_names = state.names.clone();
        state.renames.clear();
        Ok(())
    }
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        state.is_on()?;
        if state.power_on == self.power_on { Ok(state) } else { Err(dark()) }
    }

    /// A change of the file's content.
    fn change(&self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        let mut state = self.state()?;
        state.change()?;
        change(&mut state.files[self.file]);
        Ok(())
    }
}

impl DiskFile for Handle {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(|content| content.write(offset as usize, bytes))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(|content| content.set_len(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Content::sync)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.files[self.file].bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state()?;
        let from = offset as usize;
        let found = state.files[self.file].bytes.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        DiskFile::set_len(self, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        DiskFile::sync_data(self)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        DiskFile::write_all_at(self, data, offset)
    }
}
