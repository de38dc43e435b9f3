//! Comparing a password with what an htpasswd file says of it. Pure; slow by design of the hashes.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use md5::{Digest, Md5};
use routing::model::{PasswordHash, ShaCrypt};

/// crypt(3)'s digits, the least one first.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Is it this password? Takes the same time wherever the two digests differ.
#[must_use]
pub fn verify(password: &[u8], hash: &PasswordHash) -> bool {
    let same = |a: &[u8], b: &[u8]| verify_slices_are_equal(a, b).is_ok();
    match hash {
        PasswordHash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        PasswordHash::Md5Crypt { magic, salt, digest } => {
            same(&md5_crypt(password, magic.as_bytes(), salt.as_bytes()), digest.as_bytes())
        }
        PasswordHash::ShaCrypt { kind, rounds, salt, digest } => {
            same(&sha_crypt(password, *kind, *rounds, salt.as_bytes()), digest.as_bytes())
        }
        PasswordHash::Sha1 { digest, salt } => {
            let mut hash = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(password);
            hash.update(salt);
            same(hash.finish().as_ref(), digest)
        }
        // Their digests: equal times for unequal lengths, too.
        PasswordHash::Plain(plain) => {
            let digest = |bytes: &[u8]| digest::digest(&SHA256, bytes);
            same(digest(password).as_ref(), digest(plain.as_bytes()).as_ref())
        }
    }
}

/// Poul-Henning Kamp's MD5 crypt, of which Apache's differs by its `magic`.
fn md5_crypt(password: &[u8], magic: &[u8], salt: &[u8]) -> Vec<u8> {
    let inner: [u8; 16] =
        Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize().into();
    let mut hash = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    repeat(password.len(), &inner, |part| hash.update(part));
    let mut length = password.len();
    while length > 0 {
        hash.update(if length & 1 == 1 { &[0][..] } else { &password[..1] });
        length >>= 1;
    }
    let mut sum: [u8; 16] = hash.finalize().into();
    for round in 0..1000 {
        let mut hash = Md5::new();
        hash.update(if round & 1 == 1 { password } else { &sum[..] });
        if round % 3 != 0 {
            hash.update(salt);
        }
        if round % 7 != 0 {
            hash.update(password);
        }
        hash.update(if round & 1 == 1 { &sum[..] } else { password });
        sum = hash.finalize().into();
    }
    let mut out = Vec::with_capacity(22);
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        digits(&mut out, [sum[a], sum[b], sum[c]], 4);
    }
    digits(&mut out, [0, 0, sum[11]], 2);
    out
}

/// Ulrich Drepper's SHA-crypt.
fn sha_crypt(password: &[u8], kind: ShaCrypt, rounds: u32, salt: &[u8]) -> Vec<u8> {
    let algorithm = match kind {
        ShaCrypt::Sha256 => &SHA256,
        ShaCrypt::Sha512 => &SHA512,
    };
    let of = |parts: &[&[u8]]| {
        let mut hash = digest::Context::new(algorithm);
        parts.iter().for_each(|part| hash.update(part));
        hash.finish()
    };
    let inner = of(&[password, salt, password]);
    let mut hash = digest::Context::new(algorithm);
    hash.update(password);
    hash.update(salt);
    repeat(password.len(), inner.as_ref(), |part| hash.update(part));
    let mut length = password.len();
    while length > 0 {
        hash.update(if length & 1 == 1 { inner.as_ref() } else { password });
        length >>= 1;
    }
    let mut sum = hash.finish();
    let mut hash = digest::Context::new(algorithm);
    password.iter().for_each(|_| hash.update(password));
    let mut p = Vec::with_capacity(password.len());
    repeat(password.len(), hash.finish().as_ref(), |part| p.extend_from_slice(part));
    let mut hash = digest::Context::new(algorithm);
    (0..16 + usize::from(sum.as_ref()[0])).for_each(|_| hash.update(salt));
    let mut s = Vec::with_capacity(salt.len());
    repeat(salt.len(), hash.finish().as_ref(), |part| s.extend_from_slice(part));
    for round in 0..rounds {
        let odd = round & 1 == 1;
        let (first, last) = if odd { (&p[..], sum.as_ref()) } else { (sum.as_ref(), &p[..]) };
        let salted: &[u8] = if round % 3 != 0 { &s } else { &[] };
        let again: &[u8] = if round % 7 != 0 { &p } else { &[] };
        sum = of(&[first, salted, again, last]);
    }
    transposed(kind, sum.as_ref())
}

