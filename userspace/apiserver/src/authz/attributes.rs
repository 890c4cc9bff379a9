//! The input and the result of authorisation.

/// The attributes of a request on which authorisation depends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) user: &'a str,
    pub(crate) groups: &'a [String],
    /// get, list, watch, create, update, patch, delete, deletecollection, or a special one; for paths the method in
    /// lower case.
    pub(crate) verb: &'a str,
    /// Empty: the core group.
    pub(crate) group: &'a str,
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The role and binding that allow it.
    Allow(String),
    /// The reason, which may be empty.
    NoOpinion(String),
}

impl Decision {
    pub(crate) fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}
