//! A sample of the decisions of the last minute, so that `ringway plan` can ask another table about real requests.
//!
//! Each worker keeps a random sample of the requests that it has answered, of a second or a few (reservoir sampling,
//! Li 1994, "algorithm L": how many are skipped until the next one is drawn beforehand, so that a request costs one
//! decrement and one branch). The buffers are used again; nothing is allocated for a request once they have grown. At the
//! end of the period the sample leaves, in two allocations, as one [`Batch`] through a bounded channel for the admin thread, which holds what is
//! not older than [`SPAN`]. All of it is in memory only.
//!
//! Kept of a request: host, method, path; of headers, cookies, query parameters and the client's address only what a
//! condition of the host's rules or a pin of the rule asks for. Nothing else of it, and no body.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use rand::Rng;
use routing::id::{BackendId, ClusterId};
use routing::subject::Subject;
use routing::table::{Look, RuleRef, Seen, Table};
use routing::time::MonoTime;
use wire::head::RequestView;

use super::stats::{Limit, WorkerStats};

/// How long a decision is remembered.
pub const SPAN: Duration = Duration::from_secs(60);
/// Bytes of one decision; what is longer is left out of the sample and counted.
pub const DECISION_BYTES_MAX: usize = 2 * 1024;
/// Batches that wait for the admin thread, all workers together.
pub const BATCHES_CAP: usize = 256;

/// One request, and where it went.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What is kept of its head, as a head of HTTP/1.1.
    pub head: Box<[u8]>,
    /// The names that are in the head if they were in the request: `header x-cluster`, `cookie side`, `query v`, `source`.
    pub looked: Box<[Arc<str>]>,
    /// Do those names cover all rules of the host?
    pub seen: Seen,
    /// Where it arrived.
    pub bind: Option<SocketAddr>,
    /// Who sent it, where a rule or a pin asks for it.
    pub source: Option<IpAddr>,
    /// The rule that served it: its route, and its index there; `None` = none did.
    pub rule: Option<(Arc<str>, u16)>,
    /// The backend and the cluster that had it last; `None` = none did.
    pub went: Option<(Arc<str>, Arc<str>)>,
}

/// What one worker has answered in one period, and a sample of it: two allocations, whatever it holds.
#[derive(Clone, Debug)]
pub struct Batch {
    /// When the period ended.
    pub at: MonoTime,
    /// Requests answered in it.
    pub answered: u64,
    kept: Vec<Kept>,
    /// The texts of all of them, behind each other.
    texts: Vec<u8>,
}

/// A decision but for its texts.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Bytes of head, names that were looked at, route, backend and cluster.
    lengths: [usize; 5],
    seen: Seen,
    bind: Option<SocketAddr>,
    source: Option<IpAddr>,
    rule_index: Option<u16>,
    has_gone: bool,
}

impl Batch {
    fn with_room(at: MonoTime, answered: u64, decisions: usize, bytes: usize) -> Self {
        Self { at, answered, kept: Vec::with_capacity(decisions), texts: Vec::with_capacity(bytes) }
    }

    fn push(&mut self, texts: [&[u8]; 5], kept: Kept) {
        texts.iter().for_each(|text| self.texts.extend_from_slice(text));
        self.kept.push(Kept { lengths: texts.map(<[u8]>::len), ..kept });
    }

    /// How many decisions it holds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// They.
    pub fn decisions(&self) -> impl Iterator<Item = Decision> {
        let mut texts = &self.texts[..];
        self.kept.iter().map(move |kept| {
            let [head, looked, route, backend, cluster] = kept.lengths.map(|length| {
                let (text, rest) = texts.split_at(length);
                texts = rest;
                text
            });
            let name = |text| Arc::<str>::from(String::from_utf8_lossy(text));
            Decision {
                head: head.into(),
                looked: String::from_utf8_lossy(looked).lines().map(Arc::from).collect(),
                seen: kept.seen,
                bind: kept.bind,
                source: kept.source,
                rule: kept.rule_index.map(|index| (name(route), index)),
                went: kept.has_gone.then(|| (name(backend), name(cluster))),
            }
        })
    }
}

