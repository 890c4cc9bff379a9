//! Apache's variant of the MD5 password hash, `$apr1$`, which htpasswd(1) writes by default.

use md5::{Digest, Md5};

const MAGIC: &[u8] = b"$apr1$";
const ROUNDS: usize = 1_000;
const MAX_SALT_BYTES: usize = 8;
/// Six bits each.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The bytes of the digest in the order of the text, three for four characters.
const ORDER: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];

/// The text after the salt.
pub(super) fn hash(password: &str, salt: &str) -> String {
    let (password, salt) = (password.as_bytes(), salt.as_bytes());
    let salt = salt.get(..MAX_SALT_BYTES).unwrap_or(salt);
    let mut digest = first(password, salt);
    for round in 0..ROUNDS {
        let mut next = Md5::new();
        let of_turn = |is_password: bool| if is_password { password } else { &digest[..] };
        next.update(of_turn(round % 2 == 1));
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(of_turn(round % 2 == 0));
        digest = next.finalize().into();
    }
    text(&digest)
}

fn first(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner: [u8; 16] =
        Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize().into();
    let mut all = Md5::new().chain_update(password).chain_update(MAGIC).chain_update(salt);
    let mut left = password.len();
    while left > 0 {
        let count = left.min(inner.len());
        all.update(&inner[..count]);
        left -= count;
    }
    let mut bits = password.len();
    while bits > 0 {
        let byte = if bits & 1 == 1 { 0 } else { password[0] };
        all.update([byte]);
        bits >>= 1;
    }
    all.finalize().into()
}

fn text(digest: &[u8; 16]) -> String {
    let mut out = String::with_capacity(22);
    let mut write = |value: usize, digits: usize| {
        for at in 0..digits {
            out.push(char::from(DIGITS[value >> (6 * at) & 63]));
        }
    };
    for [high, middle, low] in ORDER {
        let of = |at: usize| usize::from(digest[at]);
        write(of(high) << 16 | of(middle) << 8 | of(low), 4);
    }
    write(usize::from(digest[11]), 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As openssl-passwd(1) has them.
    #[test]
    fn texts_are_those_of_other_programs() {
        for (password, salt, wanted) in [
            ("password", "salt1234", "k3J5yKYW6TlGmTytnkXbQ0"),
            ("a long pass phrase with more than sixteen bytes", "abc", "KdmBjr0JbYFHd0caiSkhu."),
            ("", "xy", "43..WIhbfuznGvwoCyUek/"),
        ] {
            assert_eq!(hash(password, salt), wanted, "{password}");
        }
    }
}
