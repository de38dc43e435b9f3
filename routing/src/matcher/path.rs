//! The path index of one host's rules: a trie by path element, shared by all workers.
//!
//! Looking a path up costs one hash probe for each of its elements that some rule also has, so a path of 8 KiB of
//! slashes costs no more than the deepest rule. What is found is always the first rule, in the order of
//! [`HostRules::rules`](crate::model::HostRules), that matches the whole request: the index never reorders.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use regex::bytes::Regex;
use wire::head::RequestView;

use super::{OwnRegexes, other_mismatch};
use crate::model::{PathMatch, Rule, ValuePattern};

const NONE: u32 = u32::MAX;

/// Does `pattern` cover `path`? The plain statement of what the index answers, for one rule.
#[must_use]
pub fn is_match(pattern: &PathMatch, path: &[u8]) -> bool {
    match pattern {
        PathMatch::Exact(wanted) => wanted.as_bytes() == path,
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::Prefix(prefix) => match prefix_elements(prefix) {
            None => true,
            Some(prefix) => {
                path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
        },
    }
}

/// A prefix without its trailing slash; `None` for `/`, which covers everything.
fn prefix_elements(prefix: &str) -> Option<&str> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    (!prefix.is_empty()).then_some(prefix)
}

/// A range of [`PathIndex::lists`].
#[derive(Clone, Copy, Debug, Default)]
struct List {
    start: u32,
    len: u32,
}

/// One path: the elements from the root to here.
#[derive(Clone, Debug)]
struct Node {
    parent: u32,
    /// This node's element, in [`PathIndex::text`].
    text: List,
    /// Rules whose path is exactly this.
    exact: List,
    /// Rules whose prefix is exactly this.
    prefix: List,
    /// The nearest node above that has prefix rules.
    above: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct PathIndex {
    nodes: Box<[Node]>,
    /// Open addressing over (parent, element): (hash, node); a power of two, at most half full.
    slots: Box<[(u32, u32)]>,
    text: Box<[u8]>,
    /// Rule indexes, ascending within each list.
    lists: Box<[u32]>,
    /// Rules with a path regex, ascending.
    regexes: Box<[u32]>,
    /// Index of each rule's first regex among all regexes of the host; empty when there is none.
    regex_starts: Box<[u32]>,
    /// Bytes of the longest element.
    element_max: usize,
}

impl PathIndex {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        Builder::default().build(rules)
    }

    /// The first rule that matches. `own` holds a worker's copies of [`all_regexes`], or nothing.
    pub(crate) fn find(&self, rules: &[Rule], own: &[Regex], view: &RequestView<'_>) -> Option<u32> {
        let path = view.path();
        let (node, reached) = self.walk(path);
        let mut best = NONE;
        if reached == Reached::End {
            best = self.first_in(self.list(self.nodes[node as usize].exact), best, rules, own, view);
        }
        best = self.first_regex(best, path, rules, own, view);
        let mut at = node;
        while at != NONE {
            let node = &self.nodes[at as usize];
            best = self.first_in(self.list(node.prefix), best, rules, own, view);
            at = node.above;
        }
        (best != NONE).then_some(best)
    }

    /// Follows `path` as far as some rule goes.
    fn walk(&self, path: &[u8]) -> (u32, Reached) {
        // `*` (OPTIONS) has no elements: only what covers everything covers it.
        let [b'/', rest @ ..] = path else { return (0, Reached::Part) };
        let mut node = 0;
        let mut rest = rest;
        loop {
            let window = &rest[..rest.len().min(self.element_max + 1)];
            let len = match window.iter().position(|byte| *byte == b'/') {
                Some(len) => len,
                None if window.len() == rest.len() => rest.len(),
                None => return (node, Reached::Part),
            };
            let Some(child) = self.child(node, &rest[..len]) else { return (node, Reached::Part) };
            node = child;
            if len == rest.len() {
                return (node, Reached::End);
            }
            rest = &rest[len + 1..];
        }
    }

    fn child(&self, parent: u32, element: &[u8]) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let hash = element_hash(parent, element);
        let mut at = hash as usize & mask;
        loop {
            let (stored, node) = self.slots[at];
            if node == NONE {
                return None;
            }
            if stored == hash {
                let candidate = &self.nodes[node as usize];
                if candidate.parent == parent && self.element(candidate) == element {
                    return Some(node);
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn element(&self, node: &Node) -> &[u8] {
        &self.text[node.text.start as usize..(node.text.start + node.text.len) as usize]
    }

    fn list(&self, list: List) -> &[u32] {
        &self.lists[list.start as usize..(list.start + list.len) as usize]
    }

    fn own_of<'a>(&self, rule: u32, own: &'a [Regex]) -> OwnRegexes<'a> {
        let start = self.regex_starts.get(rule as usize).copied().unwrap_or(0);
        OwnRegexes::new(own.get(start as usize..).unwrap_or_default())
    }

    fn first_in(
        &self,
        list: &[u32],
        best: u32,
        rules: &[Rule],
        own: &[Regex],
        view: &RequestView<'_>,
    ) -> u32 {
        for rule in list.iter().copied().take_while(|rule| *rule < best) {
            let mut own = self.own_of(rule, own);
            if other_mismatch(&rules[rule as usize].matches, &mut own, view).is_none() {
                return rule;
            }
        }
        best
    }

    fn first_regex(
        &self,
        best: u32,
        path: &[u8],
        rules: &[Rule],
        own: &[Regex],
        view: &RequestView<'_>,
    ) -> u32 {
        for rule in self.regexes.iter().copied().take_while(|rule| *rule < best) {
            let matches = &rules[rule as usize].matches;
            let PathMatch::Regex(regex) = &matches.path else { continue };
            let mut own = self.own_of(rule, own);
            if own.next_for(regex).is_match(path) && other_mismatch(matches, &mut own, view).is_none() {
                return rule;
            }
        }
        best
    }
}

/// How far a walk came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// Every element was found.
    End,
    /// The path goes on where no rule does.
    Part,
}

