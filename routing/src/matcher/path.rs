//! The path index of one host's rules: a hash table of paths, probed at the depths where rules are.
//!
//! A lookup hashes the path element by element, no deeper than the deepest rule, and probes once for each depth at
//! which this host has rules: a path of 8 KiB of slashes costs no more. What is found is always the first rule, in
//! the order of [`HostRules::rules`](crate::model::HostRules), that matches the whole request: the index never
//! reorders.
//!
//! Everything a lookup reads lies in one block of bytes, shared by all workers. With 10,000 hosts every lookup is
//! in memory that no cache holds, and its cost is the number of places it touches: separate boxes for table, text
//! and lists cost 1,100 ns where one line for each path costs 230 ns.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use regex::bytes::Regex;
use wire::head::RequestView;

use super::{OwnRegexes, other_mismatch};
use crate::model::{HostRules, PathMatch, Rule, RuleMatch, ValuePattern};

const NONE: u32 = u32::MAX;

/// Does `pattern` cover `path`? The plain statement of what the index answers, for one rule.
///
/// An exact path or a prefix that does not start with a slash covers nothing.
#[must_use]
pub fn is_match(pattern: &PathMatch, path: &[u8]) -> bool {
    match pattern {
        PathMatch::Exact(wanted) => wanted.starts_with('/') && wanted.as_bytes() == path,
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::Prefix(prefix) => match prefix_elements(prefix) {
            None => true,
            Some(prefix) => {
                let rest = path.strip_prefix(prefix.as_bytes()).filter(|_| prefix.starts_with('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
        },
    }
}

/// A prefix without its trailing slash; `None` for `/`, which covers everything.
fn prefix_elements(prefix: &str) -> Option<&str> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    (!prefix.is_empty()).then_some(prefix)
}

/// Bytes of one slot in the block: a cache line, a [`Node`] and the beginning of its text.
const SLOT_BYTES: usize = 64;

/// Bytes of a [`Node`] in its slot.
const NODE_BYTES: usize = 24;

/// Longest text that lies in its slot; longer ones lie behind the lists.
const INLINE_MAX: usize = SLOT_BYTES - NODE_BYTES;

/// In a list: the last rule of it. In a node: not a place but the only rule of the list itself.
const LAST: u32 = 1 << 31;

/// In a list: the rule has no condition but its path.
const PLAIN: u32 = 1 << 30;

/// One path of the host. All fields are little-endian words of the block.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Never 0: that marks an empty slot.
    hash: u32,
    /// Where the path is, without its first slash.
    text: u32,
    text_len: u32,
    /// List of rules whose path is exactly this.
    exact: u32,
    /// List of rules whose prefix is exactly this.
    prefix: u32,
    /// Slot of the nearest path above that has prefix rules.
    above: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct PathIndex {
    /// Slots (open addressing, a power of two), then lists of rules, then long texts.
    block: Arc<[u8]>,
    slots: u32,
    /// List of rules whose prefix is `/`.
    root: u32,
    /// List of rules with a path regex.
    regexes: u32,
    /// Most elements of a path; nothing deeper is looked at.
    depth_max: u32,
    /// Bytes of the longest element.
    element_max: u32,
    /// Depths at which there are paths; beyond 63 every depth counts.
    depths: u64,
    /// Index of each rule's first regex among all regexes of the host; empty when there is none.
    regex_starts: Arc<[u32]>,
}

/// What a lookup needs beside the index. References to what is read only for rules with further conditions.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) rules: &'a Arc<HostRules>,
    /// A worker's copies of [`all_regexes`], or nothing.
    #[allow(clippy::borrowed_box, reason = "the slice would be read from cold memory for every lookup")]
    pub(crate) own: &'a Box<[Regex]>,
    pub(crate) view: &'a RequestView<'a>,
    pub(crate) peer: IpAddr,
}

impl PathIndex {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        Builder::default().build(rules)
    }

    /// Has any rule a regex? Without one a worker does not look at the rules to adopt them.
    pub(crate) fn has_regexes(&self) -> bool {
        !self.regex_starts.is_empty()
    }

    /// The first rule that matches.
    pub(crate) fn find(&self, query: &Query<'_>) -> Option<u32> {
        let path = query.view.path();
        let (deepest, whole) = self.walk(path);
        let mut best = NONE;
        if let Some(node) = whole {
            best = self.first_in(node.exact, best, query);
        }
        best = self.first_regex(best, path, query);
        let mut at = deepest;
        while let Some(node) = at {
            best = self.first_in(node.prefix, best, query);
            at = (node.above != NONE).then(|| self.node(node.above));
        }
        best = self.first_in(self.root, best, query);
        (best != NONE).then_some(best)
    }

    /// The deepest path that covers `path` by elements, and the one that is all of it.
    fn walk(&self, path: &[u8]) -> (Option<Node>, Option<Node>) {
        // `*` (OPTIONS) has no elements: only what covers everything covers it.
        let [b'/', path @ ..] = path else { return (None, None) };
        let (mut deepest, mut start, mut hash) = (None, 0, 0);
        for depth in 1..=self.depth_max {
            let rest = &path[start..];
            let window = &rest[..rest.len().min(self.element_max as usize + 1)];
            let len = match window.iter().position(|byte| *byte == b'/') {
                Some(len) => len,
                None if window.len() == rest.len() => rest.len(),
                None => return (deepest, None),
            };
            hash = element_hash(hash, &rest[..len]);
            let end = start + len;
            let found = if self.has_depth(depth) { self.probe(hash, &path[..end]) } else { None };
            deepest = found.or(deepest);
            if end == path.len() {
                return (deepest, found);
            }
            start = end + 1;
        }
        (deepest, None)
    }

    fn has_depth(&self, depth: u32) -> bool {
        depth > 63 || self.depths & 1 << depth != 0
    }

    fn probe(&self, hash: u64, text: &[u8]) -> Option<Node> {
        let hash = slot_hash(hash);
        let mut slot = hash & (self.slots - 1);
        loop {
            let node = self.node(slot);
            if node.hash == 0 {
                return None;
            }
            let start = node.text as usize;
            if node.hash == hash && self.block[start..start + node.text_len as usize] == *text {
                return Some(node);
            }
            slot = (slot + 1) & (self.slots - 1);
        }
    }

    fn node(&self, slot: u32) -> Node {
        let start = slot as usize * SLOT_BYTES;
        let (words, _) = self.block[start..start + NODE_BYTES].as_chunks::<4>();
        let word = |nth: usize| u32::from_le_bytes(words[nth]);
        Node {
            hash: word(0),
            text: word(1),
            text_len: word(2),
            exact: word(3),
            prefix: word(4),
            above: word(5),
        }
    }

    /// The rules of a list, in order, each with its flags.
    fn list(&self, start: u32) -> impl Iterator<Item = u32> {
        let bytes = self.block.get(start as usize..).unwrap_or_default();
        let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        words.scan(0, |before, word| {
            let ended = *before & LAST != 0;
            *before = word;
            (!ended).then_some(word)
        })
    }

    fn first_in(&self, list: u32, best: u32, query: &Query<'_>) -> u32 {
        if list & LAST != 0 {
            return if list != NONE && self.holds(list, best, query) { list & !(LAST | PLAIN) } else { best };
        }
        for word in self.list(list) {
            if word & !(LAST | PLAIN) >= best {
                break;
            }
            if self.holds(word, best, query) {
                return word & !(LAST | PLAIN);
            }
        }
        best
    }

    /// Does the rule of this word come before `best`, and hold?
    fn holds(&self, word: u32, best: u32, query: &Query<'_>) -> bool {
        let rule = word & !(LAST | PLAIN);
        if rule >= best || word & PLAIN != 0 {
            return rule < best;
        }
        let mut own = self.own_of(rule, query.own);
        other_mismatch(&query.rules.rules[rule as usize].matches, &mut own, query.view, query.peer).is_none()
    }

    fn first_regex(&self, best: u32, path: &[u8], query: &Query<'_>) -> u32 {
        if self.regexes == NONE {
            return best;
        }
        for rule in self.list(self.regexes).map(|word| word & !(LAST | PLAIN)) {
            if rule >= best {
                break;
            }
            let matches = &query.rules.rules[rule as usize].matches;
            let PathMatch::Regex(regex) = &matches.path else { continue };
            let mut own = self.own_of(rule, query.own);
            if own.next_for(regex).is_match(path)
                && other_mismatch(matches, &mut own, query.view, query.peer).is_none()
            {
                return rule;
            }
        }
        best
    }

    fn own_of<'a>(&self, rule: u32, own: &'a [Regex]) -> OwnRegexes<'a> {
        if own.is_empty() {
            return OwnRegexes::new(own);
        }
        let start = self.regex_starts.get(rule as usize).copied().unwrap_or(0);
        OwnRegexes::new(own.get(start as usize..).unwrap_or_default())
    }
}

