//! Which virtual IP each Gateway gets from the pool.
//!
//! Pure, and the same on every node: it follows from the Gateways alone. What its status says it has a Gateway keeps while
//! it wants it, whoever asks for it later; then the first by age, then by name, get what they ask for in `spec.addresses`; who
//! has none yet gets the one that its name leads to, or the next that is free. So a restart, or another Gateway that comes or goes, moves nobody
//! whose status is written; and the hub's status is only memory: without it the same addresses follow from the names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use gateway_api::experimental::gateways::Gateway;

use crate::object::Object;
use crate::verdict::{Code, Note, Notes, Severity};

/// Addresses for Gateways: `gateway.address_pool`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPool {
    /// First and last address of each range: of one family, in this order, without overlap.
    pub ranges: Vec<(IpAddr, IpAddr)>,
}

/// What a Gateway gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What is said about it.
    pub notes: Notes,
}

/// The two kinds of addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl AddressPool {
    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let within = |(first, last): &(IpAddr, IpAddr)| {
            Family::of(*first) == Family::of(ip) && *first <= ip && ip <= *last
        };
        self.ranges.iter().any(within)
    }

    fn of_family(&self, family: Family) -> impl Iterator<Item = (u128, u128)> + use<'_> {
        let ours = self.ranges.iter().filter(move |(first, _)| Family::of(*first) == family);
        ours.map(|(first, last)| (number(*first), number(*last)))
    }

    fn size(&self, family: Family) -> u128 {
        self.of_family(family).fold(0, |sum: u128, (first, last)| sum.saturating_add(last - first + 1))
    }

    fn nth(&self, family: Family, nth: u128) -> Option<IpAddr> {
        let mut left = nth;
        for (first, last) in self.of_family(family) {
            let size = last - first + 1;
            if left < size {
                let number = first + left;
                return Some(match family {
                    Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).ok()?)),
                    Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
                });
            }
            left -= size;
        }
        None
    }

    /// A free address: the one that `name` leads to, or the next.
    fn free(&self, family: Family, name: &str, taken: &BTreeMap<IpAddr, Arc<Object>>) -> Option<IpAddr> {
        let size = self.size(family);
        if size == 0 {
            return None;
        }
        let hashed = digest::digest(&SHA256, name.as_bytes());
        let start = hashed.as_ref()[..16].iter().fold(0, |sum: u128, byte| (sum << 8) | u128::from(*byte));
        // One more than are taken is enough.
        let tries = (taken.len() as u128 + 1).min(size);
        let mut at = (0..tries).map(|step| (start % size + step) % size);
        at.find_map(|nth| self.nth(family, nth).filter(|ip| !taken.contains_key(ip)))
    }

    /// Gives every Gateway its addresses: `gateways` of ours, the first by age and name first.
    pub(super) fn assign(&self, gateways: &[(&Arc<Object>, &Gateway)]) -> Vec<Given> {
        let mut taken = self.kept(gateways);
        let mut all: Vec<Given> = Vec::with_capacity(gateways.len());
        let mut open: Vec<Vec<(Family, String)>> = Vec::with_capacity(gateways.len());
        for (object, gateway) in gateways {
            let mut given = Given::default();
            let mut wanted = self.ask(object, gateway, &mut taken, &mut given);
            for ip in had(gateway) {
                let is_free = taken.get(&ip).is_some_and(|owner| owner.id == object.id)
                    && !given.addresses.contains(&ip);
                if let Some(at) = wanted.iter().position(|(family, _)| is_free && *family == Family::of(ip)) {
                    wanted.remove(at);
                    given.addresses.push(ip);
                }
            }
            all.push(given);
            open.push(wanted);
        }
        for (((object, _), given), wanted) in gateways.iter().zip(&mut all).zip(open) {
            for (family, field) in wanted {
                let name = format!("{}/{}", object.id.namespace, object.id.name);
                match self.free(family, &name, &taken) {
                    Some(ip) => {
                        taken.insert(ip, Arc::clone(object));
                        given.addresses.push(ip);
                    }
                    None => given.notes.push(self.exhausted(family, field)),
                }
            }
            given.addresses.sort_unstable();
        }
        all
    }

    /// Addresses that a status says a Gateway has, and that it still wants: by name, or because it takes any.
    fn kept(&self, gateways: &[(&Arc<Object>, &Gateway)]) -> BTreeMap<IpAddr, Arc<Object>> {
        let mut kept: BTreeMap<IpAddr, Arc<Object>> = BTreeMap::new();
        for (object, gateway) in gateways {
            let asked = gateway.spec.addresses.as_deref().unwrap_or_default();
            let value = |at: usize| asked[at].value.as_deref().unwrap_or_default();
            let named = |ip: IpAddr| (0..asked.len()).any(|at| value(at).parse() == Ok(ip));
            // How many of each family it may keep beside those that it names.
            let any = if asked.is_empty() {
                1
            } else {
                (0..asked.len()).filter(|at| value(*at).is_empty()).count()
            };
            let mut left = Family::BOTH.map(|_| any);
            for ip in had(gateway).filter(|ip| self.contains(*ip)) {
                let left = &mut left[usize::from(Family::of(ip) == Family::V6)];
                if kept.contains_key(&ip) || !(named(ip) || *left > 0) {
                    continue;
                }
                if !named(ip) {
                    *left -= 1;
                }
                kept.insert(ip, Arc::clone(object));
            }
        }
        kept
    }

    fn exhausted(&self, family: Family, field: String) -> Note {
        let reason = match self.size(family) {
            0 => format!("gateway.address_pool holds no {} address", family.name()),
            size => {
                format!("gateway.address_pool is exhausted: all {size} {} addresses are taken", family.name())
            }
        };
        Note::new(Severity::RefusedPart, field, "", reason).because(Code::AddressNotAssigned)
    }

    /// Gives the addresses that a Gateway asks for by name, and returns what else it is to get.
    fn ask(
        &self,
        object: &Arc<Object>,
        gateway: &Gateway,
        taken: &mut BTreeMap<IpAddr, Arc<Object>>,
        given: &mut Given,
    ) -> Vec<(Family, String)> {
        let asked = gateway.spec.addresses.as_deref().unwrap_or_default();
        let any = |field: &str| {
            let there = Family::BOTH.into_iter().filter(|family| self.size(*family) > 0);
            there.map(|family| (family, field.to_owned())).collect::<Vec<_>>()
        };
        if asked.is_empty() {
            return any("spec.addresses");
        }
        let mut wanted = Vec::new();
        let mut own = BTreeSet::new();
        for (index, address) in asked.iter().enumerate() {
            let field = format!("spec.addresses[{index}].value");
            let value = address.value.as_deref().unwrap_or_default();
            let refused = |code: Code, reason: String| {
                Note::new(Severity::RefusedPart, field.clone(), value, reason).because(code)
            };
            if address.r#type.as_deref().is_some_and(|kind| kind != "IPAddress") {
                let kind = address.r#type.as_deref().unwrap_or_default();
                let reason = format!("type {kind}: allowed: IPAddress");
                given.notes.push(refused(Code::UnsupportedAddress, reason));
            } else if value.is_empty() {
                // Gateway API: any address of this type.
                wanted.extend(any(&field));
            } else {
                match value.parse::<IpAddr>() {
                    Err(_) => {
                        given.notes.push(refused(Code::UnsupportedAddress, "not an IP address".to_owned()));
                    }
                    Ok(ip) if !self.contains(ip) => {
                        let ranges = self.ranges.iter().map(|(first, last)| format!("{first}-{last}"));
                        let ranges = ranges.collect::<Vec<_>>().join(", ");
                        let reason = format!("not in gateway.address_pool; allowed: {ranges}");
                        given.notes.push(refused(Code::AddressNotUsable, reason));
                    }
                    Ok(ip) if own.contains(&ip) => {}
                    Ok(ip) => match taken.get(&ip).filter(|owner| owner.id != object.id) {
                        Some(first) => {
                            let reason = format!("{} has it", first.id);
                            given.notes.push(refused(Code::AddressNotUsable, reason));
                        }
                        None => {
                            own.insert(ip);
                            taken.insert(ip, Arc::clone(object));
                            given.addresses.push(ip);
                        }
                    },
                }
            }
        }
        wanted
    }
}