fn element_hash(parent: u32, element: &[u8]) -> u32 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u32(parent);
    hasher.write(element);
    let hash = hasher.finish();
    // Both halves: the low bits alone choose the slot.
    #[allow(clippy::cast_possible_truncation, reason = "folding 64 bits of hash into 32")]
    let folded = (hash ^ (hash >> 32)) as u32;
    folded
}

/// Every regex of `rules`, rule by rule, in the order path, headers, query.
pub(crate) fn all_regexes(rules: &[Rule]) -> impl Iterator<Item = &Regex> {
    rules.iter().flat_map(|rule| {
        let path = match &rule.matches.path {
            PathMatch::Regex(regex) => Some(regex),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let values = rule.matches.headers.iter().chain(rule.matches.query.iter());
        path.into_iter().chain(values.filter_map(|condition| match &condition.value {
            ValuePattern::Regex(regex) => Some(regex),
            ValuePattern::Exact(_) => None,
        }))
    })
}

/// Rules of one node while the index is built.
#[derive(Default)]
struct Draft {
    parent: u32,
    element: List,
    exact: Vec<u32>,
    prefix: Vec<u32>,
}

#[derive(Default)]
struct Builder {
    drafts: Vec<Draft>,
    children: std::collections::HashMap<(u32, Vec<u8>), u32, FixedState>,
    text: Vec<u8>,
    regexes: Vec<u32>,
    element_max: usize,
}

impl Builder {
    fn build(mut self, rules: &[Rule]) -> PathIndex {
        self.drafts.push(Draft::default());
        for (index, rule) in (0u32..).zip(rules) {
            match &rule.matches.path {
                PathMatch::Exact(path) => {
                    if let Some(path) = path.strip_prefix('/') {
                        let node = self.node(path);
                        self.drafts[node].exact.push(index);
                    }
                }
                PathMatch::Prefix(path) => match prefix_elements(path) {
                    None => self.drafts[0].prefix.push(index),
                    Some(path) => {
                        if let Some(path) = path.strip_prefix('/') {
                            let node = self.node(path);
                            self.drafts[node].prefix.push(index);
                        }
                    }
                },
                PathMatch::Regex(_) => self.regexes.push(index),
            }
        }
        self.finish(rules)
    }

    /// The node of `path` (without its first slash), with all nodes above it.
    fn node(&mut self, path: &str) -> usize {
        let mut node = 0;
        for element in path.as_bytes().split(|byte| *byte == b'/') {
            node = match self.children.get(&(node, element.to_vec())) {
                Some(child) => *child,
                None => {
                    let child = to_u32(self.drafts.len());
                    let text = List { start: to_u32(self.text.len()), len: to_u32(element.len()) };
                    self.text.extend_from_slice(element);
                    self.element_max = self.element_max.max(element.len());
                    self.drafts.push(Draft { parent: node, element: text, ..Draft::default() });
                    self.children.insert((node, element.to_vec()), child);
                    child
                }
            };
        }
        node as usize
    }

    fn finish(self, rules: &[Rule]) -> PathIndex {
        let mut lists = Vec::new();
        let mut keep = |rules: &[u32]| {
            let start = to_u32(lists.len());
            lists.extend_from_slice(rules);
            List { start, len: to_u32(rules.len()) }
        };
        let mut nodes: Vec<Node> = Vec::with_capacity(self.drafts.len());
        for (index, draft) in self.drafts.iter().enumerate() {
            // Parents come before their children, so the node above is complete.
            let above = match nodes.get(draft.parent as usize) {
                Some(parent) if index > 0 && parent.prefix.len > 0 => draft.parent,
                Some(parent) if index > 0 => parent.above,
                Some(_) | None => NONE,
            };
            let (exact, prefix) = (keep(&draft.exact), keep(&draft.prefix));
            nodes.push(Node { parent: draft.parent, text: draft.element, exact, prefix, above });
        }
        let mut slots = vec![(0, NONE); (nodes.len() * 2).next_power_of_two()];
        for (index, node) in nodes.iter().enumerate().skip(1) {
            let text = node.text;
            let hash =
                element_hash(node.parent, &self.text[text.start as usize..(text.start + text.len) as usize]);
            let mut at = hash as usize & (slots.len() - 1);
            while slots[at].1 != NONE {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = (hash, to_u32(index));
        }
        PathIndex {
            nodes: nodes.into(),
            slots: slots.into(),
            text: self.text.into(),
            lists: lists.into(),
            regexes: self.regexes.into(),
            regex_starts: regex_starts(rules),
            element_max: self.element_max,
        }
    }
}

fn regex_starts(rules: &[Rule]) -> Box<[u32]> {
    if all_regexes(rules).next().is_none() {
        return Box::default();
    }
    let mut next = 0;
    let starts = rules.iter().map(|rule| {
        let start = next;
        next += to_u32(all_regexes(std::slice::from_ref(rule)).count());
        start
    });
    starts.collect()
}

/// Rules, nodes and bytes of one host are far fewer than 2^32: a host of that size would not fit in memory.
fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("a host's rules fit in memory many times over before this")
}
