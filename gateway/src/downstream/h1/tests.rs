use std::sync::Arc;

use config::Config;
use rand::SeedableRng;
use routing::table::{Table, TableSettings};

use super::*;
use crate::net::conn::Cancel;
use crate::net::runtime::{self, RingFlags};
use crate::observe::access_log::LogWriter;
use crate::observe::stats::WorkerStats;
use crate::worker::Parts;
use crate::worker::peers::Peers;

fn worker() -> Rc<Worker> {
    let stats = Arc::new(WorkerStats::new(1));
    Worker::new(Parts {
        id: 0,
        table: Table::new(TableSettings::default()),
        rng: rand::rngs::SmallRng::seed_from_u64(1),
        stats: Arc::clone(&stats),
        peers: Peers::new(Vec::new(), 1),
        log: LogWriter::new(None, stats),
        settings: Settings::new(&Config::default()),
        reports: crossbeam_channel::bounded(1).0,
        findings: crossbeam_channel::bounded(1).0,
        recorder: crate::observe::recorder::Recorder::default(),
        decisions: crate::observe::decisions::Decisions::default(),
    })
    .unwrap()
}

/// What a connection is, beside its sockets' state, while nothing happens on it: at most 1 KB.
#[test]
fn idle_future_is_small() {
    let ring = runtime::build(RingFlags::Coop, 64, 256).unwrap();
    let measured = async {
        let worker = worker();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, settings) = (stream.local_addr().unwrap(), worker.settings());
        let client = Box::new(Client {
            peer_text: IpText::new(peer.ip()),
            trusted: settings.trusts(peer.ip()),
            deadline: worker.deadline(),
            conn: Stream::plain(Conn::adopt(stream.into(), peer, Cancel::Allowed).unwrap()),
            bind: BindId(0),
            is_new: true,
            rate: ConnRate::default(),
            counted: Counted { worker: Rc::clone(&worker), source: peer.ip(), counts: Counts::Connection },
        });
        worker.stats.connections_open.add(1);
        std::mem::size_of_val(&serve(Rc::clone(&worker), client, Protocol::Http))
    };
    let bytes = ring.run(measured, || std::future::ready(()));
    println!("{bytes} bytes");
    assert!(bytes <= 1_024, "{bytes} bytes");
}
