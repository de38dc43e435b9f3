//! Doing a row's thing again and again, and the proof that it had an effect.

use std::time::{Duration, Instant};

use loadgen::Tls;
use rustix::process::Signal;

use super::gateway::{Gateway, edit_host, has_via};
use super::row::Row;
use crate::bench::machine::Stop;
use crate::bench::{BenchError, Result};

/// How long the last change may take to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// What was done.
pub(super) struct Done {
    /// How often.
    pub(super) count: u32,
    /// The table before the first time.
    generation: u64,
}

/// Does it at its interval for so long. Late ones are not made up for.
pub(super) fn until(row: Row, gateway: &mut Gateway, duration: Duration, stop: &Stop) -> Result<Done> {
    let end = Instant::now() + duration;
    let mut done = Done { count: 0, generation: gateway.generation()? };
    let Some(interval) = row.interval() else {
        stop.pause(duration)?;
        return Ok(done);
    };
    let mut next = Instant::now();
    while next < end {
        stop.pause(next.saturating_duration_since(Instant::now()))?;
        done.count += 1;
        once(row, gateway, done.count, stop)?;
        next = (next + interval).max(Instant::now());
    }
    // What comes after a handover still has to be drained: nothing may be under way when the load ends.
    stop.pause(end.saturating_duration_since(Instant::now()))?;
    Ok(done)
}

fn once(row: Row, gateway: &mut Gateway, nth: u32, stop: &Stop) -> Result<()> {
    match row {
        Row::Quiet => Ok(()),
        Row::Reload => gateway.write_routes(nth),
        Row::TableChanges => gateway.write_endpoints(nth),
        Row::Certificates => gateway.write_certificate(),
        Row::Sighup => {
            gateway.write_settings(nth)?;
            gateway.signal(Signal::HUP);
            Ok(())
        }
        Row::Handover => gateway.hand_over(stop),
    }
}

/// In words, what shows that it happened.
///
/// # Errors
/// It did not.
pub(super) fn proof(row: Row, gateway: &mut Gateway, done: &Done, tls: Option<&Tls>) -> Result<String> {
    let count = done.count;
    let lacks = |what: String| BenchError::failed(row.name(), what);
    match row {
        Row::Quiet => Ok("nothing was to happen".to_owned()),
        Row::Reload => {
            soon(|| Ok(gateway.ask(&edit_host(count))?.status == 200))?
                .then(|| "the last edit's own host is served".to_owned())
                .ok_or_else(|| lacks(format!("the last of {count} edits is not live")))
        }
        Row::TableChanges => {
            let tables = gateway.generation()? - done.generation;
            // Edits that come together are one table.
            (tables * 2 >= u64::from(count))
                .then(|| format!("{tables} tables were applied by every worker"))
                .ok_or_else(|| lacks(format!("{tables} tables after {count} edits")))
        }
        Row::Certificates => {
            let seen = tls.map_or(0, Tls::certificates_seen);
            (seen * 2 >= count as usize)
                .then(|| format!("clients were shown {seen} different certificates"))
                .ok_or_else(|| lacks(format!("{seen} certificates shown after {count} changes")))
        }
        Row::Sighup => {
            let wanted = has_via(count);
            soon(|| Ok(gateway.ask(super::gateway::HOST)?.header("via").is_some() == wanted))?
                .then(|| "the last settings are in force".to_owned())
                .ok_or_else(|| lacks(format!("the settings of the last of {count} reloads are not in force")))
        }
        Row::Handover => Ok(format!("{} processes served", gateway.processes())),
    }
}

/// Whether it becomes true in time.
fn soon(mut is_true: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + SEEN_WITHIN;
    loop {
        if is_true()? {
            return Ok(true);
        }
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
