//! Names of kinds as text that lives as long as the program: the rows of the table are such, and kinds that definitions
//! make are no different to who reads them. Each distinct name is kept once, however often a definition comes and goes.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};

struct Kept<T: ?Sized + 'static>(LazyLock<Mutex<HashSet<&'static T>>>);

static NAMES: Kept<str> = Kept(LazyLock::new(Mutex::default));
static LISTS: Kept<[&'static str]> = Kept(LazyLock::new(Mutex::default));

impl<T: ?Sized + Eq + Hash> Kept<T> {
    fn get(&self, wanted: &T, make: impl FnOnce() -> Box<T>) -> &'static T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.get(wanted) {
            return found;
        }
        let new: &'static T = Box::leak(make());
        kept.insert(new);
        new
    }
}

pub(crate) fn intern(name: &str) -> &'static str {
    NAMES.get(name, || name.into())
}

/// A list of interned names.
pub(crate) fn intern_all(names: &[&'static str]) -> &'static [&'static str] {
    LISTS.get(names, || names.into())
}
