use super::*;

fn ms(ms: u64) -> MonoTime {
    MonoTime(ms * 1_000_000)
}

const fn long(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn requests_wait_from_sent_to_ended_and_are_forgotten_when_old() {
    let mut waiting = Waiting::default();
    for at in [1_000, 1_010, 1_020] {
        waiting.sent(ms(at));
    }
    assert_eq!(waiting.count(ms(1_025)), 3);
    let oldest = waiting.oldest(ms(1_025)).unwrap();
    assert!((ms(1_000)..ms(1_001)).contains(&oldest), "{oldest:?}");
    waiting.ended(Some(ms(1_000)), ms(1_026));
    assert_eq!(waiting.count(ms(1_026)), 2);
    assert!(waiting.oldest(ms(1_026)).unwrap() >= ms(1_008));
    waiting.ended(None, ms(1_027));
    assert_eq!(waiting.count(ms(1_027)), 1);
    assert_eq!(waiting.count(ms(3_000)), 0, "a long poll is no evidence");
    waiting.ended(Some(ms(1_020)), ms(3_000));
    assert_eq!(waiting.count(ms(3_000)), 0);
    assert_eq!(waiting.oldest(ms(3_000)), None);
}

#[test]
fn buckets_are_as_wide_as_the_service_is_slow() {
    let mut flow = Flow::default();
    for n in 0..300 {
        flow.answered(long(900), ms(10_000 + n * 10));
    }
    flow.waiting.sent(ms(13_000));
    assert_eq!(flow.waiting.count(ms(15_500)), 1);
    assert_eq!(flow.waiting.count(ms(60_000)), 0);
}

/// 1,000 answers a second for two seconds: 99 of 100 after 2 ms, one after 30 ms; `tail` = one of 1,000 takes that.
fn used(tail: Option<Duration>) -> Flow {
    let mut flow = Flow::default();
    for n in 0..2_000 {
        let at = ms(10_000 + n);
        flow.waiting.sent(at);
        let took = match n % 1_000 {
            7 => tail.unwrap_or(long(30)),
            n if n % 100 == 50 => long(30),
            _ => long(2),
        };
        flow.answered(took, at);
        flow.waiting.ended(Some(at), at);
    }
    flow
}

#[test]
fn six_that_are_overdue_are_slow_and_what_is_rare_at_once_is_not() {
    let lags = Lags::default();
    for tail in [None, Some(long(1_000))] {
        let mut flow = used(tail);
        for n in 0..7 {
            flow.waiting.sent(ms(12_000 + n));
        }
        assert!(!flow.overdue(&lags, ms(12_012)).is_proof());
        let overdue = flow.overdue(&lags, ms(12_027));
        assert_eq!(overdue.waiting, 7, "{overdue:?}");
        assert!(overdue.is_proof(), "{overdue:?} {}", overdue.phi());
    }
    // Two of the tail and one that was just sent: silent for long, and well.
    let mut flow = used(None);
    for at in [12_000, 12_003, 12_020] {
        flow.waiting.sent(ms(at));
    }
    assert!(!flow.overdue(&lags, ms(12_036)).is_proof());
    // As many as are answered.
    let mut flow = used(None);
    for n in 0..8 {
        flow.waiting.sent(ms(12_000 + n));
        flow.waiting.sent(ms(12_000 + n));
        flow.waiting.ended(Some(ms(12_000 + n)), ms(12_008));
    }
    assert!(!flow.overdue(&lags, ms(12_032)).is_proof());
}

#[test]
fn few_that_are_overdue_are_slow_once_no_answer_ever_took_as_long() {
    let lags = Lags::default();
    let mut flow = used(None);
    for at in [12_000, 12_001, 12_002] {
        flow.waiting.sent(ms(at));
    }
    assert!(!flow.overdue(&lags, ms(12_025)).is_proof());
    assert!(flow.overdue(&lags, ms(12_060)).is_proof());
}

#[test]
fn those_that_were_given_up_late_are_overdue_all_the_same() {
    let lags = Lags::default();
    for (age, is_proof) in [(9, true), (2, false)] {
        let mut flow = used(None);
        (0..8).for_each(|n| flow.waiting.sent(ms(12_000 + n)));
        for at in (0..6).map(|n| ms(12_000 + n)) {
            flow.ended(Some(at), true, &lags, at + long(age));
        }
        assert_eq!(flow.overdue(&lags, ms(12_030)).is_proof(), is_proof, "given up after {age} ms");
    }
}

#[test]
fn nothing_is_overdue_while_we_stood_still() {
    let mut lags = Lags::default();
    let mut flow = used(None);
    for n in 0..8 {
        flow.waiting.sent(ms(12_000 + n));
    }
    lags.note(ms(12_060), long(50));
    assert!(!flow.overdue(&lags, ms(12_061)).is_proof());
    assert!(flow.overdue(&lags, ms(12_080)).is_proof());
}

#[test]
fn attempt_that_was_given_up_counts_as_one_that_takes_longer() {
    let mut flow = used(None);
    let before = flow.latencies.share_above(long(25));
    for _ in 0..20 {
        flow.given_up(long(9), ms(12_000));
    }
    assert!(flow.latencies.share_above(long(25)) > before * 1.5);
}

#[test]
fn threshold_is_the_rare_gap_between_floor_and_cap() {
    let mut flow = Flow::default();
    assert_eq!(flow.suspicious(), SILENCE_CAP, "nothing is known");
    for _ in 0..1_000 {
        flow.answered(long(1), ms(0));
    }
    assert_eq!(flow.suspicious(), SILENCE_CAP, "no gap is known");
    for _ in 0..1_000 {
        flow.gap(long(1), ms(0));
    }
    assert_eq!(flow.suspicious(), SILENCE_FLOOR);
    for _ in 0..1_000 {
        flow.gap(long(20), ms(0));
    }
    let suspicious = flow.suspicious();
    assert!((long(19)..long(24)).contains(&suspicious), "{suspicious:?}");
    for _ in 0..1_000 {
        flow.gap(long(500), ms(0));
    }
    assert_eq!(flow.suspicious(), SILENCE_CAP);
    for _ in 0..9_000 {
        flow.answered(long(100), ms(0));
    }
    assert!(flow.suspicious() > long(160), "half of all answers take longer than the cap");
}

#[test]
fn errors_leave_the_window_and_one_endpoint_is_not_its_backend() {
    let ratio = ErrorRatio::default();
    let mut window = ErrorWindow::default();
    for n in 0..5 {
        let first = if n == 0 { First::Yes } else { First::No };
        window.failed(first, ms(1_000 + n), &ratio);
    }
    assert!(!window.is_too_many(&ratio, 2));
    assert!(window.is_too_many(&ratio, 1));
    window.failed(First::Yes, ms(1_010), &ratio);
    assert!(window.is_too_many(&ratio, 2));
    for _ in 0..7 {
        window.good(ms(1_050), &ratio);
    }
    assert!(!window.is_too_many(&ratio, 2), "fewer than half");
    window.good(ms(1_201), &ratio);
    assert_eq!(window.tally().failed, 0);
    assert_eq!(window.tally().good, 8);
}

#[test]
fn five_failures_in_a_row_are_too_many_however_many_good_answers_came_before() {
    let ratio = ErrorRatio::default();
    let used = |every: u64| {
        let mut window = ErrorWindow::default();
        for n in 0..400 {
            let at = ms(1_000) + Duration::from_micros(n * 500);
            if every > 0 && n % every == 0 {
                window.failed(First::Yes, at, &ratio);
            } else {
                window.good(at, &ratio);
            }
        }
        window
    };
    let mut window = used(0);
    // In the middle of a bucket, half of which is good answers.
    for n in 1..=5u64 {
        assert!(!window.is_too_many(&ratio, 1), "after {}", n - 1);
        window.failed(First::Yes, ms(1_199) + Duration::from_micros(n * 100), &ratio);
    }
    assert!(window.is_too_many(&ratio, 1));
    assert!(!window.is_too_many(&ratio, 12), "of two endpoints each, at most");
    window.good(ms(1_203), &ratio);
    assert!(window.is_too_many(&ratio, 1), "one good answer among them");
    // Where one in ten always fails, five in a row happen.
    let mut window = used(10);
    for n in 1..=5u64 {
        window.failed(First::No, ms(1_200) + Duration::from_micros(n * 500), &ratio);
    }
    assert!(!window.is_too_many(&ratio, 1));
    for n in 6..=8u64 {
        window.failed(First::No, ms(1_200) + Duration::from_micros(n * 500), &ratio);
    }
    assert!(window.is_too_many(&ratio, 1));
}

#[test]
fn six_hedges_are_slow_when_fewer_were_answered() {
    let mut window = HedgeWindow::default();
    for _ in 0..6 {
        window.hedged(ms(100));
    }
    assert!(window.is_slow(ms(101)));
    for _ in 0..6 {
        window.answered(ms(101));
    }
    assert!(!window.is_slow(ms(101)));
    window.hedged(ms(140));
    assert_eq!(window.hedges(), 1);
}

#[test]
fn only_time_awake_counts() {
    let mut lags = Lags::default();
    lags.note(ms(130), long(20));
    lags.note(ms(140), LAG_MIN);
    assert_eq!(lags.awake(ms(100), ms(135)), long(15));
    assert_eq!(lags.awake(ms(120), ms(125)), long(0));
    assert_eq!(lags.awake(ms(131), ms(141)), long(10));
    assert_eq!(lags.awake(ms(90), ms(95)), long(5));
}
