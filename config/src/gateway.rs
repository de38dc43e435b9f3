//! `[gateway]`: the addresses that Gateways get.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::as_string;

/// Addresses of Gateways (Gateway API, not of Ingresses).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// The virtual IPs that Gateways get, each its own: one of each family that is here. Default none: Gateways are
    /// served on every address of the node, or those that they name. At most 64 ranges that do not overlap. Gateways
    /// that get none are counted in `ringway_gateways_without_address`.
    pub address_pool: Vec<AddressRange>,
    /// The interface that an address of the pool is added to while a Gateway has it, and removed from afterwards. Default
    /// empty: somebody else brings addresses up; they are listened on before they are there. At most 15 bytes.
    pub interface: String,
}

/// Addresses from one to another, written `10.0.0.10-10.0.0.20`, `2001:db8::/120` or `10.0.0.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a range was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// Not of one of the three forms.
    Form,
    /// The last address is below the first, or of the other family.
    Order,
    /// Nobody can have such an address.
    Address,
}

impl AddressRange {
    /// The first and the last address: of one family, in this order.
    #[must_use]
    pub fn bounds(&self) -> (IpAddr, IpAddr) {
        (self.first, self.last)
    }

    /// Is it in there?
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4() && self.first <= ip && ip <= self.last
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let ip = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| RangeError::Form);
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (ip(first)?, ip(last)?)
        } else if text.contains('/') {
            hosts(text.trim().parse().map_err(|_| RangeError::Form)?)?
        } else {
            (ip(text)?, ip(text)?)
        };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(RangeError::Order);
        }
        if is_nobodys(first) || is_nobodys(last) {
            return Err(RangeError::Address);
        }
        Ok(Self { first, last })
    }
}

fn is_nobodys(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast()
}

/// The first and the last address that a host may have: of an IPv4 network not its own and not that of its broadcasts, but
/// where it has only two (RFC 3021).
fn hosts(net: IpNet) -> Result<(IpAddr, IpAddr), RangeError> {
    let (first, last) = (net.network(), net.broadcast());
    if is_nobodys(first) || is_nobodys(last) {
        return Err(RangeError::Address);
    }
    Ok(match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if net.prefix_len() < 31 => {
            let (first, last) = (u32::from(first) + 1, u32::from(last) - 1);
            (Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into())
        }
        bounds => bounds,
    })
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "expected 10.0.0.10-10.0.0.20, 2001:db8::/120 or 10.0.0.7",
            Self::Order => "the last address must not be below the first, and of its family",
            Self::Address => "unspecified and multicast addresses belong to nobody",
        })
    }
}

impl std::error::Error for RangeError {}

as_string!(AddressRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_networks_and_single_addresses_are_read() {
        for (text, first, last) in [
            ("10.0.0.10-10.0.0.20", "10.0.0.10", "10.0.0.20"),
            ("10.0.0.4/30", "10.0.0.5", "10.0.0.6"),
            ("10.0.0.4/31", "10.0.0.4", "10.0.0.5"),
            ("10.0.0.4/32", "10.0.0.4", "10.0.0.4"),
            ("2001:db8::/120", "2001:db8::", "2001:db8::ff"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ] {
            let range: AddressRange = text.parse().unwrap();
            assert_eq!(range.bounds(), (first.parse().unwrap(), last.parse().unwrap()), "{text}");
            assert_eq!(range.to_string().parse(), Ok(range));
            assert!(range.contains(range.first) && range.contains(range.last));
            assert!(!range.contains("::1".parse().unwrap()));
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, why) in [
            ("", RangeError::Form),
            ("vip", RangeError::Form),
            ("10.0.0.0/33", RangeError::Form),
            ("10.0.0.9-10.0.0.1", RangeError::Order),
            ("10.0.0.9-2001:db8::1", RangeError::Order),
            ("0.0.0.0/0", RangeError::Address),
            ("224.0.0.1", RangeError::Address),
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(why), "{text:?}");
        }
    }
}
