//! Secrets to names with what proves their passwords: what `htpasswd` and `openssl passwd` write, as nginx reads it.
//!
//! Parsed here, compared by the data plane. A line that cannot be used is reported by its number and name, never with
//! its hash, and lets nobody in; the others hold.

use std::sync::Arc;

use aws_lc_rs::digest::SHA1_OUTPUT_LEN;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use routing::model::{PasswordHash, ShaCrypt, Users};

use crate::compile::annotations::SecretForm;
use crate::object::FleetSecret;

/// Names of one Secret.
pub(super) const USERS_MAX: usize = 10_000;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 256;
/// The bcrypt costs that are compared: beyond the upper one a comparison takes seconds.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 4..=14;
/// Rounds of SHA-crypt, by its definition at least 1,000; beyond the upper bound a comparison takes seconds.
const SHA_ROUNDS: std::ops::RangeInclusive<u32> = 1_000..=1_000_000;
/// Where nothing is said.
const SHA_ROUNDS_DEFAULT: u32 = 5_000;
/// What a hash may be.
const ALLOWED: &str = "bcrypt ($2y$ of cost 4 to 14), $apr1$, $1$, $5$, $6$ (1000 to 1000000 rounds), {SHA}, {SSHA}, \
                       {PLAIN}; not crypt's DES";

/// The names of a Secret, and what is wrong with those that are left out.
pub(super) fn users(secret: &FleetSecret, form: SecretForm) -> (Users, Vec<String>) {
    let mut found = Found::default();
    match form {
        SecretForm::File => match secret.others.get("auth") {
            None => found.wrong.push("data[auth] is missing: an auth-file Secret has it".to_owned()),
            Some(file) => found.file(file),
        },
        SecretForm::Map => {
            for (name, hash) in &secret.others {
                let place = format!("data[{}]", crate::verdict::shown(name));
                match std::str::from_utf8(hash) {
                    Ok(hash) => found.add(&place, name, hash.trim()),
                    Err(_) => found.wrong.push(format!("{place}: not UTF-8")),
                }
            }
        }
    }
    (found.users, found.wrong)
}

#[derive(Default)]
struct Found {
    users: Users,
    wrong: Vec<String>,
}

impl Found {
    fn file(&mut self, file: &[u8]) {
        let Ok(text) = std::str::from_utf8(file) else {
            self.wrong.push("data[auth]: not UTF-8".to_owned());
            return;
        };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("data[auth] line {}", index + 1);
            match line.split_once(':') {
                // What stands behind the hash is a comment, as in nginx.
                Some((name, rest)) => self.add(&place, name, rest.split(':').next().unwrap_or_default()),
                None => self.wrong.push(format!("{place}: allowed: NAME:HASH")),
            }
        }
    }

    fn add(&mut self, place: &str, name: &str, hash: &str) {
        if self.users.len() >= USERS_MAX {
            if self.wrong.last().is_none_or(|last| !last.starts_with("more than")) {
                self.wrong.push(format!("more than {USERS_MAX} names: the rest may not come"));
            }
            return;
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            self.wrong.push(format!("{place}: allowed: names of 1 to {NAME_BYTES_MAX} bytes"));
            return;
        }
        match parse(hash) {
            Some(hash) => {
                if !self.users.add(name, hash) {
                    self.wrong.push(format!("{place}: the name is there already, and the first one holds"));
                }
            }
            None => self.wrong.push(format!("{place}: allowed: {ALLOWED}")),
        }
    }
}

fn parse(hash: &str) -> Option<PasswordHash> {
    if let Some(rest) = hash.strip_prefix("{SHA}") {
        let digest = STANDARD.decode(rest).ok()?.try_into().ok()?;
        return Some(PasswordHash::Sha1 { digest, salt: Arc::from([]) });
    }
    if let Some(rest) = hash.strip_prefix("{SSHA}") {
        let bytes = STANDARD.decode(rest).ok()?;
        let (digest, salt) = bytes.split_at_checked(SHA1_OUTPUT_LEN)?;
        return Some(PasswordHash::Sha1 { digest: digest.try_into().ok()?, salt: Arc::from(salt) });
    }
    if let Some(plain) = hash.strip_prefix("{PLAIN}") {
        return Some(PasswordHash::Plain(Arc::from(plain)));
    }
    for magic in ["$apr1$", "$1$"] {
        if let Some(rest) = hash.strip_prefix(magic) {
            let (salt, digest) = rest.split_once('$')?;
            let salt = &salt.get(..8).unwrap_or(salt);
            let good = is_crypt(digest, 22) && is_crypt(salt, salt.len());
            return good.then(|| PasswordHash::Md5Crypt {
                magic,
                salt: Arc::from(*salt),
                digest: Arc::from(digest),
            });
        }
    }
    if let Some(rest) = hash.strip_prefix("$5$") {
        return sha(ShaCrypt::Sha256, rest, 43);
    }
    if let Some(rest) = hash.strip_prefix("$6$") {
        return sha(ShaCrypt::Sha512, rest, 86);
    }
    bcrypt(hash)
}

