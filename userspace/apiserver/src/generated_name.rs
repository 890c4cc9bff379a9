//! Names made from `metadata.generateName`.

use rand::Rng as _;

/// Characters of generated names: none that form words or look alike, as upstream's.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Upstream's limit of a generated name's base, so that the suffix fits.
const MAX_NAME_BASE_LENGTH: usize = 58;

/// `base`, cut to its limit, and five random characters.
pub(crate) fn generate_name(base: &str) -> String {
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    let end = base.char_indices().nth(MAX_NAME_BASE_LENGTH).map_or(base.len(), |(at, _)| at);
    base[..end].chars().chain(suffix).collect()
}
