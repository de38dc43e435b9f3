//! One run: the load, the kill, the return, and what is seen of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select, tick};
use gateway::node::Node;
use loadgen::{Load, Summary, Window};
use signal_hook::consts::SIGUSR1;

use super::ledger::{ClusterReading, Ledger, Reading};
use super::scene::Scene;
use super::screen::{Kind, Screen};
use super::text::Line;
use super::view::{self, Heading};

/// Connections that the load may open. At the rates allowed and a service's latencies this is never reached.
const CONNECTIONS_MAX: u32 = 512;
/// A request without an answer for this long has failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often is looked whether something is due, and whether the victim is reached again.
const BEAT: Duration = Duration::from_millis(5);
/// Windows that may wait to be looked at: some seconds.
const WINDOWS_MAX: usize = 64;
/// Windows between two plain lines: one second.
const PLAIN_WINDOWS: usize = 10;

/// What a run leaves behind.
pub(super) struct Outcome {
    /// Everything that was seen.
    pub ledger: Ledger,
    /// The client's own sums.
    pub summary: Summary,
    /// Requests that the pods received during the run.
    pub executions: u64,
}

/// One run.
pub(super) struct Show<'a> {
    /// Who plays.
    pub scene: &'a Scene,
    /// The gateway.
    pub node: &'a Node,
    /// What does not change.
    pub heading: Heading,
    /// Which member is killed.
    pub victim: usize,
}

impl Show<'_> {
    /// Plays it, to the end or to a signal.
    ///
    /// # Errors
    /// The load cannot be sent, or a pod cannot be killed or brought back.
    pub(super) fn run(&self, screen: &mut Screen, signals: &Receiver<i32>) -> Result<Outcome, String> {
        let stop = AtomicBool::new(false);
        let load = self.load();
        let before = self.scene.stage.requests();
        let (windows_in, windows) = bounded::<Window>(WINDOWS_MAX);
        thread::scope(|scope| {
            let started = Instant::now();
            let sender = thread::Builder::new().name("load".into()).spawn_scoped(scope, || {
                let windows_in = windows_in;
                // Nobody looks any more only after an error, and then the load is stopped, too.
                loadgen::run(&load, &stop, |window| drop(windows_in.send(window.clone())))
            });
            let sender = sender.map_err(|error| format!("cannot start the load: {error}"))?;
            let watched = self.watch(screen, signals, &windows, &stop, started);
            stop.store(true, Ordering::Relaxed);
            drop(windows);
            let summary = sender.join().map_err(|_| "the load generator panicked".to_owned())?;
            let summary = summary.map_err(|error| error.to_string())?;
            let executions = self.scene.stage.requests() - before;
            Ok(Outcome { ledger: watched?, summary, executions })
        })
    }

    fn load(&self) -> Load {
        let target = &self.scene.plan.target;
        Load {
            target: target.addr,
            host: format!("{}:{}", target.host, target.addr.port()),
            path: target.path.clone(),
            rate_per_s: self.heading.rate,
            connections_max: CONNECTIONS_MAX,
            duration: self.heading.timeline.end,
            timeout: TIMEOUT,
            headers: Vec::new(),
            count_header: Some("x-cluster".to_owned()),
        }
    }

    /// Kills, brings back and draws, until the load ends.
    fn watch(
        &self,
        screen: &mut Screen,
        signals: &Receiver<i32>,
        windows: &Receiver<Window>,
        stop: &AtomicBool,
        started: Instant,
    ) -> Result<Ledger, String> {
        let names = self.scene.plan.members.iter().map(|member| member.name.to_string()).collect();
        let mut act = Act {
            show: self,
            ledger: Ledger::new(names, self.victim),
            at_return: 0,
            seen: 0,
            told: String::new(),
        };
        let beat = tick(BEAT);
        loop {
            select! {
                recv(windows) -> window => match window {
                    Ok(window) => act.window(&window, screen),
                    Err(_) => return Ok(act.ledger),
                },
                // A hang-up, too: nobody watches any more.
                recv(signals) -> signal => if signal != Ok(SIGUSR1) {
                    stop.store(true, Ordering::Relaxed);
                },
                recv(beat) -> _ => if !stop.load(Ordering::Relaxed) {
                    act.beat(started)?;
                },
            }
        }
    }

    /// The gateway's statistics now.
    fn reading(&self) -> Reading {
        let members = &self.scene.plan.members;
        let clusters = vec![ClusterReading::default(); members.len()];
        let mut reading = Reading { clusters, ..Reading::default() };
        for stats in &self.node.stats {
            stats.latency.read(&mut reading.latency);
            for (member, sum) in members.iter().zip(&mut reading.clusters) {
                let cluster = stats.cluster(member.id);
                sum.failures += cluster.tally.failures.get();
                cluster.latency.read(&mut sum.latency);
            }
            reading.retries += stats.retries_total.get();
            reading.moves += stats.moves_total.get();
            reading.ejections += stats.ejections_total.get();
        }
        reading
    }
}

/// A run while it lasts.
struct Act<'a> {
    show: &'a Show<'a>,
    ledger: Ledger,
    /// Requests that the victim had received when it was brought back.
    at_return: u64,
    /// Windows seen.
    seen: usize,
    /// The sentence that plain output has shown last.
    told: String,
}

impl Act<'_> {
    /// Does what is due.
    fn beat(&mut self, started: Instant) -> Result<(), String> {
        let (stage, victim) = (&self.show.scene.stage, self.show.victim);
        let name = &self.show.scene.plan.members[victim].name;
        let timeline = self.show.heading.timeline;
        let now = started.elapsed();
        if self.ledger.killed_at().is_none() && now >= timeline.kill {
            self.ledger.killed(now);
            stage.kill(victim).map_err(|error| format!("cannot kill {name}: {error}"))?;
        } else if self.ledger.back_at().is_none() && now >= timeline.back {
            self.at_return = stage.requests_of(victim);
            stage.restart(victim).map_err(|error| format!("cannot bring {name} back: {error}"))?;
            self.ledger.brought_back(started.elapsed());
        } else if self.ledger.back_at().is_some() && stage.requests_of(victim) > self.at_return {
            self.ledger.reached_again(now);
        }
        Ok(())
    }

    fn window(&mut self, window: &Window, screen: &mut Screen) {
        self.ledger.add(window, self.show.reading());
        self.seen += 1;
        let lines: Vec<Line> = view::frame(&self.show.heading, &self.ledger, screen.columns());
        match screen.kind(lines.len()) {
            Kind::Live => screen.draw(&lines),
            Kind::Plain => {
                let sentence = view::sentence(&self.show.heading, &self.ledger);
                if sentence != self.told {
                    screen.say_plain(&format!("  -- {sentence}"));
                    self.told = sentence;
                }
                if self.seen.is_multiple_of(PLAIN_WINDOWS) {
                    screen.say_plain(&view::plain_line(&self.ledger));
                }
            }
        }
    }
}
