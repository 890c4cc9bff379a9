//! The approval annotation of definitions in the groups of the Kubernetes community (KEP-1111).

use serde_json::Value;

use crate::value::text;

pub(super) const API_APPROVED: &str = "api-approved.kubernetes.io";

/// What the annotation of a definition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    Missing,
    /// A reason that begins with `unapproved`.
    Bypassed,
    /// A URL.
    Given,
    Invalid,
}

pub(super) fn approval(object: &Value) -> Approval {
    let annotation = text(&object["metadata"]["annotations"][API_APPROVED]);
    match annotation.split_once("://") {
        _ if annotation.is_empty() => Approval::Missing,
        _ if annotation.starts_with("unapproved") => Approval::Bypassed,
        Some((scheme, host)) if !scheme.is_empty() && !host.is_empty() => Approval::Given,
        _ => Approval::Invalid,
    }
}

/// Whether a group belongs to the Kubernetes community.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}