/// The digest in the order in which SHA-crypt writes it.
fn transposed(kind: ShaCrypt, sum: &[u8]) -> Vec<u8> {
    let (groups, step) = match kind {
        ShaCrypt::Sha256 => (10, 10),
        ShaCrypt::Sha512 => (21, 21),
    };
    let mut out = Vec::with_capacity(86);
    let mut at = [0, step, 2 * step];
    for _ in 0..groups {
        digits(&mut out, at.map(|at| sum[at]), 4);
        // Each group begins where another place of the last one ended.
        at = match kind {
            ShaCrypt::Sha256 => [at[2] + 1, at[0] + 1, at[1] + 1],
            ShaCrypt::Sha512 => [at[1] + 1, at[2] + 1, at[0] + 1],
        };
    }
    match kind {
        ShaCrypt::Sha256 => digits(&mut out, [0, sum[31], sum[30]], 3),
        ShaCrypt::Sha512 => digits(&mut out, [0, 0, sum[63]], 2),
    }
    out
}

/// Hands out `length` bytes of `pattern`, over and over.
fn repeat(length: usize, pattern: &[u8], mut take: impl FnMut(&[u8])) {
    let mut left = length;
    while left > 0 {
        let part = &pattern[..left.min(pattern.len())];
        take(part);
        left -= part.len();
    }
}

/// 24 bits, the last byte lowest, as so many digits.
fn digits(out: &mut Vec<u8>, [a, b, c]: [u8; 3], count: usize) {
    let mut bits = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
    for _ in 0..count {
        out.push(DIGITS[(bits & 63) as usize]);
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn md5(magic: &'static str, salt: &str, digest: &str) -> PasswordHash {
        PasswordHash::Md5Crypt { magic, salt: salt.into(), digest: digest.into() }
    }

    fn sha(kind: ShaCrypt, rounds: u32, salt: &str, digest: &str) -> PasswordHash {
        PasswordHash::ShaCrypt { kind, rounds, salt: salt.into(), digest: digest.into() }
    }

    /// As `openssl passwd` and crypt(3) of libxcrypt write them.
    #[test]
    fn hashes_of_other_hands_prove_their_password_and_no_other() {
        use ShaCrypt::{Sha256, Sha512};
        let long =
            "a password that is longer than any one of the digests that it is hashed to, sixty-four bytes";
        for (password, hash) in [
            ("secret", md5("$apr1$", "abcdefgh", "h9FWgUz3n9YxylKLlR5SQ/")),
            ("secret", md5("$1$", "abcdefgh", "cHJi5PXp/ki/ktXzqlk6I1")),
            ("secret", sha(Sha256, 5000, "abcdefgh", "gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.")),
            ("secret", sha(Sha256, 1000, "abcdefgh", "XIppta5rT8zJUu4vAOKQXrwq9uY4Ijlz6VjyOmkx5i4")),
            (
                "secret",
                sha(
                    Sha512,
                    5000,
                    "abcdefgh",
                    "ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.",
                ),
            ),
            (
                "secret",
                sha(
                    Sha512,
                    1000,
                    "abcdefgh",
                    "nhYjN017qxiYztzyUpZtPnUQcnLy62KsunSLHNeLahp2EHPlAKmFFlrjEwSXGo2kgY5hR2.peKEg2VGUqIJJu1",
                ),
            ),
            (
                "secret",
                PasswordHash::Bcrypt("$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW".into()),
            ),
            ("secret", PasswordHash::Plain("secret".into())),
            ("secret", PasswordHash::Sha1 { digest: sha1("secret", ""), salt: Arc::from([]) }),
            (long, md5("$apr1$", "x", LONG_APR1)),
            (long, sha(Sha256, 5000, "x", LONG_SHA256)),
            (long, sha(Sha512, 5000, "x", LONG_SHA512)),
            ("", md5("$apr1$", "x", EMPTY_APR1)),
        ] {
            assert!(verify(password.as_bytes(), &hash), "{password} {hash:?}");
            assert!(!verify(format!("{password}x").as_bytes(), &hash), "{password}x {hash:?}");
            assert!(!verify(b"Secret", &hash), "{hash:?}");
        }
    }

    fn sha1(password: &str, salt: &str) -> [u8; 20] {
        let digest = digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{password}{salt}").as_bytes());
        digest.as_ref().try_into().unwrap()
    }

    const LONG_APR1: &str = "nFhcBm3tl7meQyS7I02WY/";
    const LONG_SHA256: &str = "URrAa3X2nrvRpmAyarRO4tF0OdZPED.EW1Ldw8cMZ5C";
    const LONG_SHA512: &str =
        "9XNow.1QGYlRzCCSdWYt1J0UW7ixJigpWgK4wQqwtVKXgd8AzLwC9BIiyj6rAVTSRzLxTo0OwlXO1pdT3dcrB.";
    const EMPTY_APR1: &str = "tMwYqBfQwi3FYAr0aJc8M/";
}
