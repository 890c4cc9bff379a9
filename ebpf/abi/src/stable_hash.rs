//! A 64-bit hash for identifiers that outlive a process: map values, names of pinned maps, choices that nodes share.
//!
//! In: fields, one call each. Out: a number that is the same on every machine, in every build and in every version.
//! The standard library promises none of that for `DefaultHasher`, nor for what derived `Hash` implementations feed it.
//! The test vectors below must never change: other numbers would make an agent rewrite what its predecessor pinned.

/// FNV-1a over the fields (draft-eastlake-fnv), finished by a mix so that the low 32 bits alone are a good hash too.
/// It has no key, so chosen inputs can collide: callers must stay correct when two inputs have one hash.
#[derive(Clone, Copy, Debug)]
pub struct StableHasher(u64);

impl StableHasher {
    pub const fn new() -> Self {
        StableHasher(0xcbf2_9ce4_8422_2325)
    }

    /// Bytes as they are: only for the last field, or one of a fixed length.
    pub const fn bytes(self, bytes: &[u8]) -> Self {
        let mut state = self.0;
        let mut at = 0;
        while at < bytes.len() {
            state = (state ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        StableHasher(state)
    }

    /// A text after its length, so that it cannot run into the next field.
    pub const fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// Little endian, as the other numbers.
    pub const fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub const fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub const fn u16(self, number: u16) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub const fn u8(self, number: u8) -> Self {
        self.bytes(&[number])
    }

    pub const fn finish(self) -> u64 {
        let hash = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    }
}

impl Default for StableHasher {
    fn default() -> Self {
        StableHasher::new()
    }
}

#[cfg(test)]
mod tests {
    use super::StableHasher;

    #[test]
    fn the_state_is_that_of_fnv_1a() {
        // The vectors of the draft.
        let vectors = [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("b", 0xaf63_df4c_8601_f1a5),
            ("foobar", 0x8594_4171_f739_67e8),
        ];
        let states = vectors.map(|(text, _)| (text, StableHasher::new().bytes(text.as_bytes()).0));
        assert_eq!(states, vectors);
    }

    #[test]
    fn hashes_are_the_same_in_every_version() {
        let hash = StableHasher::new();
        let hashes = [
            hash.finish(),
            hash.bytes(b"foobar").finish(),
            hash.text("foobar").finish(),
            hash.u8(1).u16(2).u32(3).u64(4).finish(),
        ];
        assert_eq!(
            hashes,
            [0xecba_3df2_c338_3c52, 0x6916_ce8b_48d4_bc55, 0xe060_7ec7_c6be_cb90, 0xf540_ced9_89d7_4dec,]
        );
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        let pair = |a, b| StableHasher::new().text(a).text(b).finish();
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
    }
}
