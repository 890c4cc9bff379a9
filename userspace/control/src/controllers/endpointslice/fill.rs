//! Where unplaced endpoints go among existing slices. PURE.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

pub(super) const MAX_ENDPOINTS_PER_SLICE: usize = 100;

/// Fills slices that change anyway, the fullest first. A remainder that would not fill a new slice goes as a whole into
/// the fullest other slice that has room for it.
pub(super) fn fill(slices: &mut [(Arc<EndpointSlice>, Vec<Endpoint>)], unplaced: &mut Vec<Endpoint>) {
    let changes = |slice: &EndpointSlice, kept: &[Endpoint]| {
        !kept.is_empty() && slice.endpoints.as_deref().unwrap_or_default() != kept
    };
    let mut changing: Vec<&mut Vec<Endpoint>> =
        slices.iter_mut().filter(|(slice, kept)| changes(slice, kept)).map(|(_, kept)| kept).collect();
    changing.sort_by_key(|kept| Reverse(kept.len()));
    for kept in changing {
        let room = MAX_ENDPOINTS_PER_SLICE.saturating_sub(kept.len()).min(unplaced.len());
        kept.extend(unplaced.drain(..room));
    }
    let rest = unplaced.len() % MAX_ENDPOINTS_PER_SLICE;
    let fits = slices.iter_mut().filter(|(_, kept)| rest > 0 && kept.len() + rest <= MAX_ENDPOINTS_PER_SLICE);
    if let Some((_, kept)) = fits.max_by_key(|(_, kept)| kept.len()) {
        kept.extend(unplaced.drain(unplaced.len() - rest..));
    }
}
