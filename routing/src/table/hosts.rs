//! From a bind and a host name to the rules that may apply: listeners, then exact, wildcard and any host.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use regex::bytes::Regex;
use smallvec::SmallVec;

use crate::chunks::{ChainIndex, Chunks};
use crate::id::{BindId, ListenerId};
use crate::matcher::host::{HOST_BYTES_MAX, suffixes};
use crate::matcher::path::{PathIndex, Query};
use crate::model::{HostKey, HostPattern, HostRules, Layer4, ListenerSpec, Protocol, WildcardLabels};
use crate::subject::Subject;

/// One host pattern's rules in one worker. A [`RuleRef`](super::RuleRef) holds it for as long as its request lasts.
///
/// In this order: what every lookup reads comes first and lies together.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct HostEntry {
    listener: ListenerId,
    kind: Kind,
    /// The host or suffix of the key.
    text: SmallVec<[u8; 36]>,
    /// That of `rules`: one step less to its block.
    index: PathIndex,
    pub(crate) rules: Arc<HostRules>,
    pub(crate) key: HostKey,
    /// This worker's own regexes: see `matcher::OwnRegexes`.
    pub(crate) own: Box<[Regex]>,
}

impl HostEntry {
    fn new(key: &HostKey, rules: Arc<HostRules>, own: Box<[Regex]>) -> Self {
        let (kind, text) = kind_and_text(&key.pattern);
        Self {
            text: SmallVec::from_slice(text),
            listener: key.listener,
            kind,
            index: rules.index.clone(),
            own,
            rules,
            key: key.clone(),
        }
    }

    /// The first rule that matches.
    pub(crate) fn find(&self, subject: &Subject<'_>) -> Option<u32> {
        // A connection has nothing that a condition could ask for: the first rule of its host.
        let Some(view) = subject.http() else { return Some(0) };
        let peer = subject.peer.ip();
        self.index.find(&Query { rules: &self.rules, own: &self.own, view, peer })
    }
}

/// Which kind of pattern a key is, as part of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exact,
    One,
    Many,
    Any,
}

fn kind_and_text(pattern: &HostPattern) -> (Kind, &[u8]) {
    match pattern {
        HostPattern::Exact(name) => (Kind::Exact, name.as_bytes()),
        HostPattern::Wildcard { suffix, labels: WildcardLabels::One } => (Kind::One, suffix.as_bytes()),
        HostPattern::Wildcard { suffix, labels: WildcardLabels::Many } => (Kind::Many, suffix.as_bytes()),
        HostPattern::Any => (Kind::Any, b""),
    }
}

fn hash(listener: ListenerId, kind: Kind, text: &[u8]) -> u32 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u64(u64::from(listener.0) << 2 | kind as u64);
    hasher.write(text);
    let hash = hasher.finish();
    #[allow(clippy::cast_possible_truncation, reason = "folding 64 bits of hash into 32")]
    let folded = (hash ^ (hash >> 32)) as u32;
    folded
}

#[derive(Debug, Default)]
pub(crate) struct ListenerEntry {
    pub(crate) spec: Option<Arc<ListenerSpec>>,
    /// Wildcard patterns of its rules: without one no suffix is looked up.
    wildcards: u32,
}

/// Listeners that own the same hosts of a bind, in the order in which their rules are tried.
type Owners = SmallVec<[ListenerId; 1]>;

/// One bound address: its listeners by hostname.
#[derive(Debug, Default)]
struct Bind {
    any: Owners,
    exact: HashMap<Box<[u8]>, Owners, FixedState>,
    /// By suffix; for one label, for many.
    wildcard: HashMap<Box<[u8]>, [Owners; 2], FixedState>,
    listeners: usize,
    served: Option<(SocketAddr, Protocol)>,
    layer4: Option<Arc<Layer4>>,
}

/// Everything `route` looks at. Changed only by `apply`.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    entries: Chunks<Option<Rc<HostEntry>>>,
    /// Free places in `entries`.
    free: Vec<u32>,
    index: ChainIndex,
    listeners: Chunks<ListenerEntry>,
    binds: Vec<Bind>,
}

