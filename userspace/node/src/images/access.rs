//! Which pods may use an image that is present.
//!
//! In: the pulls of this node, each with the Secret whose credentials the registry accepted. Out: whether a pod with these
//! pull Secrets may use the image; if not, a pull with the pod's own credentials decides (KEP-2535). An image that this
//! node did not pull was put there by its administrator: every pod may use it. The records survive the agent in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::normalize;
use crate::cri::api;

/// A pull Secret. The uid is empty while the API server cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SecretId {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl SecretId {
    /// An unknown uid matches any: containers restart without the API server, too.
    fn is(&self, other: &SecretId) -> bool {
        let uids = self.uid == other.uid || self.uid.is_empty() || other.uid.is_empty();
        uids && self.namespace == other.namespace && self.name == other.name
    }
}

/// Who may use an image by one of its repositories.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// It was pulled without credentials.
    everyone: bool,
    secrets: BTreeSet<SecretId>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    /// How many pulls of an image are under way: such an image is not the administrator's.
    pulling: BTreeMap<String, u32>,
    /// Images whose pull did not end before the agent did.
    interrupted: BTreeSet<String>,
    /// By the image's id and the repository.
    images: BTreeMap<String, BTreeMap<String, Access>>,
    /// The records could not be read: no image counts as the administrator's.
    lost: bool,
}

impl Records {
    fn may_use(&self, image: &str, id: &str, secrets: &[SecretId]) -> bool {
        let image = normalize(image);
        let Some(repositories) = self.images.get(id) else {
            return self.is_administrators(&image);
        };
        let allows = |access: &Access| {
            access.everyone
                || secrets.iter().any(|secret| access.secrets.iter().any(|known| known.is(secret)))
        };
        repositories.get(repository(&image)).is_some_and(allows)
    }

    /// Whether an image without a record was put on the node by its administrator.
    fn is_administrators(&self, image: &str) -> bool {
        !self.lost && !self.pulling.contains_key(image) && !self.interrupted.contains(image)
    }

    /// Whether a pull from that repository is under way or was interrupted.
    fn is_pulled_from(&self, from: &str) -> bool {
        self.lost || self.pulling.keys().chain(&self.interrupted).any(|image| repository(image) == from)
    }

    /// A pull begins. If the image is present and free, it stays so, however the pull ends.
    fn begin(&mut self, image: &str, present: Option<&str>) {
        let image = normalize(image);
        if let Some(id) =
            present.filter(|id| !self.images.contains_key(*id) && self.is_administrators(&image))
        {
            self.grant(&image, id, None);
        }
        let count = self.pulling.entry(image).or_default();
        *count = count.saturating_add(1);
    }

    fn end(&mut self, image: &str) {
        match self.pulling.get_mut(image) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.pulling.remove(image)),
        }
    }

    /// The first pull of an id must not take the image from the pods that use it by other names: those of the
    /// administrator stay free.
    fn pulled(&mut self, image: &str, found: &api::Image, secret: Option<&SecretId>) {
        let image = normalize(image);
        if !self.images.contains_key(&found.id) {
            for name in found.repo_tags.iter().chain(&found.repo_digests).map(|name| normalize(name)) {
                if repository(&name) != repository(&image) && !self.is_pulled_from(repository(&name)) {
                    self.grant(&name, &found.id, None);
                }
            }
        }
        self.end(&image);
        self.interrupted.remove(&image);
        self.grant(&image, &found.id, secret);
    }

    fn grant(&mut self, image: &str, id: &str, secret: Option<&SecretId>) {
        let repositories = self.images.entry(id.to_owned()).or_default();
        let access = repositories.entry(repository(image).to_owned()).or_default();
        match secret {
            None => access.everyone = true,
            Some(secret) => drop(access.secrets.insert(secret.clone())),
        }
    }
}

/// The image's name without tag and digest.
pub(super) fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((front, tag)) if !tag.contains('/') => front,
        _ => name,
    }
}

/// The records in their file.
pub(crate) struct PullRecords {
    file: PathBuf,
    records: Mutex<Records>,
}

