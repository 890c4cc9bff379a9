//! When the node removes images.

use jiff::SignedDuration;

/// How full the images' disk may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSettings {
    /// Images are removed above this many percent. 100: never.
    pub high_percent: u8,
    /// Until so many percent are in use.
    pub low_percent: u8,
    /// An image stays at least so long after it was seen first.
    pub min_age: SignedDuration,
}

impl Default for ImageSettings {
    /// The kubelet's.
    fn default() -> ImageSettings {
        ImageSettings { high_percent: 85, low_percent: 80, min_age: SignedDuration::from_secs(120) }
    }
}
