//! SubjectAccessReviews: whether a subject may do something. Never stored.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    group: "authorization.k8s.io",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    verbs: CREATE,
    schema: "api.authorization.v1.SubjectAccessReview",
    ..Row::CLUSTER
};
