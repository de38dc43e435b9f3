//! Puts the addresses that Gateways have onto an interface, and takes them off again: `gateway.interface`.
//!
//! A thread of its own, by netlink; no worker waits for it. Addresses are added with the prefix of a single host, and on that
//! interface every address of the pool that has one is ours: one that is there and that no Gateway has is taken off, so that
//! nothing stays of a process that was killed. One with the prefix of a network is the node's own. What does not succeed is tried again every second, and reported: the condition of the
//! Gateway tells of it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use config::AddressRange;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use futures_util::TryStreamExt;
use routing::delta::Report;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::{Error, Handle};

/// How often what failed is tried again, and looked whether somebody else took an address off.
const ROUND: Duration = Duration::from_secs(1);
/// Wishes that wait; a newer one replaces them.
const WISHES_MAX: usize = 16;

/// What is to be on the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These addresses, …
    pub addresses: BTreeSet<IpAddr>,
    /// … and of these ranges no others.
    pub pool: Vec<AddressRange>,
}

/// The thread. Dropping it takes all addresses off.
pub struct Addresses {
    wishes: Option<Sender<Wanted>>,
    last: Option<Wanted>,
    thread: Option<JoinHandle<()>>,
}

impl Addresses {
    /// Begins; does nothing before the first [`Addresses::want`].
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(interface: &str, reports: Sender<Report>) -> io::Result<Self> {
        let (wishes_in, wishes) = bounded(WISHES_MAX);
        let mut keeper = Keeper {
            interface: interface.to_owned(),
            reports,
            wanted: Wanted::default(),
            added: BTreeSet::new(),
            failing: BTreeSet::new(),
            stuck: BTreeSet::new(),
            said: String::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("addresses".into())
            .spawn(move || keeper.serve(&runtime, &wishes))?;
        Ok(Self { wishes: Some(wishes_in), last: None, thread: Some(thread) })
    }

    /// From now on these.
    pub fn want(&mut self, wanted: Wanted) {
        let Some(wishes) = self.wishes.as_ref().filter(|_| self.last.as_ref() != Some(&wanted)) else {
            return;
        };
        // Full: it is said again in the next round.
        if wishes.try_send(wanted.clone()).is_ok() {
            self.last = Some(wanted);
        }
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        drop(self.wishes.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}

struct Keeper {
    interface: String,
    reports: Sender<Report>,
    wanted: Wanted,
    /// Put there by us.
    added: BTreeSet<IpAddr>,
    /// Reported as missing.
    failing: BTreeSet<IpAddr>,
    /// Logged as not to be taken off.
    stuck: BTreeSet<IpAddr>,
    /// The last failure that was logged.
    said: String,
}

impl Keeper {
    fn serve(&mut self, runtime: &tokio::runtime::Runtime, wishes: &Receiver<Wanted>) {
        let mut began = false;
        loop {
            match wishes.recv_timeout(ROUND) {
                Ok(wanted) => {
                    began = true;
                    self.wanted = wishes.try_iter().last().unwrap_or(wanted);
                }
                Err(RecvTimeoutError::Timeout) if began => {}
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    self.wanted.addresses.clear();
                    if began {
                        self.round(runtime);
                    }
                    return;
                }
            }
            self.round(runtime);
        }
    }

    fn round(&mut self, runtime: &tokio::runtime::Runtime) {
        let failed = match runtime.block_on(self.bring_about()) {
            Ok(failed) => failed,
            Err(reason) => self.wanted.addresses.iter().map(|ip| (*ip, reason.clone())).collect(),
        };
        let said = failed.first().map(|(_, reason)| reason.clone()).unwrap_or_default();
        if said != self.said {
            let count = failed.len();
            match said.is_empty() {
                true => tracing::info!(interface = self.interface, "every address of a Gateway is there"),
                false => {
                    tracing::error!(
                        interface = self.interface,
                        count,
                        reason = said,
                        "addresses of Gateways are missing; trying again"
                    );
                }
            }
            self.said = said;
        }
        let missing: BTreeSet<IpAddr> = failed.iter().map(|(ip, _)| *ip).collect();
        for (ip, reason) in failed {
            let is_new = !self.failing.contains(&ip);
            if is_new && self.reports.try_send(Report::Address { ip, failure: Some(reason.into()) }).is_ok() {
                self.failing.insert(ip);
            }
        }
        let healed: Vec<IpAddr> = self.failing.difference(&missing).copied().collect();
        for ip in healed {
            if self.reports.try_send(Report::Address { ip, failure: None }).is_ok() {
                self.failing.remove(&ip);
            }
        }
    }

    /// Adds and removes; returns what could not be added.
    async fn bring_about(&mut self) -> Result<Vec<(IpAddr, String)>, String> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
        let driver = tokio::spawn(connection);
        let done = self.with(&handle).await;
        driver.abort();
        done
    }

    async fn with(&mut self, handle: &Handle) -> Result<Vec<(IpAddr, String)>, String> {
        let interface = self.interface.clone();
        let named = |error: Error| format!("gateway.interface {interface}: {}", why(&error));
        let mut links = handle.link().get().match_name(interface.clone()).execute();
        let link = links.try_next().await.map_err(named)?;
        let index =
            link.ok_or_else(|| format!("gateway.interface {interface}: no such interface"))?.header.index;
        let there = handle.address().get().set_link_index_filter(index).execute();
        let there: Vec<AddressMessage> = there.try_collect().await.map_err(named)?;
        let mut present = BTreeSet::new();
        for message in there {
            let Some(ip) = address(&message) else { continue };
            present.insert(ip);
            if self.is_ours(ip, message.header.prefix_len) && !self.wanted.addresses.contains(&ip) {
                match handle.address().del(message).execute().await {
                    Ok(()) => {
                        self.added.remove(&ip);
                        tracing::info!(%ip, interface, "address taken off");
                    }
                    Err(error) if self.stuck.insert(ip) => {
                        tracing::warn!(%ip, reason = named(error), "address not taken off; trying again");
                    }
                    Err(_) => {}
                }
            }
        }
        self.stuck.retain(|ip| present.contains(ip) && !self.wanted.addresses.contains(ip));
        let mut failed = Vec::new();
        for ip in self.wanted.addresses.difference(&present) {
            let mut request = handle.address().add(index, *ip, single(*ip));
            if ip.is_ipv6() {
                // It is used at once: whether somebody else has it is the pool's owner to know.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            match request.execute().await {
                Ok(()) => {
                    self.added.insert(*ip);
                    tracing::info!(%ip, interface, "address added");
                }
                Err(error) => failed.push((*ip, format!("{ip} cannot be added: {}", named(error)))),
            }
        }
        Ok(failed)
    }
}

impl Keeper {
    /// May it be taken off? What has a network's prefix was not put there by us, although it be an address of the pool.
    fn is_ours(&self, ip: IpAddr, prefix_len: u8) -> bool {
        let is_single = prefix_len == single(ip);
        is_single && (self.added.contains(&ip) || self.wanted.pool.iter().any(|range| range.contains(ip)))
    }
}

/// The length of the prefix that holds this address only.
fn single(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None })
}

