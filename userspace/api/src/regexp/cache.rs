//! Compiled expressions by pattern. Two generations bound their number: an expression that is not used while a generation
//! fills is dropped.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::Regex;

/// Expressions of one generation.
const MAX_GENERATION: usize = 256;

#[derive(Default)]
struct Cache {
    young: HashMap<Box<str>, Arc<Regex>>,
    old: HashMap<Box<str>, Arc<Regex>>,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

impl Cache {
    fn get(&mut self, pattern: &str) -> Option<Arc<Regex>> {
        if let Some(found) = self.young.get(pattern) {
            return Some(found.clone());
        }
        let (pattern, found) = self.old.remove_entry(pattern)?;
        self.insert(pattern, found.clone());
        Some(found)
    }

    fn insert(&mut self, pattern: Box<str>, compiled: Arc<Regex>) {
        if self.young.len() >= MAX_GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(pattern, compiled);
    }
}

/// The compiled expression of a pattern. Compiles outside of the lock.
pub(super) fn get_or_compile<E>(
    pattern: &str,
    compile: impl FnOnce() -> Result<Arc<Regex>, E>,
) -> Result<Arc<Regex>, E> {
    let cache = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = cache().get(pattern);
    if let Some(found) = found {
        return Ok(found);
    }
    let compiled = compile()?;
    cache().insert(pattern.into(), compiled.clone());
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_in_use_outlives_a_generation() {
        let mut cache = Cache::default();
        let made = || Arc::new(Regex::new("a").unwrap());
        cache.insert("used".into(), made());
        cache.insert("unused".into(), made());
        for i in 0..3 * MAX_GENERATION {
            cache.insert(i.to_string().into(), made());
            assert!(cache.get("used").is_some());
        }
        assert!(cache.get("unused").is_none());
        assert!(cache.young.len() + cache.old.len() <= 2 * MAX_GENERATION);
    }
}
