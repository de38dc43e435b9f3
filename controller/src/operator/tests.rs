use super::store::Store;
use super::*;

const SECOND: u64 = 1_000_000_000;

fn table(clusters: &[(&str, u8, bool)]) -> RouteTable {
    let mut table = RouteTable::default();
    for (index, (name, drain_percent, promoted)) in clusters.iter().enumerate() {
        let id = ClusterId(u16::try_from(index).unwrap());
        let (drain_percent, promoted) = (*drain_percent, *promoted);
        let spec = ClusterSpec { name: (*name).into(), drain_percent, promoted, ..ClusterSpec::default() };
        table.clusters.insert(id, Arc::new(spec));
    }
    table
}

fn drain(over_s: u64) -> Order {
    Order::Drain { over: Duration::from_secs(over_s) }
}

const UNDRAIN: Order = Order::Undrain { over: Duration::ZERO };

/// What workers know of the first cluster.
fn told(words: &Words, table: &RouteTable) -> (u8, bool) {
    let evidence = words.evidence(None, table);
    let spec = words.overlay(&table.clusters[&ClusterId(0)]);
    assert_eq!((spec.drain_percent, spec.promoted), (evidence.drained[0].1, evidence.promoted[0].1));
    (spec.drain_percent, spec.promoted)
}

#[test]
fn a_drain_over_a_time_moves_one_percent_at_a_time_and_ends_exactly() {
    let table = table(&[("alpha", 0, false), ("beta", 0, false)]);
    let mut words = Words::default();
    let start = 7 * SECOND;
    words.order("alpha", drain(30), start, &table).unwrap();
    assert_eq!(told(&words, &table).0, 0);
    let (mut now, mut last, mut steps) = (start, 0, 0);
    while let Some(next) = words.next_step_ns(now) {
        assert!(next > now, "time goes on");
        now = next;
        words.step(now);
        let percent = told(&words, &table).0;
        let due = (now - start) * 100 / (30 * SECOND);
        assert!(u64::from(percent) <= due && due <= u64::from(percent) + 1, "{percent} at {due}");
        assert!(percent >= last);
        last = percent;
        steps += 1;
        assert!(steps <= 200, "a ramp ends");
    }
    assert_eq!((last, now), (100, start + 30 * SECOND));
    assert!(steps >= 100, "{steps} steps: a bounded rate");
}

#[test]
fn a_step_that_comes_late_catches_up_and_a_ramp_may_turn_round() {
    let table = table(&[("alpha", 0, false)]);
    let mut words = Words::default();
    words.order("alpha", drain(10), 0, &table).unwrap();
    assert_eq!(words.step(5 * SECOND), ["alpha".into()]);
    assert_eq!(told(&words, &table).0, 50);
    words.order("alpha", Order::Undrain { over: Duration::from_secs(10) }, 5 * SECOND, &table).unwrap();
    words.step(10 * SECOND);
    assert_eq!(told(&words, &table).0, 25, "from where it stood");
    words.step(99 * SECOND);
    assert_eq!(told(&words, &table).0, 0);
    assert!(words.settle(&table), "nobody drains it: nothing is left to say");
    assert_eq!(words.standing_of("alpha", &table).drain_origin, Origin::Manifest);
    assert_eq!(words.next_step_ns(99 * SECOND), None);
}

