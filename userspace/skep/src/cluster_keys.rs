//! Servers that share a store share their CAs and their token key: a server with others would certify what the rest of the
//! cluster does not trust. The store has the fingerprints; a server whose keys are not among them does not start.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use skep_store::{Expect, Store, StoreError};

use crate::pki::Pki;

/// Not below a kind's prefix: the API does not serve it.
const KEY: &str = "/registry/skep-cluster-keys";

/// By the name of the key file: the fingerprints that servers of the cluster may have.
type Fingerprints = BTreeMap<String, BTreeSet<String>>;

/// Records the keys of the first server; refuses a server of whose keys the cluster knows none.
pub(crate) async fn check(store: &dyn Store, pki: &Pki) -> Result<()> {
    update(store, pki, |known, own| known.extend(own)).await
}

/// Records the keys of a running server after a rotation: those that it dropped are no longer the cluster's.
pub(crate) async fn record(store: &dyn Store, pki: &Pki) -> Result<()> {
    update(store, pki, |known, own| *known = own).await
}

async fn update(
    store: &dyn Store,
    pki: &Pki,
    change: impl Fn(&mut BTreeSet<String>, BTreeSet<String>),
) -> Result<()> {
    let own = pki.fingerprints()?;
    loop {
        let (found, _) = store.get(KEY, None).await.context("read the fingerprints of the cluster's keys")?;
        let mut known: Fingerprints = match &found {
            Some(entry) => serde_json::from_slice(&entry.value).with_context(|| {
                format!("{KEY} in the store is not readable; it lists the cluster's keys")
            })?,
            None => own.clone(),
        };
        let foreign = foreign(&known, &own);
        if !foreign.is_empty() {
            bail!(
                "{} differ from those of the servers that use this store: {}. Stop this server, copy {} from a running \
                 server of the cluster to {}, and start again; they are secret, and belong to root with mode 0600",
                pki.folder().display(),
                foreign.join(", "),
                pki.shared_files().join(", "),
                pki.folder().display(),
            );
        }
        let before = known.clone();
        for (name, hashes) in &own {
            change(known.entry(name.clone()).or_default(), hashes.clone());
        }
        if found.is_some() && known == before {
            return Ok(());
        }
        let expect = found.map_or(Expect::Absent, |entry| Expect::Revision(entry.modified));
        match store.put(KEY, serde_json::to_vec(&known)?.into(), expect).await {
            Ok(_) => return Ok(()),
            // Another server recorded its keys first.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("record the fingerprints of the cluster's keys"),
        }
    }
}

/// The names of keys of which the cluster knows none that this server has. A rotation in progress has both.
fn foreign(known: &Fingerprints, own: &Fingerprints) -> Vec<String> {
    let is_foreign = |(name, own): &(&String, &BTreeSet<String>)| {
        known.get(*name).is_some_and(|known| known.is_disjoint(own))
    };
    own.iter().filter(is_foreign).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_in_progress_is_the_cluster_and_other_keys_are_not() {
        let keys = |hashes: &[&str]| {
            Fingerprints::from([("ca".to_owned(), hashes.iter().map(|hash| (*hash).to_owned()).collect())])
        };
        assert!(foreign(&keys(&["old"]), &keys(&["old", "new"])).is_empty());
        assert!(foreign(&keys(&["old", "new"]), &keys(&["new"])).is_empty());
        assert_eq!(foreign(&keys(&["new"]), &keys(&["old"])), ["ca"]);
    }
}
