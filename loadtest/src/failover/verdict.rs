//! When the proxy itself says that it found the fault: from its log, and a count from its admin API.
//!
//! A verdict is a line of the log that says `to=Down…` or `state=Down…` (in any case, quoted or not) among its
//! fields and begins with a time (RFC 3339, UTC), which is how Ringway writes transitions. Peers say nothing of the kind in time:
//! then there are none, and the table says n/a.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// Where Ringway counts what it found.
pub(crate) const COUNT_PATH: &str = "/api/v1/clusters";

/// One verdict of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Since the start of the load; zero for what came before.
    pub(crate) at: Duration,
}

/// Every verdict in a log, for a load that started at `start`; `None` when there is none.
pub(crate) fn read(log: &str, start: SystemTime) -> Option<Vec<Told>> {
    let start = start.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let told: Vec<Told> =
        log.lines().filter_map(|line| Some(Told { at: line_time(line)?.saturating_sub(start) })).collect();
    (!told.is_empty()).then_some(told)
}

/// From when until when a cluster, or a backend in it, was suspected or down, as the log of whoever decided says it; for
/// a load that started at `start`. The end of one that did not end is [`Duration::MAX`].
pub(crate) fn doubts(log: &str, cluster: &str, start: SystemTime) -> Vec<(Duration, Duration)> {
    let Ok(start) = start.duration_since(SystemTime::UNIX_EPOCH) else { return Vec::new() };
    let mut open = BTreeMap::new();
    let mut doubts = Vec::new();
    for (at, change) in log.lines().filter_map(|line| Some((line_time_of(line)?, Change::of(line)?))) {
        let at = at.saturating_sub(start);
        if change.cluster != cluster || change.scope == "endpoint" {
            continue;
        }
        match change.is_doubt {
            true => drop(open.entry(change.scope).or_insert(at)),
            false => doubts.extend(open.remove(change.scope).map(|since| (since, at))),
        }
    }
    doubts.extend(open.into_values().map(|since| (since, Duration::MAX)));
    doubts
}

/// One change of state, as a line of the log tells it.
struct Change<'a> {
    scope: &'a str,
    cluster: &'a str,
    /// Is it suspected or down from now on?
    is_doubt: bool,
}

impl<'a> Change<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let field = |name: &str| {
            let of = |word: &'a str| word.split_once('=').filter(|(key, _)| *key == name);
            line.split(' ').find_map(of).map(|(_, value)| value.trim_matches('"'))
        };
        let to = field("to")?.to_ascii_lowercase();
        let is_doubt = to.starts_with("down") || to.starts_with("suspect");
        Some(Self { scope: field("scope")?, cluster: field("cluster")?, is_doubt })
    }
}

fn line_time_of(line: &str) -> Option<Duration> {
    rfc3339(line.split(' ').find(|word| !word.is_empty())?)
}

/// The time of a line that is a verdict, since 1970.
fn line_time(line: &str) -> Option<Duration> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let time = rfc3339(words.next()?)?;
    let is_down = |word: &str| {
        let Some((key, value)) = word.split_once('=') else { return false };
        let value = value.trim_start_matches('"').to_ascii_lowercase();
        matches!(key, "to" | "state") && value.starts_with("down")
    };
    words.any(is_down).then_some(time)
}

/// `2026-01-31T12:34:56.789012Z`
fn rfc3339(text: &str) -> Option<Duration> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (time.next()??, time.next()??, time.next()??);
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    let days = u64::try_from(days_since_1970(year, month, day)).ok()?;
    Some(Duration::new(days * 86_400 + hours * 3_600 + minutes * 60 + seconds, nanos))
}

/// Days of the Gregorian calendar; years begin in March, so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// What `/api/v1/clusters` says of it; fields that are not needed are left out.
#[derive(Deserialize)]
struct Clusters {
    node: Node,
}

#[derive(Deserialize)]
struct Node {
    ejections_total: u64,
}

/// Ejections since the start.
pub(crate) fn count(body: &str) -> Option<u64> {
    // Chunk framing may stand before and after the text.
    let text = body.get(body.find('{')?..=body.rfind('}')?)?;
    serde_json::from_str::<Clusters>(text).ok().map(|clusters| clusters.node.ejections_total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_microsecond() {
        assert_eq!(rfc3339("1970-01-02T00:00:01.5Z"), Some(Duration::from_millis(86_401_500)));
        assert_eq!(rfc3339("2024-02-29T12:00:00Z"), Some(Duration::from_secs(1_709_208_000)));
        assert_eq!(rfc3339("2026-03-01T00:00:00.000001Z").map(|t| t.subsec_nanos()), Some(1_000));
        for wrong in ["", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00+01:00", "xT1Z"] {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_that_says_down_is_a_verdict_and_nothing_else_is() {
        let log = "\
1970-01-01T00:00:09.000000Z  INFO ringway: verdict cluster=a from=Healthy to=Suspect
1970-01-01T00:00:10.250000Z  WARN ringway: verdict cluster=a from=Suspect to=Down(silent)
1970-01-01T00:00:11Z  INFO ringway: verdict cluster=a state=\"down\"
1970-01-01T00:00:12Z  INFO ringway: verdict cluster=a from=Down(silent) to=Probation
   to=Down
";
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let expected = [250, 1_000].map(|millis| Told { at: Duration::from_millis(millis) });
        assert_eq!(read(log, start), Some(expected.to_vec()));
        assert_eq!(read("", start), None);
    }

    #[test]
    fn a_doubt_lasts_from_suspicion_to_probation_of_the_cluster_or_a_backend_in_it() {
        let log = "\
1970-01-01T00:00:11Z INFO gateway: verdict worker=0 scope=cluster cluster=a from=healthy to=suspect held_ms=1
1970-01-01T00:00:12Z WARN gateway: verdict worker=0 scope=cluster cluster=a from=suspect to=down (silent) held_ms=9
1970-01-01T00:00:12Z INFO gateway: verdict worker=0 scope=endpoint 10.0.0.1:80 cluster=a from=healthy to=suspect
1970-01-01T00:00:13Z INFO gateway: verdict worker=1 scope=backend default/web:80 cluster=a from=healthy to=suspect
1970-01-01T00:00:14Z INFO gateway: verdict worker=0 scope=cluster cluster=b from=healthy to=suspect
1970-01-01T00:00:15Z INFO gateway: verdict worker=0 scope=cluster cluster=a from=down (silent) to=probation
";
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let seconds = Duration::from_secs;
        assert_eq!(doubts(log, "a", start), [(seconds(1), seconds(5)), (seconds(3), Duration::MAX)]);
        assert_eq!(doubts("", "a", start), []);
    }

    #[test]
    fn ejections_are_read_from_the_api_whatever_else_it_says() {
        let body =
            "1f\r\n{\"generation\":1,\"node\":{\"ejections_total\":7,\"x\":1},\"clusters\":[]}\r\n0\r\n\r\n";
        assert_eq!(count(body), Some(7));
        assert_eq!(count("{}"), None);
        assert_eq!(count(""), None);
    }
}
