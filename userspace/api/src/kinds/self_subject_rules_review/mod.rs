//! SelfSubjectRulesReviews: everything that the requester may do in a namespace. Never stored.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    group: "authorization.k8s.io",
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    verbs: CREATE,
    schema: "api.authorization.v1.SelfSubjectRulesReview",
    ..Row::CLUSTER
};
