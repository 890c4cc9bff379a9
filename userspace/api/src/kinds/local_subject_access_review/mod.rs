//! LocalSubjectAccessReviews: what a subject may do in one namespace. Never stored.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    group: "authorization.k8s.io",
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    verbs: CREATE,
    schema: "api.authorization.v1.LocalSubjectAccessReview",
    ..Row::NAMESPACED
};
