use super::*;

const POLICY: CanaryPolicy = CanaryPolicy {
    watch: Duration::from_secs(30),
    longest: Duration::from_secs(120),
    requests: 100,
    errors_above: 2,
    p99_above: 100,
};

fn at(seconds: u64) -> MonoTime {
    MonoTime::ZERO + Duration::from_secs(seconds)
}

fn figures(answered: u64, failed: u64, ms: u64) -> Figures {
    let tally = Tally { answered, failed };
    let slow = if ms == 50 { answered } else { 0 };
    let latency = vec![(1_000_000, answered - slow), (50_000_000, slow)];
    Figures { all: tally, routes: BTreeMap::from([(1, tally)]), panics: 0, latency }
}

/// Worker 0 is the canary; the workers had counted something before.
fn trial(by_route: bool) -> Trial {
    Trial::new(0, at(0), at(0), vec![figures(1_000, 500, 1), figures(1_000, 0, 1)], by_route)
}

fn now(own: Figures, other: Figures) -> Vec<Figures> {
    let mut both = vec![figures(1_000, 500, 1), figures(1_000, 0, 1)];
    add(&mut both[0], &own);
    add(&mut both[1], &other);
    both
}

#[test]
fn a_table_that_is_no_worse_goes_to_all_when_it_was_watched_and_not_before() {
    let seen = now(figures(200, 2, 1), figures(300, 3, 1));
    assert_eq!(trial(true).rule(at(29), &seen, &POLICY), Ruling::Watch);
    assert_eq!(trial(true).rule(at(30), &seen, &POLICY), Ruling::Promote(Proof::Compared));
}

#[test]
fn more_failures_take_it_back_at_once_but_only_of_enough_requests() {
    let few = now(figures(99, 99, 1), figures(300, 0, 1));
    assert_eq!(trial(true).rule(at(1), &few, &POLICY), Ruling::Watch);
    let enough = now(figures(100, 5, 1), figures(300, 0, 1));
    let Ruling::RollBack(reason) = trial(true).rule(at(1), &enough, &POLICY) else { panic!("it is worse") };
    assert!(reason.starts_with("5.0 % of 100 requests of the changed routes failed, 0.0 %"), "{reason}");
    let as_bad = now(figures(100, 50, 1), figures(300, 150, 1));
    assert_eq!(trial(true).rule(at(30), &as_bad, &POLICY), Ruling::Promote(Proof::Compared));
}

#[test]
fn failures_of_the_changed_routes_count_although_the_worker_as_a_whole_looks_well() {
    let mut own = figures(100_000, 0, 1);
    own.routes = BTreeMap::from([(1, Tally { answered: 100, failed: 100 })]);
    own.all.failed = 100;
    let seen = now(own, figures(100_000, 0, 1));
    assert!(matches!(trial(true).rule(at(1), &seen, &POLICY), Ruling::RollBack(_)));
    assert_eq!(
        trial(false).rule(at(1), &seen, &POLICY),
        Ruling::Watch,
        "without slots of their own it is 0.1 %"
    );
}

#[test]
fn requests_that_no_rule_matches_have_no_say_where_the_changed_routes_have_figures_of_their_own() {
    let mut own = figures(200, 0, 1);
    own.all = Tally { answered: 2_000, failed: 1_800 };
    let seen = now(own, figures(200, 0, 1));
    assert_eq!(trial(true).rule(at(30), &seen, &POLICY), Ruling::Promote(Proof::Compared));
    assert!(matches!(trial(false).rule(at(1), &seen, &POLICY), Ruling::RollBack(_)));
}

#[test]
fn a_slower_table_is_taken_back_at_the_end_of_the_watch() {
    let seen = now(figures(200, 0, 50), figures(200, 0, 1));
    assert_eq!(
        trial(true).rule(at(29), &seen, &POLICY),
        Ruling::Watch,
        "a few slow ones at first say nothing"
    );
    let Ruling::RollBack(reason) = trial(true).rule(at(30), &seen, &POLICY) else { panic!("it is slower") };
    assert!(reason.starts_with("p99 is 50ms, 1ms with the other workers"), "{reason}");
}

#[test]
fn too_few_requests_are_waited_for_until_the_longest_time_and_a_panic_ends_it() {
    let few = now(figures(10, 10, 1), figures(10, 0, 1));
    assert_eq!(trial(true).rule(at(119), &few, &POLICY), Ruling::Watch);
    assert_eq!(trial(true).rule(at(120), &few, &POLICY), Ruling::Promote(Proof::Unproven));
    let mut panicked = few;
    panicked[0].panics = 1;
    assert!(matches!(trial(true).rule(at(1), &panicked, &POLICY), Ruling::RollBack(_)));
}

#[test]
fn changes_begin_the_watch_anew_but_never_beyond_the_longest_time() {
    let again = Trial::new(0, at(0), at(100), trial(true).before, true);
    let seen = now(figures(200, 0, 1), figures(200, 0, 1));
    assert_eq!(again.rule(at(119), &seen, &POLICY), Ruling::Watch);
    assert_eq!(again.rule(at(120), &seen, &POLICY), Ruling::Promote(Proof::Compared));
}

#[test]
fn what_changes_all_the_time_hides_neither_failures_of_another_route_nor_panics() {
    let both = |first: u64, second: u64, failed: u64| {
        let mut figures = figures(first + second, failed, 1);
        let tallies = [(1, first, 0), (2, second, failed)];
        figures.routes =
            tallies.into_iter().map(|(slot, answered, failed)| (slot, Tally { answered, failed })).collect();
        figures
    };
    let mut trial = Trial::new(0, at(0), at(0), vec![both(0, 0, 0), both(0, 0, 0)], true);
    for second in 1..10 {
        let count = second * 12;
        let seen = vec![both(count, count, count), both(count, count, 0)];
        match trial.rule(at(second), &seen, &POLICY) {
            Ruling::Watch => assert!(count < 100, "{count}"),
            Ruling::RollBack(reason) => {
                assert!(count + 12 >= 100 && reason.contains(" failed"), "{count}: {reason}");
                return;
            }
            Ruling::Promote(proof) => panic!("{proof:?}"),
        }
        trial = trial.anew(at(second), seen, &BTreeSet::from([1]), true);
    }
    panic!("it was not found");
}

#[test]
fn a_route_that_is_mended_is_not_judged_by_what_it_did_before_and_a_panic_stays() {
    let seen = || now(figures(90, 90, 1), figures(300, 0, 1));
    let mended = trial(true).anew(at(10), seen(), &BTreeSet::from([1]), true);
    let after = || now(figures(290, 90, 1), figures(500, 0, 1));
    assert_eq!(mended.rule(at(40), &after(), &POLICY), Ruling::Promote(Proof::Compared));
    let mut panicked = seen();
    panicked[0].panics = 1;
    let again = trial(true).anew(at(10), panicked, &BTreeSet::from([1]), true);
    let mut after = after();
    after[0].panics = 1;
    assert!(matches!(again.rule(at(11), &after, &POLICY), Ruling::RollBack(_)));
}