/// The hash of a path, from that of the path above and its last element.
fn element_hash(above: u64, element: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u64(above);
    hasher.write(element);
    hasher.finish()
}

fn slot_hash(hash: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "folding 64 bits of hash into 32")]
    let folded = (hash ^ (hash >> 32)) as u32;
    folded.max(1)
}

/// Every regex of `rules`, rule by rule, in the order path, headers, query, further conditions.
pub(crate) fn all_regexes(rules: &[Rule]) -> impl Iterator<Item = &Regex> {
    rules.iter().flat_map(|rule| {
        let path = match &rule.matches.path {
            PathMatch::Regex(regex) => Some(regex),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let values = rule.matches.headers.iter().chain(rule.matches.query.iter());
        let values = values.filter_map(|condition| match &condition.value {
            ValuePattern::Regex(regex) => Some(regex),
            ValuePattern::Exact(_) => None,
        });
        path.into_iter().chain(values).chain(super::predicate::regexes(&rule.matches.more))
    })
}

/// One path while the index is built.
#[derive(Default)]
struct Draft {
    exact: Vec<u32>,
    prefix: Vec<u32>,
}

/// Paths without their first slash, in order: a path comes after every path above it.
#[derive(Default)]
struct Builder<'a> {
    paths: BTreeMap<&'a str, Draft>,
    root: Vec<u32>,
    regexes: Vec<u32>,
}

