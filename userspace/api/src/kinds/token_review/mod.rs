//! TokenReviews: the identity behind a token. Never stored.

use crate::kinds::row::{CREATE, Row};

pub(super) const ROW: Row = Row {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    verbs: CREATE,
    schema: "api.authentication.v1.TokenReview",
    ..Row::CLUSTER
};