#[cfg(test)]
impl Batch {
    /// Of so many that are the same.
    pub(crate) fn of_alike(at: MonoTime, answered: u64, count: usize) -> Self {
        let mut batch = Self::with_room(at, answered, count, 0);
        let kept = Kept {
            lengths: [0; 5],
            seen: Seen::All,
            bind: None,
            source: None,
            rule_index: None,
            has_gone: false,
        };
        (0..count).for_each(|_| batch.push([b"GET / HTTP/1.1\r\n\r\n", b"", b"", b"", b""], kept));
        batch
    }
}

/// A place of the sample.
#[derive(Default)]
struct Place {
    head: Vec<u8>,
    looked: Vec<u8>,
    seen: Option<Seen>,
    bind: Option<SocketAddr>,
    source: Option<IpAddr>,
    /// The route by name, as the rest of it: a request clones no `Arc`, and a worker drops none.
    route: String,
    rule_index: Option<u16>,
    /// Backend and cluster by name, behind each other: numbers may be given anew before the period is over.
    went: String,
    backend_len: Option<usize>,
}

/// See the module.
pub struct Decisions {
    /// Requests that pass until one is looked at; never reaches zero when it is off.
    skips: Cell<u64>,
    sample: RefCell<Sample>,
    /// Periods of housekeeping that make one batch.
    seconds: u32,
    out: Option<Sender<Batch>>,
}

#[derive(Default)]
struct Sample {
    places: Vec<Place>,
    /// Places that are taken.
    taken: usize,
    /// What a draw beyond the last place has to beat (algorithm L's `W`).
    weight: f64,
    /// Seconds since the last batch.
    seconds: u32,
    /// `skips` when it was last set, so that both tell how many have passed.
    skipping: u64,
    passed: u64,
}

impl Default for Decisions {
    /// Off.
    fn default() -> Self {
        Self::new(0, 1, None)
    }
}

impl Decisions {
    /// One of `workers` that together remember at most `decisions_max` of [`SPAN`].
    #[must_use]
    pub fn new(decisions_max: u32, workers: u32, out: Option<Sender<Batch>>) -> Self {
        let (max, workers) = (u64::from(decisions_max), u64::from(workers.max(1)));
        let (places, seconds) = match (max, &out) {
            (0, _) | (_, None) => (0, 1),
            // Fewer than one a second and worker: one in so many seconds.
            (max, Some(_)) => {
                let seconds = (SPAN.as_secs() * workers).div_ceil(max);
                (max * seconds / (SPAN.as_secs() * workers), seconds)
            }
        };
        let places = usize::try_from(places).unwrap_or(usize::MAX);
        let skips = if places == 0 { u64::MAX } else { 1 };
        let sample = Sample {
            places: std::iter::repeat_with(Place::default).take(places).collect(),
            weight: 1.0,
            skipping: skips,
            ..Sample::default()
        };
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        Self { skips: Cell::new(skips), sample: RefCell::new(sample), seconds, out }
    }

    /// A request was answered: is it to be kept?
    #[inline]
    pub fn is_next(&self) -> bool {
        let left = self.skips.get() - 1;
        self.skips.set(left);
        left == 0
    }

