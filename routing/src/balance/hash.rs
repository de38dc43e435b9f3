//! Consistent hashing: the same key goes to the same endpoint, on every worker and every node of ours.
//!
//! The hash is FNV-1a with a finaliser: written out here because its values must be the same in every release that
//! may run beside this one. The controller builds rings with [`ring`]; workers only search them.

use std::net::{IpAddr, SocketAddr};

use crate::id::EndpointId;
use crate::model::HashRing;

/// Points of one endpoint on its ring: shares stay within about ±25 % of even.
pub const POINTS_PER_ENDPOINT: usize = 64;

/// Most points of one ring (16 MiB, shared by all workers). Beyond 16,384 endpoints each gets fewer points.
pub const RING_POINTS_MAX: usize = 1 << 20;

/// The place of `bytes` on a ring.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    finish(fnv(FNV_OFFSET, bytes))
}

/// The ring of one backend in the cluster of this name.
///
/// An endpoint's points depend only on the cluster's name and its address: adding or removing one moves only the
/// keys of that one.
#[must_use]
pub fn ring(cluster: &str, endpoints: &[(EndpointId, SocketAddr)]) -> HashRing {
    let each = (RING_POINTS_MAX / endpoints.len().max(1)).clamp(1, POINTS_PER_ENDPOINT);
    let mut points: Vec<(u64, EndpointId)> = Vec::with_capacity(each * endpoints.len());
    for (id, addr) in endpoints {
        let seed = seed(cluster, *addr);
        let nth = (0u64..).take(each).map(|nth| (finish(fnv(seed, &nth.to_le_bytes())), *id));
        points.extend(nth);
    }
    points.sort_unstable();
    HashRing { points: points.into() }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

pub(crate) fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// Spreads the state over all bits (the finaliser of SplitMix64): FNV's high bits alone are weak on short keys.
pub(crate) fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The hash state of an endpoint, before it is finished or extended.
pub(crate) fn seed(cluster: &str, addr: SocketAddr) -> u64 {
    // The zero byte keeps ("a", "b…") and ("ab", "…") apart: it is in no cluster's name.
    let state = fnv(fnv(FNV_OFFSET, cluster.as_bytes()), &[0]);
    fnv(ip(state, addr.ip()), &addr.port().to_be_bytes())
}

/// The place of a client's address on a ring; the port does not count.
pub(crate) fn source(peer: SocketAddr) -> u64 {
    finish(ip(FNV_OFFSET, peer.ip()))
}

fn ip(state: u64, ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => fnv(state, &v4.octets()),
        IpAddr::V6(v6) => fnv(state, &v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 8080))
    }

    fn owner(ring: &HashRing, key: u64) -> EndpointId {
        let at = ring.points.partition_point(|(point, _)| *point < key);
        ring.points[at % ring.points.len()].1
    }

    #[test]
    fn hash_values_are_frozen() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"ringway"), 0x76f6e3bd6cab0f12);
    }

    #[test]
    fn removing_an_endpoint_moves_only_its_own_keys() {
        let all: Vec<_> = (0..20).map(|n| (EndpointId(n), addr(n))).collect();
        let before = ring("alpha", &all);
        let after = ring("alpha", &all[1..]);
        for key in (0..10_000u64).map(finish) {
            let owned = owner(&before, key);
            if owned != EndpointId(0) {
                assert_eq!(owned, owner(&after, key));
            }
        }
    }

    #[test]
    fn shares_are_near_even() {
        let all: Vec<_> = (0..10).map(|n| (EndpointId(n), addr(n))).collect();
        let ring = ring("alpha", &all);
        let mut counts = [0u32; 10];
        for key in (0..100_000u64).map(finish) {
            counts[owner(&ring, key).index()] += 1;
        }
        assert!(counts.iter().all(|count| (6_000..14_500).contains(count)), "{counts:?}");
    }
}