fn sha(kind: ShaCrypt, rest: &str, length: usize) -> Option<PasswordHash> {
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => {
            let (rounds, rest) = rest.split_once('$')?;
            (rounds.parse().ok()?, rest)
        }
        None => (SHA_ROUNDS_DEFAULT, rest),
    };
    let (salt, digest) = rest.split_once('$')?;
    let salt = salt.get(..16).unwrap_or(salt);
    let good = SHA_ROUNDS.contains(&rounds) && is_crypt(digest, length) && is_crypt(salt, salt.len());
    good.then(|| PasswordHash::ShaCrypt { kind, rounds, salt: Arc::from(salt), digest: Arc::from(digest) })
}

fn bcrypt(hash: &str) -> Option<PasswordHash> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|version| hash.strip_prefix(version))?;
    let (cost, rest) = rest.split_once('$')?;
    let good = cost.len() == 2 && BCRYPT_COST.contains(&cost.parse().ok()?) && is_crypt(rest, 53);
    good.then(|| PasswordHash::Bcrypt(Arc::from(hash)))
}

/// So many characters of crypt's alphabet.
fn is_crypt(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(hash: &str) -> String {
        parse(hash).map_or_else(|| "none".to_owned(), |hash| format!("{hash:?}"))
    }

    #[test]
    fn hashes_are_told_apart_and_bad_ones_refused() {
        for (hash, expected) in [
            ("$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/", "Md5Crypt"),
            ("$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1", "Md5Crypt"),
            ("$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.", "Sha256Crypt"),
            ("$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "Bcrypt"),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "Sha1"),
            ("{PLAIN}secret", "Plain"),
            ("$2b$31$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "none"),
            ("$2b$04$abcdefghijklmnopqrstuu", "none"),
            ("$6$rounds=999999999$abcdefgh$x", "none"),
            ("$5$rounds=2000000$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.", "none"),
            ("$apr1$abc", "none"),
            ("{SHA}short", "none"),
            ("rqXexS6ZhobKA", "none"),
            ("", "none"),
        ] {
            assert_eq!(kind(hash), expected, "{hash}");
        }
    }

    #[test]
    fn a_bad_line_costs_itself_only_and_no_hash_is_shown() {
        let file = "# staff\nann:{PLAIN}a\n\nbob\ncid:rqXexS6ZhobKA\nann:{PLAIN}b\ndan:{PLAIN}d:a comment\n";
        let others = [("auth".to_owned(), file.as_bytes().to_vec())].into();
        let (users, wrong) = users(&FleetSecret { others, ..FleetSecret::default() }, SecretForm::File);
        assert_eq!(users.len(), 2);
        assert_eq!(users.find("ann"), Some(&PasswordHash::Plain(Arc::from("a"))));
        assert_eq!(users.find("dan"), Some(&PasswordHash::Plain(Arc::from("d"))));
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].starts_with("data[auth] line 4: allowed: NAME:HASH"), "{wrong:?}");
        assert!(wrong.iter().all(|line| !line.contains("rqXexS")), "{wrong:?}");
        assert_eq!(format!("{users:?}"), "Users(2)");
    }

    #[test]
    fn a_map_has_a_name_for_each_key() {
        let others = [
            ("ann".to_owned(), b"$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n".to_vec()),
            ("bob".to_owned(), vec![0xff]),
        ];
        let secret = FleetSecret { others: others.into(), ..FleetSecret::default() };
        let (users, wrong) = users(&secret, SecretForm::Map);
        assert!(users.find("ann").is_some() && users.len() == 1);
        assert_eq!(wrong, ["data[bob]: not UTF-8"]);
    }
}