    /// Keeps the request that [`Decisions::is_next`] was true for.
    pub fn keep(
        &self,
        (subject, view): (&Subject<'_>, &RequestView<'_>),
        rule: Option<&RuleRef>,
        went: Option<(BackendId, ClusterId)>,
        table: &Table,
        rng: &mut impl Rng,
    ) {
        let sample = &mut *self.sample.borrow_mut();
        sample.passed += sample.skipping;
        let count = sample.places.len();
        if count == 0 {
            // Off: the counter has gone all the way round.
            (sample.skipping, sample.passed) = (u64::MAX, 0);
            self.skips.set(u64::MAX);
            return;
        }
        let at = if sample.taken < count { sample.taken } else { rng.random_range(0..count) };
        sample.places[at].fill((subject, view), rule, went, table);
        sample.taken = count.min(at + 1).max(sample.taken);
        sample.skipping = if sample.taken < count { 1 } else { sample.draw(rng) };
        self.skips.set(sample.skipping);
    }

    /// A second has passed. Sends what was kept when the period is over.
    pub fn second(&self, now: MonoTime, stats: &WorkerStats) {
        let sample = &mut *self.sample.borrow_mut();
        sample.seconds += 1;
        if sample.places.is_empty() || sample.seconds < self.seconds {
            return;
        }
        sample.seconds = 0;
        let answered = sample.passed + (sample.skipping - self.skips.get());
        if answered == 0 {
            return;
        }
        let taken = std::mem::take(&mut sample.taken);
        let places = &mut sample.places[..taken];
        let bytes = places.iter().map(Place::bytes).sum();
        let mut batch = Batch::with_room(now, answered, taken, bytes);
        places.iter_mut().for_each(|place| place.move_to(&mut batch));
        if batch.count() < taken {
            stats.hit(Limit::Decisions);
        }
        (sample.passed, sample.weight, sample.skipping) = (0, 1.0, 1);
        self.skips.set(1);
        if self.out.as_ref().is_some_and(|out| out.try_send(batch).is_err()) {
            stats.hit(Limit::Decisions);
        }
    }
}

impl Sample {
    /// How many requests further the next one lies that takes a place.
    fn draw(&mut self, rng: &mut impl Rng) -> u64 {
        let mut lot = || rng.random::<f64>().max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_precision_loss, reason = "places are far below 2^52")]
        let count = self.places.len() as f64;
        self.weight *= (lot().ln() / count).exp();
        let skip = (lot().ln() / (-self.weight).ln_1p()).floor();
        // Saturates: a draw so far out is never reached.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, saturating"
        )]
        let skip = skip as u64;
        skip.saturating_add(1)
    }
}

impl Place {
    fn fill(
        &mut self,
        (subject, view): (&Subject<'_>, &RequestView<'_>),
        rule: Option<&RuleRef>,
        went: Option<(BackendId, ClusterId)>,
        table: &Table,
    ) {
        let Self { head, looked, .. } = self;
        head.clear();
        looked.clear();
        let (mut asks_source, mut has_query, mut has_cookie, mut is_whole) = (false, false, false, true);
        add(head, &[view.method_name(), b" ", view.path()]);
        let each = |which: fn(&Look<'_>) -> bool, take: &mut dyn FnMut(&str, Look<'_>)| {
            table.looks(subject, rule, &mut |look| {
                if which(&look) {
                    take(line_of(look)[1], look);
                }
            })
        };
        // Three rounds, one for each part of a head.
        let seen = each(|look| matches!(look, Look::Query(_)), &mut |name, look| {
            if note(looked, look)
                && let Some(value) = view.query_param(name.as_bytes())
            {
                let sign: &[u8] = if has_query { b"&" } else { b"?" };
                add(head, &[sign, name.as_bytes(), b"=", value]);
                has_query = true;
            }
        });
        add(head, &[b" HTTP/1.1\r\nHost: ", view.authority(), b"\r\n"]);
        each(|look| matches!(look, Look::Header(_) | Look::Source), &mut |name, look| {
            asks_source |= look == Look::Source;
            if note(looked, look)
                && let Some(value) = view.header(name.as_bytes())
            {
                if is_framing(name) {
                    is_whole = false;
                    return;
                }
                add(head, &[name.as_bytes(), b": ", value, b"\r\n"]);
            }
        });
        each(|look| matches!(look, Look::Cookie(_)), &mut |name, look| {
            if note(looked, look)
                && let Some(value) = view.cookie(name.as_bytes())
            {
                let sign: &[u8] = if has_cookie { b"; " } else { b"Cookie: " };
                add(head, &[sign, name.as_bytes(), b"=", value]);
                has_cookie = true;
            }
        });
        add(head, &[if has_cookie { b"\r\n\r\n" } else { b"\r\n" }]);
        self.seen = Some(if is_whole { seen } else { Seen::InPart });
        self.bind = table.address(subject.bind);
        self.source = asks_source.then(|| subject.peer.ip());
        self.route.clear();
        self.rule_index = rule.map(|rule| {
            self.route.push_str(&rule.action().route);
            rule.action().rule_index
        });
        self.went.clear();
        self.backend_len = went.map(|(backend, cluster)| {
            let backend = table.backend_name(backend);
            self.went.push_str(backend);
            self.went.push_str(table.cluster_name(cluster));
            backend.len()
        });
    }