/// What the kernel said, and what an operator can do about it.
fn why(error: &Error) -> String {
    let Error::NetlinkError(message) = error else { return error.to_string() };
    let error = message.to_io();
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!(
                "{error}: CAP_NET_ADMIN is missing (AmbientCapabilities and CapabilityBoundingSet of gateway.service)"
            )
        }
        Some(libc::ENODEV) => "no such interface".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

    use super::*;

    #[test]
    fn only_addresses_of_a_single_host_are_ours() {
        let (reports, _) = bounded(1);
        let pool = ["10.0.0.0/24", "2001:db8::/120"].map(|range| range.parse().unwrap()).to_vec();
        let keeper = Keeper {
            interface: String::new(),
            reports,
            wanted: Wanted { addresses: BTreeSet::new(), pool },
            added: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
            failing: BTreeSet::new(),
            stuck: BTreeSet::new(),
            said: String::new(),
        };
        for (ip, prefix_len, is_ours) in [
            ("10.0.0.5", 24, false),
            ("10.0.0.5", 32, true),
            ("10.0.1.5", 32, false),
            ("192.0.2.1", 32, true),
            ("192.0.2.1", 24, false),
            ("2001:db8::5", 64, false),
            ("2001:db8::5", 128, true),
            ("2001:db8::5", 32, false),
        ] {
            assert_eq!(keeper.is_ours(ip.parse().unwrap(), prefix_len), is_ours, "{ip}/{prefix_len}");
        }
    }
}
