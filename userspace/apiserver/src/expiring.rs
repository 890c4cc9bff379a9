//! A bounded map whose entries end by themselves: answers that stay good for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};

use crate::lock::Lock;

/// The SHA-256 of what an answer is about: secrets and long texts are not kept.
pub(crate) type Key = [u8; 32];

/// The key of these texts, in order.
pub(crate) fn key_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Key {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text.as_bytes());
    }
    let mut key = Key::default();
    key.copy_from_slice(context.finish().as_ref());
    key
}

pub(crate) struct Expiring<V> {
    entries: Lock<HashMap<Key, (V, Instant)>>,
    max: usize,
}

impl<V: Clone> Expiring<V> {
    /// Keeps at most `max` entries.
    pub(crate) fn new(max: usize) -> Expiring<V> {
        Expiring { entries: Lock::default(), max }
    }

    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<V> {
        let entries = self.entries.lock();
        entries.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// Keeps a value for a time. A full map loses what has ended, and else a quarter of its entries.
    pub(crate) fn insert(&self, key: Key, value: V, ttl: Duration, now: Instant) {
        let Some(until) = now.checked_add(ttl) else { return };
        let mut entries = self.entries.lock();
        if entries.len() >= self.max {
            entries.retain(|_, (_, until)| *until > now);
            let mut surplus = if entries.len() >= self.max { self.max.div_ceil(4) } else { 0 };
            entries.retain(|_, _| {
                let is_kept = surplus == 0;
                surplus = surplus.saturating_sub(1);
                is_kept
            });
        }
        entries.insert(key, (value, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_and_their_number_is_bounded() {
        let (map, now) = (Expiring::new(8), Instant::now());
        let key = |number: u32| key_of([number.to_string().as_str()]);
        for number in 0..100 {
            map.insert(key(number), number, Duration::from_secs(10), now);
            assert_eq!(map.get(&key(number), now), Some(number));
            assert!(map.entries.lock().len() <= 8);
        }
        assert_eq!(map.get(&key(99), now + Duration::from_secs(10)), None);
        assert_eq!(map.get(&key(100), now), None);
    }

    #[test]
    fn texts_are_not_confused_with_their_concatenation() {
        assert_ne!(key_of(["ab", "c"]), key_of(["a", "bc"]));
        assert_ne!(key_of(["a"]), key_of(["a", ""]));
    }
}