impl<'a> Builder<'a> {
    fn build(mut self, rules: &'a [Rule]) -> PathIndex {
        for (index, rule) in (0u32..).zip(rules) {
            let plain = is_plain(&rule.matches);
            let word = index | if plain { PLAIN } else { 0 };
            // A path that does not start with a slash matches nothing.
            match &rule.matches.path {
                PathMatch::Exact(path) => {
                    if let Some(path) = path.strip_prefix('/') {
                        self.paths.entry(path).or_default().exact.push(word);
                    }
                }
                PathMatch::Prefix(path) => match prefix_elements(path) {
                    None => self.root.push(word),
                    Some(path) => {
                        if let Some(path) = path.strip_prefix('/') {
                            self.paths.entry(path).or_default().prefix.push(word);
                        }
                    }
                },
                PathMatch::Regex(_) => self.regexes.push(word),
            }
        }
        self.finish(rules)
    }

    fn finish(self, rules: &[Rule]) -> PathIndex {
        let slots = to_u32((self.paths.len() * 4 / 3 + 1).next_power_of_two());
        let mut table = vec![0; slots as usize * SLOT_BYTES];
        let mut lists = Words { start: to_u32(table.len()), bytes: Vec::new() };
        let words: Vec<_> = self
            .paths
            .values()
            .map(|draft| (lists.one_or_add(&draft.exact), lists.one_or_add(&draft.prefix)))
            .collect();
        let (root, regexes) = (lists.one_or_add(&self.root), lists.add(&self.regexes));
        let texts_start = table.len() + lists.bytes.len();
        let mut texts = Vec::new();
        let mut places: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut depths, mut depth_max, mut element_max) = (0u64, 0, 0);
        for (path, (exact, prefix)) in self.paths.keys().zip(words) {
            let elements = || path.as_bytes().split(|byte| *byte == b'/');
            let depth = elements().count();
            depths |= if depth < 64 { 1 << depth } else { 0 };
            depth_max = depth_max.max(depth);
            element_max = elements().map(<[u8]>::len).fold(element_max, usize::max);
            let hash = slot_hash(elements().fold(0, element_hash));
            let slot = free_slot(&table, hash);
            let above = ancestors(path).find_map(|above| places.get(above)).copied().unwrap_or(NONE);
            if prefix != NONE {
                places.insert(path, to_u32(slot));
            }
            let start = slot * SLOT_BYTES;
            let text = if path.len() <= INLINE_MAX {
                table[start + NODE_BYTES..][..path.len()].copy_from_slice(path.as_bytes());
                start + NODE_BYTES
            } else {
                texts.extend_from_slice(path.as_bytes());
                texts_start + texts.len() - path.len()
            };
            let node = [hash, to_u32(text), to_u32(path.len()), exact, prefix, above];
            for (place, word) in table[start..start + NODE_BYTES].chunks_exact_mut(4).zip(node) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        table.extend_from_slice(&lists.bytes);
        table.extend_from_slice(&texts);
        PathIndex {
            block: table.into(),
            slots,
            root,
            regexes,
            depth_max: to_u32(depth_max),
            element_max: to_u32(element_max),
            depths,
            regex_starts: regex_starts(rules),
        }
    }
}