#[test]
fn an_operators_word_beats_the_manifest_until_it_is_taken_back() {
    let (free, drained) = (table(&[("alpha", 0, false)]), table(&[("alpha", 100, true)]));
    let mut words = Words::default();
    words.order("alpha", drain(0), 0, &free).unwrap();
    for manifest in [&free, &drained, &free] {
        words.settle(manifest);
        assert_eq!(told(&words, manifest).0, 100, "a drain stands whatever the manifest says");
    }
    words.order("alpha", UNDRAIN, 0, &drained).unwrap();
    words.settle(&drained);
    assert_eq!(told(&words, &drained).0, 0, "served although the manifest drains it");
    assert_eq!(words.standing_of("alpha", &drained).drain_origin, Origin::Operator);
    // The manifest agrees: the word is spent, and the next change of the manifest counts again.
    words.settle(&free);
    assert_eq!(told(&words, &drained).0, 100);

    words.order("alpha", Order::Promote, 0, &free).unwrap();
    words.settle(&free);
    assert!(told(&words, &free).1 && told(&words, &drained).1);
    words.order("alpha", Order::Fence, 0, &drained).unwrap();
    words.settle(&drained);
    assert!(!told(&words, &drained).1, "fenced although the annotation promotes it");
    words.settle(&free);
    assert!(told(&words, &drained).1);
    assert!(words.said.is_empty(), "{words:?}");
}

#[test]
fn orders_for_nobody_or_for_ever_are_refused_and_change_nothing() {
    let table = table(&[("beta", 0, false), ("alpha", 0, false)]);
    let mut words = Words::default();
    let refused = words.order("gamma", drain(0), 0, &table).unwrap_err();
    assert_eq!(refused.to_string(), "no such member cluster; there are: alpha, beta");
    let long = Order::Drain { over: OVER_MAX + Duration::from_secs(1) };
    assert_eq!(words.order("alpha", long, 0, &table), Err(Refused::TooLong));
    assert!(words.said.is_empty());
    // A cluster that is away for a while is not forgotten.
    words.order("alpha", drain(0), 0, &table).unwrap();
    let without = RouteTable::default();
    words.settle(&without);
    assert_eq!(words.standing_of("alpha", &without).drain_percent, 100);
    words.order("alpha", UNDRAIN, 0, &without).unwrap();
    words.settle(&table);
    assert!(words.said.is_empty());
}

#[test]
fn the_same_order_again_neither_begins_anew_nor_goes_back() {
    let table = table(&[("alpha", 0, false)]);
    let mut words = Words::default();
    words.order("alpha", drain(0), 5, &table).unwrap();
    words.order("alpha", drain(30), 9, &table).unwrap();
    assert_eq!(words.standing_of("alpha", &table).drain_since_ns, Some(5));
    assert_eq!(told(&words, &table).0, 100);
    words.order("alpha", Order::Promote, 5, &table).unwrap();
    words.order("alpha", Order::Promote, 9, &table).unwrap();
    assert_eq!(words.standing_of("alpha", &table).promoted_since_ns, Some(5));
}

#[test]
fn words_outlive_the_process_and_a_broken_file_costs_only_them() {
    let dir = std::env::temp_dir().join(format!("ringway-words-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let table = table(&[("alpha", 0, false), ("beta", 100, true)]);
    let mut store = Store::new(Some(dir.clone()));
    let mut words = store.load(0);
    store.save(&words);
    assert!(!dir.exists(), "nothing said, nothing written");
    words.order("alpha", drain(30), 0, &table).unwrap();
    words.order("alpha", Order::Promote, 0, &table).unwrap();
    words.order("beta", UNDRAIN, 0, &table).unwrap();
    store.save(&words);
    let again = Store::new(Some(dir.clone())).load(SECOND);
    assert_eq!(told(&again, &table), (100, true), "the end of the ramp");
    let beta = again.standing_of("beta", &table);
    assert_eq!((beta.drain_percent, beta.drain_origin), (0, Origin::Operator));
    assert_eq!((beta.promoted, beta.promoted_origin), (true, Origin::Manifest));

    let file = dir.join("operator.json");
    for broken in ["", "[]", "{\"alpha\": {\"drained\": 7}}", "{\"alpha\": {\"launched\": true}}"] {
        std::fs::write(&file, broken).unwrap();
        assert!(Store::new(Some(dir.clone())).load(0).said.is_empty(), "{broken}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), broken, "left for a human");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
