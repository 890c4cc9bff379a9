//! SelfSubjectReviews: the requester's own identity. Never stored.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    verbs: CREATE,
    schema: "api.authentication.v1.SelfSubjectReview",
    ..Row::CLUSTER
};