    /// What it holds of texts; none when it is too long.
    fn bytes(&self) -> usize {
        let bytes = self.head.len() + self.looked.len();
        if bytes <= DECISION_BYTES_MAX { bytes + self.route.len() + self.went.len() } else { 0 }
    }

    /// Adds what is kept, unless it is too long. Large buffers stay not.
    fn move_to(&mut self, batch: &mut Batch) {
        if self.head.len() + self.looked.len() <= DECISION_BYTES_MAX {
            let (backend, cluster) = self.went.as_bytes().split_at(self.backend_len.unwrap_or(0));
            let kept = Kept {
                lengths: [0; 5],
                seen: self.seen.unwrap_or(Seen::InPart),
                bind: self.bind,
                source: self.source,
                rule_index: self.rule_index,
                has_gone: self.backend_len.is_some(),
            };
            batch.push([&self.head, &self.looked, self.route.as_bytes(), backend, cluster], kept);
        }
        self.head.shrink_to(DECISION_BYTES_MAX);
        self.looked.shrink_to(DECISION_BYTES_MAX);
    }
}

fn add(text: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| text.extend_from_slice(part));
}

/// What a name is called where decisions are told: its kind, and itself.
fn line_of(look: Look<'_>) -> [&str; 2] {
    match look {
        Look::Header(name) => ["header ", name],
        Look::Cookie(name) => ["cookie ", name],
        Look::Query(name) => ["query ", name],
        Look::Source => ["source", ""],
    }
}

/// The same, as text.
#[must_use]
pub fn label(look: Look<'_>) -> String {
    line_of(look).concat()
}

/// Adds the name; `false` when it is there.
fn note(looked: &mut Vec<u8>, look: Look<'_>) -> bool {
    let [kind, name] = line_of(look);
    let is_same =
        |line: &[u8]| line.strip_prefix(kind.as_bytes()).is_some_and(|rest| rest == name.as_bytes());
    if looked.split(|byte| *byte == b'\n').any(is_same) {
        return false;
    }
    add(looked, &[kind.as_bytes(), name.as_bytes(), b"\n"]);
    true
}

