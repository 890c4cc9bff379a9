//! The input and the result of authorisation.

use std::collections::BTreeMap;

use crate::identity::Identity;

/// The attributes of a request on which authorisation depends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) user: &'a str,
    pub(crate) groups: &'a [String],
    pub(crate) uid: &'a str,
    /// `None`: no extra fields.
    pub(crate) extra: Option<&'a BTreeMap<String, Vec<String>>>,
    /// get, list, watch, create, update, patch, delete, deletecollection, or a special one; for paths the method in
    /// lower case.
    pub(crate) verb: &'a str,
    /// Empty: the core group.
    pub(crate) group: &'a str,
    /// Empty for what is not of a version.
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    /// Empty: all objects, or the name is not known yet.
    pub(crate) name: &'a str,
    /// Empty: no namespace, or all of them.
    pub(crate) namespace: &'a str,
    /// Empty for a request for a resource.
    pub(crate) path: &'a str,
    /// The field selector of a list, a watch or a deletion of a collection, as the query has it; empty without.
    pub(crate) field_selector: &'a str,
    /// Its label selector.
    pub(crate) label_selector: &'a str,
}

impl Attributes<'_> {
    /// A path that is none, for a question about an empty path: only `*` covers it.
    pub(crate) const NO_PATH: &'static str = "\0";
}

impl<'a> Attributes<'a> {
    /// Of a user, for a request that is yet to be said.
    pub(crate) fn of(identity: &'a Identity) -> Attributes<'a> {
        Attributes {
            user: &identity.user,
            groups: &identity.groups,
            uid: &identity.uid,
            extra: Some(&identity.extra),
            ..Attributes::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The role and binding that allow it.
    Allow(String),
    /// The reason, which may be empty. No other authorizer is asked.
    Deny(String),
    /// The reason, which may be empty.
    NoOpinion(String),
    /// An authorizer that might allow or deny it could not be asked. The request is not allowed.
    Failed(String),
}

impl Decision {
    pub(crate) fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}
