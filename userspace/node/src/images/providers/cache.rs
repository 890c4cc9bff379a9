//! PURE. The answers of one provider, each for the images that it says, for its time.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// A user and password, and the images that they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) pattern: String,
    pub(super) username: String,
    pub(super) password: String,
}

/// Which images an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub(super) enum KeyType {
    Image,
    Registry,
    Global,
}

#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<String, (Vec<Login>, Timestamp)>);

/// No image has this name.
const GLOBAL: &str = "<global>";

impl Cache {
    /// The answer for this image, else for its registry, else for all.
    pub(super) fn get(&self, image: &str, now: Timestamp) -> Option<Vec<Login>> {
        let keys = [KeyType::Image, KeyType::Registry, KeyType::Global];
        let mut known = keys.iter().filter_map(|key| self.0.get(name(*key, image)));
        known.find(|(_, until)| now < *until).map(|(logins, _)| logins.clone())
    }

    /// Keeps an answer for `lifetime`; zero: not at all.
    pub(super) fn insert(
        &mut self,
        key: KeyType,
        image: &str,
        logins: Vec<Login>,
        lifetime: SignedDuration,
        now: Timestamp,
    ) {
        self.0.retain(|_, (_, until)| now < *until);
        if lifetime.is_positive() {
            let until = now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
            self.0.insert(name(key, image).to_owned(), (logins, until));
        }
    }
}

fn name(key: KeyType, image: &str) -> &str {
    match key {
        KeyType::Image => image,
        KeyType::Registry => image.split('/').next().unwrap_or(image),
        KeyType::Global => GLOBAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_serves_the_images_of_its_key_for_its_time() {
        let login = |name: &str| {
            vec![Login { pattern: "a".to_owned(), username: name.to_owned(), password: String::new() }]
        };
        let (now, minute) = (Timestamp::UNIX_EPOCH, SignedDuration::from_mins(1));
        let mut cache = Cache::default();
        cache.insert(KeyType::Image, "r.io/a", login("image"), minute, now);
        assert_eq!((cache.get("r.io/a", now), cache.get("r.io/b", now)), (Some(login("image")), None));
        cache.insert(KeyType::Registry, "r.io/b", login("registry"), minute, now);
        assert_eq!(cache.get("r.io/a", now), Some(login("image")));
        assert_eq!((cache.get("r.io/c", now), cache.get("s.io/c", now)), (Some(login("registry")), None));
        cache.insert(KeyType::Global, "r.io/b", login("global"), minute, now);
        assert_eq!(cache.get("s.io/c", now), Some(login("global")));
        assert_eq!(cache.get("r.io/a", now + minute), None);
        cache.insert(KeyType::Image, "t.io/a", login("none"), SignedDuration::ZERO, now + minute);
        assert!(cache.0.is_empty());
    }
}