/// What its status says it has.
fn had(gateway: &Gateway) -> impl Iterator<Item = IpAddr> + '_ {
    let had = gateway.status.iter().flat_map(|status| status.addresses.iter().flatten());
    had.filter_map(|had| had.value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Source, Spec};
    use crate::watch::decode::{Format, decode_text};

    fn pool(ranges: &[(&str, &str)]) -> AddressPool {
        let parse = |(first, last): &(&str, &str)| (first.parse().unwrap(), last.parse().unwrap());
        AddressPool { ranges: ranges.iter().map(parse).collect() }
    }

    /// A Gateway that asks for these addresses, and has these by its status.
    fn gateway(name: &str, asked: &[&str], had: &[&str]) -> Arc<Object> {
        let values = |values: &[&str]| {
            let all: Vec<String> = values.iter().map(|value| format!("{{value: {value:?}}}")).collect();
            all.join(", ")
        };
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: c, addresses: [{}], listeners: []}}\nstatus: {{addresses: [{}]}}\n",
            values(asked),
            values(had)
        );
        let (object, _) = decode_text(&text, Format::Yaml, &Source::Fleet).unwrap().objects.remove(0);
        Arc::new(object)
    }

    /// What each gets: its addresses, and the codes of what is said.
    fn assign(pool: &AddressPool, objects: &[Arc<Object>]) -> Vec<(Vec<String>, Vec<Code>)> {
        let gateways: Vec<(&Arc<Object>, &Gateway)> = objects
            .iter()
            .map(|object| {
                let Spec::Gateway(gateway) = &object.spec else { panic!("{object:?}") };
                (object, &**gateway)
            })
            .collect();
        let told = |given: Given| {
            let addresses = given.addresses.iter().map(ToString::to_string).collect();
            (addresses, given.notes.to_vec().iter().filter_map(|note| note.code).collect())
        };
        pool.assign(&gateways).into_iter().map(told).collect()
    }

    #[test]
    fn each_gateway_has_one_address_of_each_family_and_no_two_the_same() {
        let pool = pool(&[
            ("10.0.0.1", "10.0.0.2"),
            ("10.0.9.9", "10.0.9.9"),
            ("fd00::", "fd00::ffff:ffff:ffff:ffff"),
        ]);
        let names = ["a", "b", "c"].map(|name| gateway(name, &[], &[]));
        let given = assign(&pool, &names);
        let all: BTreeSet<&String> = given.iter().flat_map(|(addresses, _)| addresses).collect();
        assert_eq!(all.len(), 6, "{given:?}");
        assert!(given.iter().all(|(addresses, codes)| addresses.len() == 2 && codes.is_empty()));
        assert_eq!(assign(&pool, &names), given, "the same again");
        let fourth = assign(&pool, &["a", "b", "c", "d"].map(|name| gateway(name, &[], &[])));
        assert_eq!(fourth[..3], given[..], "one more moves nobody");
        assert_eq!((fourth[3].0.len(), &fourth[3].1[..]), (1, &[Code::AddressNotAssigned][..]));
    }

    #[test]
    fn what_a_gateway_has_it_keeps_although_others_come_and_go() {
        let pool = pool(&[("10.0.0.1", "10.0.0.3")]);
        // Each where another one's name may lead.
        for had in [["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.3"], ["10.0.0.3", "10.0.0.1"]] {
            let both = [gateway("a", &[], &had[..1]), gateway("b", &[], &had[1..])];
            let given = assign(&pool, &both);
            assert_eq!([&given[0].0[0], &given[1].0[0]], had);
            assert_eq!(assign(&pool, &both[1..])[0].0, had[1..]);
        }
        // What it had is not in the pool any more, or is somebody else's.
        let given =
            assign(&pool, &[gateway("a", &[], &["10.0.0.1"]), gateway("b", &[], &["10.0.0.1", "192.0.2.1"])]);
        assert_eq!(given[0].0, ["10.0.0.1"]);
        assert!(given[1].0.len() == 1 && given[1].0 != given[0].0, "{given:?}");
    }

    #[test]
    fn addresses_that_are_asked_for_are_had_by_the_first_or_refused() {
        let pool = pool(&[("10.0.0.1", "10.0.0.3")]);
        let given = assign(
            &pool,
            &[
                gateway("dynamic", &[], &[]),
                gateway("first", &["10.0.0.2"], &[]),
                gateway("second", &["10.0.0.2"], &[]),
                gateway("outside", &["192.0.2.1"], &[]),
                gateway("name", &["vip.example"], &[]),
                gateway("any", &[""], &[]),
            ],
        );
        assert_ne!(given[0].0, ["10.0.0.2"], "whoever asks by name comes before whom a name leads there");
        assert_eq!(given[1], (vec!["10.0.0.2".to_owned()], vec![]));
        assert_eq!(given[2], (vec![], vec![Code::AddressNotUsable]));
        assert_eq!(given[3], (vec![], vec![Code::AddressNotUsable]));
        assert_eq!(given[4], (vec![], vec![Code::UnsupportedAddress]));
        assert_eq!((given[5].0.len(), &given[5].1[..]), (1, &[][..]));
        let held = assign(&pool, &[gateway("old", &[], &["10.0.0.2"]), gateway("new", &["10.0.0.2"], &[])]);
        assert_eq!((&held[0].0[0][..], &held[1].1[..]), ("10.0.0.2", &[Code::AddressNotUsable][..]));
    }

    #[test]
    fn an_older_gateway_cannot_take_what_a_younger_one_has_by_asking_for_it() {
        let pool = pool(&[("10.0.0.1", "10.0.0.3")]);
        for asked in [&[][..], &["10.0.0.2"], &[""]] {
            let given = assign(
                &pool,
                &[gateway("old", &["10.0.0.2"], &["10.0.0.1"]), gateway("young", asked, &["10.0.0.2"])],
            );
            assert_eq!(given[0], (vec![], vec![Code::AddressNotUsable]), "{asked:?}");
            assert_eq!(given[1], (vec!["10.0.0.2".to_owned()], vec![]), "{asked:?}");
        }
        // It wants another one now: the older may have it.
        let moved = [gateway("old", &["10.0.0.2"], &[]), gateway("young", &["10.0.0.3"], &["10.0.0.2"])];
        let given = assign(&pool, &moved);
        assert_eq!([&given[0].0[0], &given[1].0[0]], ["10.0.0.2", "10.0.0.3"]);
    }
}
