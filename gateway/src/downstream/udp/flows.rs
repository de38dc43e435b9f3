//! The flows of one worker: found by client and local address, bounded, the one that is quiet longest first to go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use routing::id::BindId;
use routing::subject::{Subject, SubjectKind};
use routing::time::MonoTime;
use slab::Slab;
use wire::quic;

use super::flow::{Key, Opening};
use super::quic::Index;
use super::{Flow, Hosts, Listening};
use crate::downstream::habits::Habits;
use crate::downstream::tcp::{Admitted, Door};
use crate::net::datagram::{Batch, Run};
use crate::observe::layer4::{Dropped, Ended};
use crate::observe::stats::Limit;
use crate::worker::idle::IdleList;
use crate::worker::{Worker, supervise};

/// A flow that is quiet for less than this is not given up for a new one: a flood of forged sources then costs new clients
/// their first datagram, not old ones their endpoint.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);

/// The place of a flow that is not listed.
pub(super) const NOWHERE: u32 = u32::MAX;

/// See the module.
#[derive(Default)]
pub struct Flows {
    list: RefCell<List>,
    /// Memory for what one call receives.
    pub(super) batch: RefCell<Batch>,
    pub(crate) habits: Habits,
    pub(super) connections: Index,
    /// Which hosts answer connects.
    pub hosts: Hosts,
}

#[derive(Default)]
struct List {
    flows: Slab<Rc<Flow>>,
    /// The standard map: the peers choose its keys, so its hashing is randomised.
    by_key: HashMap<Key, u32>,
    /// By their places, the one that is quiet longest first.
    quiet: IdleList,
}

/// A flow while its task lives, however that ends.
struct Listed(Rc<Flow>, Rc<Worker>);

impl Drop for Listed {
    fn drop(&mut self) {
        self.1.flows.remove(&self.0);
        if self.1.is_draining() && self.1.flows.is_empty() {
            // The inbox waits for the last one.
            self.1.peers.boxes[usize::from(self.1.id)].ring();
        }
    }
}

impl Flows {
    /// Are there no flows?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.borrow().flows.is_empty()
    }

    /// Ends those of a listener that is closed: nothing can be answered any more.
    pub fn close(&self, bind: BindId) {
        let flows: Vec<Rc<Flow>> = {
            let list = self.list.borrow();
            list.flows
                .iter()
                .filter(|(_, flow)| flow.key.bind == bind)
                .map(|(_, flow)| Rc::clone(flow))
                .collect()
        };
        flows.iter().for_each(|flow| flow.end(Ended::Stopped, "listener"));
    }

    /// Passes a run on, by the flow that it belongs to or by a new one.
    pub(super) fn take(&self, worker: &Rc<Worker>, listening: &Rc<Listening>, run: &Run<'_>, now: MonoTime) {
        let key = Key { bind: listening.bind, peer: run.peer, local: run.local };
        let known = {
            let list = self.list.borrow();
            list.by_key.get(&key).and_then(|place| list.flows.get(*place as usize).cloned())
        };
        let flow = match known {
            Some(flow) => flow,
            None => match self.open(worker, listening, key, run, now) {
                Ok(flow) => flow,
                Err(dropped) => return worker.stats.layer4.drop_datagrams(dropped, run.count()),
            },
        };
        flow.forward(run, now);
    }

    fn open(
        &self,
        worker: &Rc<Worker>,
        listening: &Rc<Listening>,
        key: Key,
        run: &Run<'_>,
        now: MonoTime,
    ) -> Result<Rc<Flow>, Dropped> {
        if worker.is_draining() {
            return Err(Dropped::Draining);
        }
        let admitted = admit(worker, key, now)?;
        self.make_room(worker, now)?;
        let source = std::net::SocketAddr::new(key.peer.ip().to_canonical(), key.peer.port());
        let subject = Subject { bind: key.bind, peer: source, kind: SubjectKind::Udp };
        let rule = worker.table.borrow().route(&subject).map_err(|_no_route| {
            worker.stats.unmatched_total.inc();
            Dropped::NoRoute
        })?;
        let connection = self.connections.find(key.bind, run.first());
        let is_quic = connection.is_some() || quic::opens_connection(run.first());
        let opening = Opening { key, rule, connection, is_quic, admitted };
        let flow = Flow::new(worker, listening, opening, now);
        {
            let mut list = self.list.borrow_mut();
            let place = list.flows.insert(Rc::clone(&flow));
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            flow.place.set(place);
            list.by_key.insert(key, place);
            list.quiet.enter(place);
        }
        let listed = Listed(Rc::clone(&flow), Rc::clone(worker));
        let task = Rc::clone(&flow).serve();
        supervise::spawn_guarded(worker, async move {
            let _listed = listed;
            task.await;
        });
        Ok(flow)
    }

    /// A datagram of this flow came or went.
    pub(super) fn touch(&self, flow: &Flow) {
        let place = flow.place.get();
        if place != NOWHERE {
            self.list.borrow_mut().quiet.enter(place);
        }
    }

    /// Where the table is full, the flow that is quiet longest ends, if it is quiet at all.
    fn make_room(&self, worker: &Worker, now: MonoTime) -> Result<(), Dropped> {
        let oldest = {
            let list = self.list.borrow();
            if list.flows.len() < worker.settings().flows_max {
                return Ok(());
            }
            worker.stats.hit(Limit::Flows);
            let oldest = list.quiet.oldest().and_then(|place| list.flows.get(place as usize));
            let oldest = oldest.filter(|flow| now.since(flow.last.get()) >= GIVEN_UP_AFTER);
            Rc::clone(oldest.ok_or(Dropped::Full)?)
        };
        oldest.end(Ended::Evicted, "");
        // Its task ends it in its turn; its place is free now.
        self.remove(&oldest);
        Ok(())
    }

    fn remove(&self, flow: &Rc<Flow>) {
        let place = flow.place.replace(NOWHERE);
        let mut list = self.list.borrow_mut();
        if place == NOWHERE || !list.flows.contains(place as usize) {
            return;
        }
        list.flows.remove(place as usize);
        list.by_key.remove(&flow.key);
        list.quiet.leave(place);
    }
}

/// Asks the listener's rules.
fn admit(worker: &Rc<Worker>, key: Key, now: MonoTime) -> Result<[Option<Admitted>; 2], Dropped> {
    let table = worker.table.borrow();
    let Some(rules) = table.layer4(key.bind) else { return Ok([None, None]) };
    let refused = |ended| if ended == Ended::Denied { Dropped::Denied } else { Dropped::Limited };
    let source = key.peer.ip().to_canonical();
    let by_source = Door::enter_source(worker, key.bind, rules, source, now).map_err(refused)?;
    let by_listener = Door::enter_listener(worker, key.bind, rules).map_err(refused)?;
    Ok([by_source, by_listener])
}
