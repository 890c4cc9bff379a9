//! What follows for a dependent from the server's answers about its owners. PURE.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::graph::{FOREGROUND, ORPHAN};
use crate::action::Propagation;

/// What the server says about one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    Present,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// The server serves the kind and has no object of this name with this uid.
    Absent,
    /// The server cannot be asked: it does not serve the kind in this version now.
    Unresolvable,
    /// A cluster-wide object names an owner of a kind that lives in namespaces.
    WrongScope,
}

/// Of a live owner, from its metadata.
pub(super) fn state_of(live: &ObjectMeta) -> OwnerState {
    match live.deletion_timestamp.is_some() && has(live, FOREGROUND) {
        true => OwnerState::Waiting,
        false => OwnerState::Present,
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Keep,
    /// Nothing is done about a dependent with such an owner, whatever its other owners are.
    Unresolvable,
    WrongScope,
    Delete(Propagation),
    /// Some owner lives: only these references stay.
    KeepOwners(Vec<OwnerReference>),
}

/// `live`: the dependent as it is now; `states`: of its owners, in their order.
pub(super) fn judge(live: &ObjectMeta, states: &[OwnerState], has_dependents: bool) -> Verdict {
    let any = |state: OwnerState| states.contains(&state);
    let owners = live.owner_references.as_deref().unwrap_or_default();
    let deleting = live.deletion_timestamp.is_some();
    if deleting || owners.is_empty() || states.iter().all(|state| *state == OwnerState::Present) {
        return Verdict::Keep;
    }
    if any(OwnerState::Unresolvable) {
        return Verdict::Unresolvable;
    }
    if any(OwnerState::WrongScope) {
        return Verdict::WrongScope;
    }
    if any(OwnerState::Present) {
        let living = owners.iter().zip(states).filter(|(_, state)| **state == OwnerState::Present);
        return Verdict::KeepOwners(living.map(|(owner, _)| owner.clone()).collect());
    }
    Verdict::Delete(if any(OwnerState::Waiting) && has_dependents {
        Propagation::Foreground
    } else if has(live, ORPHAN) {
        Propagation::Orphan
    } else if has(live, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

#[cfg(test)]
mod tests {
    use OwnerState::{Absent, Present, Unresolvable, Waiting, WrongScope};
    use Propagation::{Background, Foreground, Orphan};
    use jiff::Timestamp;

    use super::*;
    use crate::meta;

    fn dependent(owners: usize, finalizers: &[&str]) -> ObjectMeta {
        let owner = |n| OwnerReference { uid: format!("owner-{n}"), ..Default::default() };
        ObjectMeta {
            owner_references: Some((0..owners).map(owner).collect()),
            finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
            ..Default::default()
        }
    }

    /// The numbers of the owners that stay.
    fn keep_owners(owners: &[usize]) -> Verdict {
        let owner = |n| OwnerReference { uid: format!("owner-{n}"), ..Default::default() };
        Verdict::KeepOwners(owners.iter().map(owner).collect())
    }

    #[test]
    fn a_dependent_is_deleted_only_if_every_owner_is_known_to_be_gone() {
        let rows: &[(&[OwnerState], Verdict)] = &[
            (&[], Verdict::Keep),
            (&[Present], Verdict::Keep),
            (&[Present, Present], Verdict::Keep),
            (&[Absent], Verdict::Delete(Background)),
            (&[Absent, Absent], Verdict::Delete(Background)),
            (&[Waiting], Verdict::Delete(Background)),
            (&[Waiting, Absent], Verdict::Delete(Background)),
            (&[Unresolvable], Verdict::Unresolvable),
            (&[Unresolvable, Absent], Verdict::Unresolvable),
            (&[Absent, Unresolvable], Verdict::Unresolvable),
            (&[Waiting, Unresolvable], Verdict::Unresolvable),
            (&[Present, Unresolvable], Verdict::Unresolvable),
            (&[WrongScope], Verdict::WrongScope),
            (&[WrongScope, Absent], Verdict::WrongScope),
            (&[Absent, WrongScope], Verdict::WrongScope),
            (&[Waiting, WrongScope], Verdict::WrongScope),
            (&[Present, WrongScope], Verdict::WrongScope),
            (&[Present, Absent], keep_owners(&[0])),
            (&[Absent, Present, Waiting, Present], keep_owners(&[1, 3])),
            (&[Waiting, Present], keep_owners(&[1])),
        ];
        let wrong: Vec<_> = rows
            .iter()
            .map(|(states, wanted)| (states, wanted, judge(&dependent(states.len(), &[]), states, false)))
            .filter(|(_, wanted, got)| *wanted != got)
            .collect();
        assert!(wrong.is_empty(), "(owners, wanted, got): {wrong:#?}");
    }

    #[test]
    fn the_propagation_follows_the_owners_and_the_finalizers() {
        let rows: &[(OwnerState, &[&str], bool, Propagation)] = &[
            (Absent, &[], true, Background),
            (Absent, &[ORPHAN], false, Orphan),
            (Absent, &[FOREGROUND], false, Foreground),
            (Absent, &[FOREGROUND, ORPHAN], false, Orphan),
            (Waiting, &[], false, Background),
            (Waiting, &[], true, Foreground),
            (Waiting, &[ORPHAN], true, Foreground),
            (Waiting, &[ORPHAN], false, Orphan),
        ];
        for (state, finalizers, has_dependents, wanted) in rows {
            let got = judge(&dependent(1, finalizers), &[*state], *has_dependents);
            assert_eq!(got, Verdict::Delete(*wanted), "{state:?} {finalizers:?} {has_dependents}");
        }
    }

    #[test]
    fn a_dependent_that_is_being_deleted_is_left_alone() {
        let mut live = dependent(1, &["example.com/hold"]);
        live.deletion_timestamp = Some(meta::time(Timestamp::UNIX_EPOCH));
        assert_eq!(judge(&live, &[Absent], true), Verdict::Keep);
    }

    #[test]
    fn an_owner_that_waits_for_its_dependents_is_not_one_that_is_merely_deleted() {
        let mut owner = dependent(0, &[FOREGROUND]);
        assert_eq!(state_of(&owner), Present, "it is not being deleted");
        owner.deletion_timestamp = Some(meta::time(Timestamp::UNIX_EPOCH));
        assert_eq!(state_of(&owner), Waiting);
        owner.finalizers = None;
        assert_eq!(state_of(&owner), Present, "its own finalizers may hold it for long");
    }
}
