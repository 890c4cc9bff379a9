//! Why an autoscaler cannot go on. PURE.

/// The text is that of conditions and Events, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AutoscalerError(pub(crate) String);

impl From<String> for AutoscalerError {
    fn from(text: String) -> AutoscalerError {
        AutoscalerError(text)
    }
}

impl From<&str> for AutoscalerError {
    fn from(text: &str) -> AutoscalerError {
        AutoscalerError(text.to_owned())
    }
}
