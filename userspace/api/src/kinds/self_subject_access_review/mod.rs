//! SelfSubjectAccessReviews: whether the requester may do something. Never stored.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    group: "authorization.k8s.io",
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    verbs: CREATE,
    schema: "api.authorization.v1.SelfSubjectAccessReview",
    ..Row::CLUSTER
};