impl PullRecords {
    /// Reads the records of earlier agents. Records that cannot be read count as lost.
    pub(crate) fn open(root: &Path) -> io::Result<PullRecords> {
        let file = root.join("image-pulls.json");
        let mut records = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %file.display(), %error, "read records of image pulls failed");
                Records { lost: true, ..Default::default() }
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Records::default(),
            Err(error) => return Err(error),
        };
        let begun = std::mem::take(&mut records.pulling);
        records.interrupted.extend(begun.into_keys());
        Ok(PullRecords { file, records: Mutex::new(records) })
    }

    pub(crate) fn may_use(&self, image: &str, id: &str, secrets: &[SecretId]) -> bool {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).may_use(image, id, secrets)
    }

    /// Notes that a pull begins; `present` is the image's id if it is there. The pull must not begin when this fails: the
    /// image would count as the administrator's.
    pub(crate) fn begin(&self, image: &str, present: Option<&str>) -> io::Result<()> {
        self.change(|records| records.begin(image, present))
    }

    /// Notes a pull that brought no image.
    pub(crate) fn failed(&self, image: &str) -> io::Result<()> {
        self.change(|records| records.end(&normalize(image)))
    }

    /// Notes a pull that the registry allowed, with the Secret's credentials or without any.
    pub(crate) fn pulled(
        &self,
        image: &str,
        found: &api::Image,
        secret: Option<&SecretId>,
    ) -> io::Result<()> {
        self.change(|records| records.pulled(image, found, secret))
    }

    /// Forgets images that are no longer present.
    pub(crate) fn keep(&self, ids: &BTreeSet<String>, names: &BTreeSet<String>) -> io::Result<()> {
        self.change(|records| {
            records.images.retain(|id, _| ids.contains(id));
            records.interrupted.retain(|name| names.contains(name));
        })
    }

    fn change(&self, change: impl FnOnce(&mut Records)) -> io::Result<()> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut records);
        let fresh = self.file.with_extension("json.new");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&*records)?)?;
        file.sync_data()?;
        std::fs::rename(&fresh, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(namespace: &str, uid: &str) -> SecretId {
        SecretId { uid: uid.to_owned(), namespace: namespace.to_owned(), name: "pull".to_owned() }
    }

    fn found(id: &str, names: &[&str]) -> api::Image {
        let repo_tags = names.iter().map(|name| (*name).to_owned()).collect();
        api::Image { id: id.to_owned(), repo_tags, ..Default::default() }
    }

    #[test]
    fn a_copy_of_an_image_leaves_the_original_free() {
        let folder = tempfile::tempdir().expect("folder");
        let records = PullRecords::open(folder.path()).expect("opened");
        let (original, copy) = ("localhost/app:1", "h.io/copy:1");
        records.begin(copy, None).expect("noted");
        let secret = secret("ours", "1");
        records.pulled(copy, &found("sha256:a", &[original, copy]), Some(&secret)).expect("noted");
        assert!(records.may_use(original, "sha256:a", &[]));
        assert!(!records.may_use(copy, "sha256:a", &[]));
    }

    #[test]
    fn a_private_image_is_for_pods_with_the_secret_that_pulled_it() {
        let folder = tempfile::tempdir().expect("folder");
        let open = || PullRecords::open(folder.path()).expect("opened");
        let records = open();
        let (ours, theirs) = (secret("ours", "1"), secret("theirs", "2"));
        let image = "h.io/private/app:1";
        assert!(records.may_use(image, "sha256:a", &[]), "the administrator put it there");
        records.begin(image, None).expect("noted");
        assert!(!open().may_use(image, "sha256:a", &[]), "a pull was interrupted");
        records.pulled(image, &found("sha256:a", &[image]), Some(&ours)).expect("noted");
        for records in [records, open()] {
            assert!(records.may_use(image, "sha256:a", &[theirs.clone(), ours.clone()]));
            assert!(records.may_use("h.io/private/app@sha256:x", "sha256:a", std::slice::from_ref(&ours)));
            assert!(records.may_use(image, "sha256:a", &[secret("ours", "")]), "the API server is away");
            assert!(!records.may_use(image, "sha256:a", &[]));
            assert!(!records.may_use(image, "sha256:a", std::slice::from_ref(&theirs)));
            assert!(
                !records.may_use(image, "sha256:a", &[secret("ours", "3")]),
                "another Secret of that name"
            );
            assert!(!records.may_use("h.io/other/app:1", "sha256:a", std::slice::from_ref(&ours)));
        }
        let records = open();
        records.pulled(image, &found("sha256:a", &[image]), None).expect("noted");
        assert!(records.may_use(image, "sha256:a", &[]), "the registry gives it to everyone");
        records.keep(&BTreeSet::new(), &BTreeSet::new()).expect("noted");
        assert!(open().may_use(image, "sha256:a", &[]));
    }

    #[test]
    fn a_failed_pull_takes_no_image_from_the_pods() {
        let folder = tempfile::tempdir().expect("folder");
        let records = PullRecords::open(folder.path()).expect("opened");
        let image = "localhost/app:1";
        // The administrator put the image there; a pod that is deleted meanwhile pulls it.
        records.begin(image, Some("sha256:a")).expect("noted");
        assert!(records.may_use(image, "sha256:a", &[]));
        for _ in 0..2 {
            records.begin("h.io/b:1", None).expect("noted");
        }
        records.failed("h.io/b:1").expect("noted");
        assert!(!records.may_use("h.io/b:1", "sha256:b", &[]), "the other pull may bring it");
        records.failed("h.io/b:1").expect("noted");
        assert!(records.may_use("h.io/b:1", "sha256:b", &[]), "the administrator brought it");
    }

    #[test]
    fn lost_records_free_no_image() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("image-pulls.json"), "{").expect("written");
        let records = PullRecords::open(folder.path()).expect("opened");
        assert!(!records.may_use("h.io/a:1", "sha256:a", &[]));
        records.pulled("h.io/a:1", &found("sha256:a", &[]), None).expect("noted");
        assert!(records.may_use("h.io/a:1", "sha256:a", &[]));
    }

    #[test]
    fn a_repository_has_no_tag() {
        let cases = [
            ("h:5000/a/b:1", "h:5000/a/b"),
            ("h:5000/a@sha256:0", "h:5000/a"),
            ("a.b/c:1@sha256:0", "a.b/c"),
        ];
        for (image, expected) in cases {
            assert_eq!(repository(image), expected);
        }
    }
}
