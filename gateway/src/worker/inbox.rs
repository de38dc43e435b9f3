//! A worker's mail: table updates, connections handed over, and calls to look at the state of the process.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use config::Config;
use crossbeam_channel::Receiver;
use routing::delta::{Handoff, Mail};

use super::apply::{Turn, Updates};
use super::binds::Binds;
use super::drill::Drill;
use super::settings::Settings;
use super::{Worker, clock};
use crate::net::conn::{Cancel, Conn};
use crate::net::wake::Doorbell;

/// Letters read in one go; then other tasks have their turn.
const BATCH_MAX: usize = 64;

/// Least time between two tries to listen on an address that could not be bound. A worker that has one looks about once a
/// second.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where a worker's mail arrives.
pub struct Inbox {
    /// Mail from the controller and from other workers.
    pub mail: Receiver<Mail>,
    /// New settings after SIGHUP.
    config: Receiver<Arc<Config>>,
    /// The last settings that came: they outlive a worker that panics.
    latest: RefCell<Option<Arc<Config>>>,
    /// Drills that begin, and the ends of drills.
    drills: Receiver<Option<Drill>>,
    /// The last one that came.
    drill: Cell<Option<Drill>>,
}

impl Inbox {
    /// The reading ends of a worker's channels.
    #[must_use]
    pub fn new(mail: Receiver<Mail>, config: Receiver<Arc<Config>>, drills: Receiver<Option<Drill>>) -> Self {
        Self { mail, config, latest: RefCell::default(), drills, drill: Cell::new(None) }
    }

    /// What SIGHUP brought since the last look, if anything.
    fn fresh_config(&self) -> Option<Arc<Config>> {
        let fresh = self.config.try_iter().last()?;
        *self.latest.borrow_mut() = Some(Arc::clone(&fresh));
        Some(fresh)
    }

    /// The configuration to run with: the last one that came, or the one of the `boot`.
    #[must_use]
    pub fn config_in_force(&self, boot: &Arc<Config>) -> Arc<Config> {
        let _ = self.fresh_config();
        Arc::clone(self.latest.borrow().as_ref().unwrap_or(boot))
    }

    /// Reads mail until the process stops or has drained.
    ///
    /// # Errors
    /// When the doorbell cannot be listened to.
    pub async fn serve(&self, worker: &Rc<Worker>, binds: &Binds, bell: &Doorbell) -> std::io::Result<()> {
        let (mut draining, mut retried) = (false, None);
        let mut updates = Updates::default();
        worker.drill.set(self.drill.get());
        loop {
            if let Some(drill) = self.drills.try_iter().last() {
                self.drill.set(drill);
                worker.drill.set(drill);
            }
            if let Some(config) = self.fresh_config() {
                worker.set_settings(Settings::new(&config));
            }
            let mut turn = Turn::new(worker.settings().apply_turn);
            let more = self.read(worker, binds, &mut updates, &mut turn);
            turn.end(worker, more == More::Update);
            if retried.is_none_or(|last| clock::now().since(last) >= RETRY_PAUSE) {
                retried = Some(clock::now());
                binds.retry(worker);
            }
            if worker.is_draining() && !draining {
                draining = true;
                binds.close_all(worker);
                worker.pool.clear();
                worker.h2.clear();
                worker.wake_all();
            }
            let idle = worker.stats.connections_open.get() == 0 && worker.flows.is_empty();
            if worker.peers.is_stopping() || (draining && idle) {
                return Ok(());
            }
            if more != More::Nothing {
                // What is left is read after everybody else had a turn: the bell is rung by ourselves.
                worker.peers.boxes[usize::from(worker.id)].ring();
            }
            bell.wait().await?;
            worker.passwords.collect(worker.id, &worker.peers);
            worker.look_at_peers();
        }
    }

    /// Delivers letters in their order: what comes behind an update waits until that is whole.
    fn read(&self, worker: &Rc<Worker>, binds: &Binds, updates: &mut Updates, turn: &mut Turn) -> More {
        for _ in 0..BATCH_MAX {
            if !updates.go_on(worker, binds, turn) {
                return More::Update;
            }
            match self.mail.try_recv() {
                Ok(Mail::Update(update)) => updates.begin(worker, update),
                Ok(Mail::Adopt(handoff)) => adopt(worker, handoff),
                Ok(Mail::Wake) => {}
                Err(_) => return More::Nothing,
            }
        }
        if updates.go_on(worker, binds, turn) { More::Mail } else { More::Update }
    }
}

/// What a turn leaves for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Nothing,
    /// Letters, perhaps.
    Mail,
    /// An update that is not whole, or what follows from one.
    Update,
}

fn adopt(worker: &Rc<Worker>, handoff: Handoff) {
    let Handoff { socket, bind, peer } = handoff;
    match Conn::adopt(socket, peer, Cancel::Allowed) {
        Ok(conn) => {
            worker.stats.adopted_total.inc();
            crate::downstream::h1::spawn(worker, conn, bind);
        }
        Err(error) => tracing::warn!(%peer, %error, "a connection that was handed over is lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restarted worker asks again: it must not fall back to the settings of the boot.
    #[test]
    fn settings_that_came_by_reload_outlive_the_worker_that_took_them() {
        let (_mail_in, mail) = crossbeam_channel::bounded(1);
        let (config_in, config) = crossbeam_channel::unbounded();
        let (_drill_in, drills) = crossbeam_channel::unbounded();
        let inbox = Inbox::new(mail, config, drills);
        let boot = Arc::new(Config::default());
        assert!(Arc::ptr_eq(&inbox.config_in_force(&boot), &boot));
        let reloaded = Arc::new(Config::default());
        config_in.send(Arc::clone(&reloaded)).unwrap();
        assert!(inbox.fresh_config().is_some(), "the first worker takes it");
        assert!(Arc::ptr_eq(&inbox.config_in_force(&boot), &reloaded), "the second one runs with it, too");
    }
}
