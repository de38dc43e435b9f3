//! The runtime of one worker: a ring of its own, on its own thread.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use monoio::{IoUringDriver, Runtime, RuntimeBuilder};

/// Which ring set-up flags are asked for (`worker.ring_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFlags {
    /// `SINGLE_ISSUER + COOP_TASKRUN + SUBMIT_ALL`: the cheapest measured.
    Coop,
    /// `SINGLE_ISSUER + DEFER_TASKRUN + SUBMIT_ALL`: to be measured before use; the runtime's rare path starves it.
    Defer,
    /// The kernel's defaults.
    Default,
}

/// A worker's runtime, and whether the kernel granted the flags that were asked for.
pub struct Ring {
    runtime: Runtime<IoUringDriver>,
    /// The flags in force.
    pub flags: RingFlags,
}

/// Builds the ring on the calling thread, which must be the one that runs it.
///
/// Falls back to the kernel's default flags when it refuses the ones asked for; the caller says so.
///
/// # Errors
/// When io_uring is not there or not allowed.
pub fn build(flags: RingFlags, entries: u32, cq_entries: u32) -> io::Result<Ring> {
    match build_with(flags, entries, cq_entries) {
        Ok(runtime) => Ok(Ring { runtime, flags }),
        Err(_) if flags != RingFlags::Default => {
            let runtime = build_with(RingFlags::Default, entries, cq_entries)?;
            Ok(Ring { runtime, flags: RingFlags::Default })
        }
        Err(error) => Err(error),
    }
}

fn build_with(flags: RingFlags, entries: u32, cq_entries: u32) -> io::Result<Runtime<IoUringDriver>> {
    let mut ring = io_uring::IoUring::builder();
    match flags {
        RingFlags::Coop => {
            ring.setup_single_issuer().setup_coop_taskrun().setup_submit_all();
        }
        RingFlags::Defer => {
            ring.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
        }
        RingFlags::Default => {}
    }
    ring.setup_cqsize(cq_entries);
    RuntimeBuilder::<IoUringDriver>::new().with_entries(entries).uring_builder(ring).build()
}

impl Ring {
    /// Runs `future` and everything spawned meanwhile until `future` ends. When it, or a task, panics, `last` is
    /// run with the tasks that are left, and the panic goes on.
    ///
    /// The runtime is leaked afterwards, panic or not: operations may still be in flight, and freeing their buffers
    /// under the kernel would be worse than keeping them until the process ends.
    pub fn run<F: Future, L: Future>(self, future: F, last: impl FnOnce() -> L) -> F::Output {
        let mut runtime = ManuallyDrop::new(self.runtime);
        match catch_unwind(AssertUnwindSafe(|| runtime.block_on(future))) {
            Ok(output) => output,
            Err(panic) => {
                // One panic is enough to report.
                let _ = catch_unwind(AssertUnwindSafe(|| runtime.block_on(last())));
                resume_unwind(panic)
            }
        }
    }
}

/// Starts a task on this thread's runtime.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(future));
}