impl Hosts {
    /// Sets or removes the rules of one host pattern, with the worker's own regexes of them; what they replace comes back.
    pub(crate) fn set(
        &mut self,
        key: &HostKey,
        rules: Option<(Arc<HostRules>, Box<[Regex]>)>,
    ) -> Option<Rc<HostEntry>> {
        let (kind, text) = kind_and_text(&key.pattern);
        let hash = hash(key.listener, kind, text);
        let found = self.find_hashed(hash, key.listener, kind, text);
        let entry = rules.map(|(rules, own)| Rc::new(HostEntry::new(key, rules, own)));
        match (found, entry) {
            (Some(index), Some(entry)) => self.entries[index as usize].replace(entry),
            (Some(index), None) => {
                self.index.remove(hash, index);
                self.free.push(index);
                self.count_wildcards(key, |count| count.saturating_sub(1));
                self.entries[index as usize].take()
            }
            (None, Some(entry)) => {
                let index = match self.free.pop() {
                    Some(index) => index,
                    None => {
                        u32::try_from(self.entries.push(None)).expect("host patterns are fewer than 2^32")
                    }
                };
                self.entries[index as usize] = Some(entry);
                self.index.insert(hash, index);
                self.count_wildcards(key, |count| count + 1);
                None
            }
            (None, None) => None,
        }
    }

    fn count_wildcards(&mut self, key: &HostKey, change: impl Fn(u32) -> u32) {
        match key.pattern {
            HostPattern::Wildcard { .. } => {
                self.listeners.grow_to_hold(key.listener.index());
                let entry = &mut self.listeners[key.listener.index()];
                entry.wildcards = change(entry.wildcards);
            }
            HostPattern::Exact(_) | HostPattern::Any => {}
        }
    }

    fn find_hashed(&self, hash: u32, listener: ListenerId, kind: Kind, text: &[u8]) -> Option<u32> {
        self.index.find(hash, |index| {
            let entry = self.entries[index as usize].as_ref();
            entry
                .is_some_and(|entry| entry.listener == listener && entry.kind == kind && *entry.text == *text)
        })
    }

    fn get(&self, listener: ListenerId, kind: Kind, text: &[u8]) -> Option<&Rc<HostEntry>> {
        let index = self.find_hashed(hash(listener, kind, text), listener, kind, text)?;
        self.entries[index as usize].as_ref()
    }

    /// Offers the rules that may apply to `host` on `listener`, the most specific pattern first, until `take`
    /// answers.
    pub(crate) fn first<R>(
        &self,
        listener: ListenerId,
        host: &[u8],
        mut take: impl FnMut(&Rc<HostEntry>) -> Option<R>,
    ) -> Option<R> {
        if host.len() <= HOST_BYTES_MAX {
            if let Some(taken) = self.get(listener, Kind::Exact, host).and_then(&mut take) {
                return Some(taken);
            }
            if self.listeners.get(listener.index()).is_some_and(|entry| entry.wildcards > 0) {
                for suffix in suffixes(host) {
                    let one = match suffix.before {
                        WildcardLabels::One => self.get(listener, Kind::One, suffix.text),
                        WildcardLabels::Many => None,
                    };
                    if let Some(taken) = one.and_then(&mut take) {
                        return Some(taken);
                    }
                    if let Some(taken) = self.get(listener, Kind::Many, suffix.text).and_then(&mut take) {
                        return Some(taken);
                    }
                }
            }
        }
        self.get(listener, Kind::Any, b"").and_then(&mut take)
    }

