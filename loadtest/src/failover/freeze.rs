//! One thread of another process, stopped while the others run on: as dead as a thread can be without ending its process.
//!
//! A signal stops a whole process; a tracer stops a single thread (ptrace(2), `PTRACE_INTERRUPT`). The thread goes on when
//! this is dropped, and when we die.

use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::bench::{BenchError, Result, process};

/// A thread that is stopped.
pub(crate) struct Frozen {
    /// Dropped when it is to go on.
    hold: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Frozen {
    /// Stops the thread of that name in the tree of processes below `root`.
    ///
    /// # Errors
    /// There is no such thread, or tracing is not allowed.
    pub(crate) fn thread(root: u32, name: &str) -> Result<Self> {
        let tid = find(root, name)
            .ok_or_else(|| BenchError::failed("failover", format!("the gateway has no thread {name:?}")))?;
        let (hold, held) = channel();
        let (tell, told) = channel();
        // A tracer is a thread: whoever stops another must be who lets it go.
        let tracer = std::thread::Builder::new().name("tracer".into()).spawn(move || {
            let stopped = stop(tid);
            let is_stopped = stopped.is_ok();
            // Nobody waits any more only when the run has ended.
            let _ = tell.send(stopped);
            if is_stopped {
                let _ = held.recv();
                // Fails only when it has ended.
                let _ = ptrace::detach(tid, None);
            }
        });
        let tracer = tracer.map_err(BenchError::io("start a thread"))?;
        let frozen = Self { hold: Some(hold), tracer: Some(tracer) };
        let stopped = told.recv().map_err(|_| BenchError::failed("tracer", "its thread has ended"))?;
        stopped.map_err(|why| BenchError::io(format!("stop the thread {name}"))(why.into()))?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.hold = None;
        if let Some(tracer) = self.tracer.take() {
            // A panic of the thread has been printed by its hook.
            let _ = tracer.join();
        }
    }
}

fn stop(tid: Pid) -> nix::Result<()> {
    ptrace::seize(tid, ptrace::Options::empty())?;
    ptrace::interrupt(tid)?;
    // It is stopped when this returns.
    waitpid(tid, Some(WaitPidFlag::__WALL)).map(drop)
}

fn find(root: u32, name: &str) -> Option<Pid> {
    for pid in process::tree(root) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let named = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if named.trim_end() == name {
                return task.file_name().to_str()?.parse().ok().map(Pid::from_raw);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_thread_is_stopped_until_it_is_let_go() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let state = || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap().chars().next()
        };
        let frozen = Frozen::thread(child.id(), "cat").unwrap();
        assert_eq!(state(), Some('t'), "tracing stop");
        drop(frozen);
        assert_ne!(state(), Some('t'));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_thread_that_is_not_there_is_said_so() {
        let why = Frozen::thread(std::process::id(), "no such one").err().unwrap().to_string();
        assert!(why.contains("no such one"), "{why}");
    }
}
