//! The samples of layer-4 connections.

use super::{Row, Scrape, distribution, one, row};
use crate::observe::histogram::Snapshot;
use crate::observe::layer4::{Dropped, Ended, Layer4Stats};
use crate::observe::stats::Counter;

impl Scrape {
    pub(super) fn of_layer4(&self, name: &str) -> Option<Vec<Row<'_>>> {
        let sum = |counter: fn(&Layer4Stats) -> &Counter| {
            one(self.workers.iter().map(|stats| counter(&stats.layer4).get()).sum())
        };
        Some(match name {
            "ringway_layer4_connections_total" => sum(|stats| &stats.connections_total),
            "ringway_layer4_connections_open" => sum(|stats| &stats.connections_open),
            "ringway_layer4_flows_total" => sum(|stats| &stats.flows_total),
            "ringway_layer4_flows_open" => sum(|stats| &stats.flows_open),
            "ringway_layer4_flows_moved_total" => sum(|stats| &stats.flows_moved_total),
            "ringway_layer4_datagrams_received_total" => sum(|stats| &stats.datagrams_received_total),
            "ringway_layer4_datagrams_sent_total" => sum(|stats| &stats.datagrams_sent_total),
            "ringway_layer4_received_bytes_total" => sum(|stats| &stats.received_bytes_total),
            "ringway_layer4_sent_bytes_total" => sum(|stats| &stats.sent_bytes_total),
            "ringway_layer4_connect_seconds" => {
                let mut connect = Snapshot::default();
                self.workers.iter().for_each(|stats| stats.layer4.connect.read(&mut connect));
                vec![Row { labels: Vec::new(), value: distribution(&connect) }]
            }
            "ringway_layer4_datagrams_dropped_total" => Dropped::ALL
                .iter()
                .map(|(why, name)| {
                    let dropped = self.workers.iter().map(|stats| stats.layer4.dropped(*why)).sum();
                    row([("reason", *name)], dropped)
                })
                .collect(),
            "ringway_layer4_ended_total" => Ended::ALL
                .iter()
                .map(|(why, name)| {
                    let ended = self.workers.iter().map(|stats| stats.layer4.ended(*why)).sum();
                    row([("reason", *name)], ended)
                })
                .collect(),
            _ => return None,
        })
    }
}
