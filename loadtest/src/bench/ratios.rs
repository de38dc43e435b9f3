//! What peers are known to cost beside each other, and whether a run agrees: `peers/ratios.txt`.

use clap::ValueEnum;

use super::case::Case;
use super::proxy::Proxy;
use super::report::Row;

/// A run in which a peer's ratio is more than this off what is known is void.
const TOLERANCE: f64 = 0.15;

const TABLE: &str = include_str!("../../peers/ratios.txt");

/// What is known of one peer in one case.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    case: &'static str,
    peer: Proxy,
    low: f64,
    high: f64,
    of: Proxy,
}

/// A peer's ratio in this run beside the known one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    known: Known,
    ratio: f64,
}

fn read(line: &'static str) -> Option<Known> {
    let line = line.split('#').next()?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [case, peer, low, high, of] = words.as_slice() else { return None };
    let proxy = |name: &str| Proxy::from_str(name, true).ok();
    Some(Known { case, peer: proxy(peer)?, low: low.parse().ok()?, high: high.parse().ok()?, of: proxy(of)? })
}

/// A verdict on each peer of which something is known and whose yardstick was measured, too.
pub(crate) fn verdicts(case: Case, rows: &[Row]) -> Vec<Verdict> {
    let cost = |proxy| rows.iter().find(|row| row.proxy() == proxy).map(|row| row.cpu_us().median);
    let known = TABLE.lines().filter_map(read).filter(|known| known.case == case.name);
    known.filter_map(|known| Some(Verdict { known, ratio: cost(known.peer)? / cost(known.of)? })).collect()
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        (self.known.low * (1.0 - TOLERANCE)..=self.known.high * (1.0 + TOLERANCE)).contains(&self.ratio)
    }

    fn expected(&self) -> String {
        let Known { low, high, .. } = self.known;
        if low < high { format!("{low:.2} to {high:.2}") } else { format!("{low:.2}") }
    }

    /// In a few words.
    pub(crate) fn line(&self) -> String {
        let Known { peer, of, .. } = self.known;
        let word = if self.holds() { "as known" } else { "OFF" };
        let (peer, of, known) = (peer.name(), of.name(), self.expected());
        format!("{peer} {:.2} × {of}, known {known}: {word}", self.ratio)
    }

    /// Why the run is void; nothing when the ratio holds.
    pub(crate) fn reason(&self) -> Option<String> {
        let Known { case, peer, of, .. } = self.known;
        let (peer, of, off) = (peer.name(), of.name(), TOLERANCE * 100.0);
        let (ratio, known) = (self.ratio, self.expected());
        (!self.holds()).then(|| {
            format!("{case}: {peer} costs {ratio:.2} × {of}, known is {known}, more than {off:.0} % off")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::Spec;
    use super::*;

    #[test]
    fn every_line_is_of_a_case_and_of_proxies_that_take_part_in_it() {
        let lines = || TABLE.lines().map(|line| line.split('#').next().unwrap_or("").trim());
        for line in lines().filter(|line| !line.is_empty()) {
            let known = read(line).unwrap_or_else(|| panic!("{line:?}"));
            let cases = Spec::named(known.case);
            assert_eq!(cases.len(), 1, "{line}");
            assert!(cases[0].takes(known.peer) && cases[0].takes(known.of), "{line}");
            assert!(known.peer.is_peer() && known.low > 0.0 && known.low <= known.high, "{line}");
            assert_ne!(known.peer, known.of);
        }
        assert!(lines().filter(|line| line.starts_with("h2-32")).count() == 2);
    }
}