/// The slot where a path of this hash goes.
fn free_slot(table: &[u8], hash: u32) -> usize {
    let slots = table.len() / SLOT_BYTES;
    let mut slot = hash as usize & (slots - 1);
    while table[slot * SLOT_BYTES..][..4] != [0; 4] {
        slot = (slot + 1) & (slots - 1);
    }
    slot
}

fn is_plain(matches: &RuleMatch) -> bool {
    matches.method.is_none()
        && matches.headers.is_empty()
        && matches.query.is_empty()
        && matches.more.is_empty()
}

/// The paths above `path`, the nearest first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = &rest[..rest.rfind('/')?];
        Some(rest)
    })
}

/// Lists of rules on their way into the block.
struct Words {
    /// Where in the block the lists start.
    start: u32,
    bytes: Vec<u8>,
}

impl Words {
    /// The list of these rules as a node keeps it: a single rule itself, or where the list is.
    fn one_or_add(&mut self, rules: &[u32]) -> u32 {
        match rules {
            [only] => only | LAST,
            _ => self.add(rules),
        }
    }

    /// Where the list of these rules is; [`NONE`] when there are none.
    fn add(&mut self, rules: &[u32]) -> u32 {
        let start = self.start + to_u32(self.bytes.len());
        let Some((last, others)) = rules.split_last() else { return NONE };
        let words = others.iter().copied().chain([last | LAST]);
        self.bytes.extend(words.flat_map(u32::to_le_bytes));
        start
    }
}

fn regex_starts(rules: &[Rule]) -> Arc<[u32]> {
    if all_regexes(rules).next().is_none() {
        return Arc::default();
    }
    let mut next = 0;
    let starts = rules.iter().map(|rule| {
        let start = next;
        next += to_u32(all_regexes(std::slice::from_ref(rule)).count());
        start
    });
    starts.collect()
}

/// Rules and bytes of one host are far fewer than 2^30: its objects went through an API server.
fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("the paths of one host are less than 4 GiB")
}
