//! Secrets with users for basic authentication.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ByteString;

use crate::policy::{BasicAuth, UsersError};

/// The key of an htpasswd file.
const FILE_KEY: &str = "auth";

/// The data of a Secret, and what was made of it: whether it has a key for each user, and the realm.
pub(super) struct Users {
    data: BTreeMap<String, ByteString>,
    made: Mutex<Made>,
}

type Made = HashMap<(bool, Box<str>), Arc<BasicAuth>>;

impl Users {
    pub(super) fn new(data: BTreeMap<String, ByteString>) -> Users {
        Users { data, made: Mutex::default() }
    }

    /// The same for all who ask for it: it remembers users whose password was right.
    pub(super) fn authentication(&self, is_map: bool, realm: &str) -> Result<Arc<BasicAuth>, UsersError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&(is_map, realm.into())) {
            return Ok(known.clone());
        }
        let text = |bytes: &ByteString| String::from_utf8_lossy(&bytes.0).trim().to_owned();
        let new = match is_map {
            true => {
                let users: Vec<_> =
                    self.data.iter().map(|(name, hash)| (name.as_str(), text(hash))).collect();
                BasicAuth::new(realm, users.iter().map(|(name, hash)| (*name, hash.as_str())))?
            }
            false => {
                let file = self.data.get(FILE_KEY).map(text).unwrap_or_default();
                BasicAuth::new(realm, BasicAuth::parse_file(&file))?
            }
        };
        let new = Arc::new(new);
        made.insert((is_map, realm.into()), new.clone());
        Ok(new)
    }
}
