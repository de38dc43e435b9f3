//! Cookie affinity: a cookie's value names an endpoint without telling its address.
//!
//! The value is a hash of cluster name and address, the same on every worker and node, so that any of them
//! honours a cookie that another one set. It is a hint, not a secret: a forged value can only choose among the
//! endpoints that the request may use anyway.

use std::net::SocketAddr;

use super::hash;

/// Characters of a cookie's value.
pub const VALUE_LEN: usize = 16;

/// What an affinity cookie says for the endpoint at `addr` in the cluster of this name.
#[must_use]
pub fn affinity_of(cluster: &str, addr: SocketAddr) -> u64 {
    hash::finish(hash::seed(cluster, addr))
}

/// The cookie's value: 16 hexadecimal digits in lower case.
#[must_use]
pub fn format(affinity: u64) -> [u8; VALUE_LEN] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut value = [0; VALUE_LEN];
    for (nth, byte) in affinity.to_be_bytes().into_iter().enumerate() {
        value[2 * nth] = DIGITS[usize::from(byte >> 4)];
        value[2 * nth + 1] = DIGITS[usize::from(byte & 15)];
    }
    value
}

/// Reads a value that [`format()`] wrote; `None` for anything else.
#[must_use]
pub fn parse(value: &[u8]) -> Option<u64> {
    if value.len() != VALUE_LEN {
        return None;
    }
    value.iter().try_fold(0, |affinity, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(affinity << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_reads_back() {
        for affinity in [0, 1, u64::MAX, affinity_of("alpha", SocketAddr::from(([10, 0, 0, 1], 80)))] {
            assert_eq!(parse(&format(affinity)), Some(affinity));
        }
        for bad in [&b""[..], b"0", b"00000000000000000", b"000000000000000G", b"000000000000000A"] {
            assert_eq!(parse(bad), None);
        }
    }
}