/// Fields that would make the kept head another request, for it has no body and is its connection's only one; and those
/// that hold far more than a rule looks for. A rule that looks at them cannot be told about.
fn is_framing(name: &str) -> bool {
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "expect",
        "cookie",
        "te",
        "trailer",
    ]
    .contains(&name)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use routing::table::TableSettings;
    use wire::h1::decode;
    use wire::h1::limits::HeadLimits;
    use wire::head::RequestHead;

    use super::*;

    /// Answers requests with these paths.
    fn answer(decisions: &Decisions, rng: &mut SmallRng, table: &Table, path: &str) {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\n\r\n").into_bytes();
        let mut head = RequestHead::default();
        decode::request(&bytes, &HeadLimits::default(), &mut head).unwrap();
        let view = RequestView { head: &head, bytes: &bytes };
        let kind = routing::subject::SubjectKind::Http(view);
        let peer = ([127, 0, 0, 1], 1).into();
        let subject = Subject { bind: routing::id::BindId(0), peer, kind };
        if decisions.is_next() {
            decisions.keep((&subject, &view), None, None, table, rng);
        }
    }

    /// Every request of a period is as likely to be kept as any other, whatever their number.
    #[test]
    fn the_sample_is_bounded_and_every_request_has_the_same_chance() {
        let (out, batches) = crossbeam_channel::bounded(1);
        // Two workers, a minute: ten places a second for each.
        let decisions = Decisions::new(1_200, 2, Some(out));
        let (mut rng, stats) = (SmallRng::seed_from_u64(7), WorkerStats::new(1));
        let table = Table::new(TableSettings::default());
        let mut kept = [0_u32; 100];
        for _ in 0..2_000 {
            (0..100).for_each(|n| answer(&decisions, &mut rng, &table, &format!("/{n}")));
            decisions.second(MonoTime::ZERO, &stats);
            let batch = batches.try_recv().unwrap();
            assert_eq!((batch.answered, batch.count()), (100, 10));
            for decision in batch.decisions() {
                let head = std::str::from_utf8(&decision.head).unwrap();
                let n: usize =
                    head.strip_prefix("GET /").unwrap().split(' ').next().unwrap().parse().unwrap();
                assert_eq!(head, format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
                kept[n] += 1;
            }
        }
        // 200 expected of each; a standard deviation is 13.4. The seed is fixed.
        assert!(kept.iter().all(|count| (140..260).contains(count)), "{kept:?}");
        assert_eq!(stats.hits(Limit::Decisions), 0, "a sample leaves most out: no bound was hit");
    }

    #[test]
    fn few_requests_are_all_kept_and_a_quiet_second_sends_nothing() {
        let (out, batches) = crossbeam_channel::bounded(2);
        let decisions = Decisions::new(1_200, 2, Some(out));
        let (mut rng, stats) = (SmallRng::seed_from_u64(7), WorkerStats::new(1));
        let table = Table::new(TableSettings::default());
        decisions.second(MonoTime::ZERO, &stats);
        assert!(batches.is_empty());
        (0..10).for_each(|n| answer(&decisions, &mut rng, &table, &format!("/{n}")));
        decisions.second(MonoTime::ZERO, &stats);
        let batch = batches.try_recv().unwrap();
        assert_eq!((batch.answered, batch.count(), stats.hits(Limit::Decisions)), (10, 10, 0));
        let long = format!("/{}", "x".repeat(DECISION_BYTES_MAX));
        answer(&decisions, &mut rng, &table, &long);
        decisions.second(MonoTime::ZERO, &stats);
        let batch = batches.try_recv().unwrap();
        assert_eq!((batch.answered, batch.count(), stats.hits(Limit::Decisions)), (1, 0, 1));
    }

    #[test]
    fn switched_off_or_with_fewer_places_than_seconds_it_stays_within_its_bound() {
        let (out, batches) = crossbeam_channel::bounded(64);
        let (mut rng, stats) = (SmallRng::seed_from_u64(7), WorkerStats::new(1));
        let table = Table::new(TableSettings::default());
        for (max, workers) in [(0, 2), (1, 1), (30, 4), (59, 1), (61, 3)] {
            let decisions = Decisions::new(max, workers, Some(out.clone()));
            for _ in 0..60 {
                (0..100).for_each(|n| answer(&decisions, &mut rng, &table, &format!("/{n}")));
                decisions.second(MonoTime::ZERO, &stats);
            }
            let kept: usize = batches.try_iter().map(|batch| batch.count()).sum();
            assert!(kept <= (max / workers) as usize, "{kept} of {max} among {workers}");
        }
    }
}
