use std::time::Duration;

use super::*;

fn scrape() -> Scrape {
    Scrape {
        version: "0",
        ready: true,
        workers: vec![Arc::new(WorkerStats::new(4)), Arc::new(WorkerStats::new(4))],
        clusters: vec![ClusterSeries {
            name: "alpha".into(),
            tally: TallySum::default(),
            latency: Snapshot::default(),
            in_flight: 0,
            ready: 2,
            terminating: 0,
            drained: false,
            states: StateCounts::default(),
            backends: StateCounts::default(),
        }],
        routes: vec![("Ingress \"a\"\n\\b".into(), TallySum { classes: [0, 7, 0, 0, 0], failures: 0 })],
        backends: vec![("default/web:80".into(), "alpha".into(), TallySum::default())],
        certificates: vec![("default/shop".into(), 1_900_000_000)],
        staples: vec![("default/shop".into(), 1_800_000_000)],
        controller: Facts::default(),
    }
}

#[test]
fn every_metric_of_the_list_is_exposed_with_its_labels_and_nothing_else_is() {
    let mut scrape = scrape();
    scrape.controller.objects.insert("Ingress".into(), 1);
    scrape.controller.outcomes.insert("accepted", 1);
    sources::add_sample(&mut scrape.controller);
    let text = encode(scrape);
    let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(families.len(), METRICS.len());
    for (metric, family) in METRICS.iter().zip(families) {
        let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        assert_eq!(family, format!("{name} {}", metric.kind.name()));
        let sample = match metric.kind {
            Kind::Counter | Kind::Gauge => metric.name.to_owned(),
            Kind::Histogram => format!("{}_count", metric.name),
        };
        let is_sample =
            |line: &&str| line.strip_prefix(&sample).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let line = text.lines().find(is_sample).unwrap_or_else(|| panic!("{sample} has no sample"));
        for label in metric.labels.split(", ").filter(|label| !label.is_empty()) {
            assert!(line.contains(&format!("{label}=\"")), "{label} in {line}");
        }
        let unit_last = ["_total", "_seconds", "_bytes"].iter().any(|suffix| metric.name.ends_with(suffix));
        match metric.kind {
            Kind::Counter => assert!(metric.name.ends_with("_total")),
            Kind::Histogram => assert!(unit_last),
            Kind::Gauge => assert!(!metric.name.ends_with("_total")),
        }
    }
}

#[test]
fn label_values_are_escaped() {
    let text = encode(scrape());
    let line = r#"ringway_route_responses_total{route="Ingress \"a\"\n\\b",class="2xx"} 7"#;
    assert!(text.lines().any(|other| other == line), "{text}");
}

#[test]
fn a_histogram_counts_each_value_once_below_a_bound_that_is_exact() {
    let scrape = scrape();
    for (worker, micros) in [(0, 10), (1, 65), (0, 66), (1, 3_000), (0, 40_000_000)] {
        scrape.workers[worker].latency.record(Duration::from_micros(micros));
    }
    let text = encode(scrape);
    let bucket = |le: &str| {
        let start = format!("ringway_request_duration_seconds_bucket{{le=\"{le}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{le}")).to_owned()
    };
    assert_eq!(bucket("0.000065536"), "2");
    assert_eq!(bucket("0.000131072"), "3");
    assert_eq!(bucket("0.004194304"), "4");
    assert_eq!(bucket("34.359738368"), "4");
    assert_eq!(bucket("+Inf"), "5");
}

#[test]
fn every_fault_is_listed() {
    for (number, fault) in FAULTS.into_iter().enumerate() {
        assert_eq!(fault as usize, number, "the list is in the order of the enum, so that none is missing");
    }
}
