//! What cannot be listened on: told by the workers, kept for the findings of Gateways.
//!
//! Pure. It outlives the loop's restarts, for a worker says a thing once. Every node knows its own; the one that writes
//! status tells of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use routing::delta::Report;
use routing::model::Carrier;

/// `Programmed=False`: reason and message.
pub type Why = (&'static str, String);

/// The address is not there, or cannot be had (Gateway API).
const ADDRESS: &str = "AddressNotUsable";
/// Somebody else has the port, or we may not have it.
const PORT: &str = "PortUnavailable";
/// `EADDRNOTAVAIL`
const NOT_THERE: i32 = 99;

/// Addresses that cannot be listened on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unbound {
    /// By worker, the error of the system.
    binds: BTreeMap<(SocketAddr, Carrier), BTreeMap<u16, i32>>,
    /// Addresses that are not on their interface, and why.
    addresses: BTreeMap<IpAddr, String>,
}

impl Unbound {
    /// Takes note of what a worker says; returns whether it changes anything.
    pub fn note(&mut self, report: &Report) -> bool {
        match report {
            Report::Listening { worker, addr, carrier, error: Some(error) } => {
                let workers = self.binds.entry((*addr, *carrier)).or_default();
                workers.insert(*worker, *error) != Some(*error)
            }
            Report::Listening { worker, addr, carrier, error: None } => {
                let key = (*addr, *carrier);
                let Some(workers) = self.binds.get_mut(&key) else { return false };
                let changed = workers.remove(worker).is_some();
                if workers.is_empty() {
                    self.binds.remove(&key);
                }
                changed
            }
            Report::Address { ip, failure: Some(reason) } => {
                self.addresses.insert(*ip, reason.to_string()).as_deref() != Some(&**reason)
            }
            Report::Address { ip, failure: None } => self.addresses.remove(ip).is_some(),
            Report::Applied { .. }
            | Report::OutOfStep { .. }
            | Report::Ejected { .. }
            | Report::Restored { .. }
            | Report::Spent(_) => false,
        }
    }

    /// Why an address is not served.
    #[must_use]
    pub fn why(&self, addr: SocketAddr, carrier: Carrier) -> Option<Why> {
        if let Some(reason) = self.addresses.get(&addr.ip()) {
            return Some((ADDRESS, reason.clone()));
        }
        let workers = self.binds.get(&(addr, carrier))?;
        let error = *workers.values().next()?;
        let reason = if error == NOT_THERE { ADDRESS } else { PORT };
        let of =
            if workers.len() == 1 { "1 worker".to_owned() } else { format!("{} workers", workers.len()) };
        let said = io::Error::from_raw_os_error(error);
        Some((reason, format!("{addr} cannot be listened on ({of}): {said}; it is tried again every second")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_served_when_the_last_worker_listens() {
        let addr: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let say = |worker, error| Report::Listening { worker, addr, carrier: Carrier::Tcp, error };
        let mut unbound = Unbound::default();
        assert!(!unbound.note(&say(0, None)));
        assert!(unbound.note(&say(0, Some(98))) && unbound.note(&say(1, Some(98))));
        assert!(!unbound.note(&say(1, Some(98))), "nothing new");
        let (reason, message) = unbound.why(addr, Carrier::Tcp).unwrap();
        assert_eq!(reason, PORT);
        assert!(message.contains("10.0.0.1:80") && message.contains("2 workers"), "{message}");
        assert_eq!(unbound.why(addr, Carrier::Udp), None);
        assert!(unbound.note(&say(0, None)) && unbound.why(addr, Carrier::Tcp).is_some());
        assert!(unbound.note(&say(1, Some(99))));
        assert_eq!(unbound.why(addr, Carrier::Tcp).unwrap().0, ADDRESS);
        assert!(unbound.note(&say(1, None)) && unbound.why(addr, Carrier::Tcp).is_none());

        let ip = addr.ip();
        assert!(unbound.note(&Report::Address { ip, failure: Some("eth9: no such interface".into()) }));
        let (reason, message) = unbound.why(addr, Carrier::Tcp).unwrap();
        assert!(reason == ADDRESS && message.contains("eth9"));
        assert!(unbound.note(&Report::Address { ip, failure: None }));
        assert_eq!(unbound, Unbound::default());
    }
}