    /// The listeners of `bind` that own `host`: those with the most specific hostname that covers it.
    pub(crate) fn owners(&self, bind: BindId, host: &[u8]) -> &[ListenerId] {
        let Some(bind) = self.binds.get(bind.index()) else { return &[] };
        if host.len() <= HOST_BYTES_MAX {
            if !bind.exact.is_empty()
                && let Some(owners) = bind.exact.get(host)
            {
                return owners;
            }
            if !bind.wildcard.is_empty() {
                for suffix in suffixes(host) {
                    let Some([one, many]) = bind.wildcard.get(suffix.text) else { continue };
                    if suffix.before == WildcardLabels::One && !one.is_empty() {
                        return one;
                    }
                    if !many.is_empty() {
                        return many;
                    }
                }
            }
        }
        &bind.any
    }

    /// Sets or removes a listener; the bind of its former spec, which comes back, and of its new one have changed.
    pub(crate) fn set_listener(
        &mut self,
        id: ListenerId,
        spec: Option<Arc<ListenerSpec>>,
    ) -> Option<Arc<ListenerSpec>> {
        self.listeners.grow_to_hold(id.index());
        let old = std::mem::replace(&mut self.listeners[id.index()].spec, spec.clone());
        if let Some(old) = &old {
            let bind = self.bind_mut(old.bind);
            bind.listeners -= 1;
            bind.edit(&old.hostname, |owners| owners.retain(|owner| *owner != id));
            if bind.listeners == 0 {
                *bind = Bind::default();
            }
        }
        if let Some(spec) = spec {
            let bind = self.bind_mut(spec.bind);
            bind.listeners += 1;
            bind.served = Some((spec.addr, spec.protocol));
            bind.layer4.clone_from(&spec.layer4);
            bind.edit(&spec.hostname, |owners| {
                let place = owners.partition_point(|owner| *owner < id);
                owners.insert(place, id);
            });
        }
        old
    }

    fn bind_mut(&mut self, id: BindId) -> &mut Bind {
        if self.binds.len() <= id.index() {
            self.binds.resize_with(id.index() + 1, Bind::default);
        }
        &mut self.binds[id.index()]
    }

    /// Address and protocol of a bind that has a listener.
    pub(crate) fn served(&self, bind: BindId) -> Option<(SocketAddr, Protocol)> {
        self.binds.get(bind.index())?.served
    }

    pub(crate) fn layer4(&self, bind: BindId) -> Option<&Arc<Layer4>> {
        self.binds.get(bind.index())?.layer4.as_ref()
    }

    pub(crate) fn listener(&self, id: ListenerId) -> Option<&Arc<ListenerSpec>> {
        self.listeners.get(id.index())?.spec.as_ref()
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = (ListenerId, &Arc<ListenerSpec>)> {
        let specs = (0u32..).zip(self.listeners.iter());
        specs.filter_map(|(id, entry)| Some((ListenerId(id), entry.spec.as_ref()?)))
    }

    /// The listener at a place; `None` behind the last place.
    pub(crate) fn listener_at(&self, at: usize) -> Option<Option<&Arc<ListenerSpec>>> {
        self.listeners.get(at).map(|entry| entry.spec.as_ref())
    }

    /// The key of the rules at a place; `None` behind the last place.
    pub(crate) fn key_at(&self, at: usize) -> Option<Option<HostKey>> {
        self.entries.get(at).map(|entry| entry.as_ref().map(|entry| entry.key.clone()))
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Rc<HostEntry>> {
        self.entries.iter().flatten()
    }
}

impl Bind {
    fn edit(&mut self, hostname: &HostPattern, edit: impl FnOnce(&mut Owners)) {
        match hostname {
            HostPattern::Any => edit(&mut self.any),
            HostPattern::Exact(name) => {
                let owners = self.exact.entry(name.as_bytes().into()).or_default();
                edit(owners);
                if owners.is_empty() {
                    self.exact.remove(name.as_bytes());
                }
            }
            HostPattern::Wildcard { suffix, labels } => {
                let both = self.wildcard.entry(suffix.as_bytes().into()).or_default();
                edit(match labels {
                    WildcardLabels::One => &mut both[0],
                    WildcardLabels::Many => &mut both[1],
                });
                if both.iter().all(SmallVec::is_empty) {
                    self.wildcard.remove(suffix.as_bytes());
                }
            }
        }
    }
}
