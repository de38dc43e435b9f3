//! `[worker]`: how many workers, where they run, and how their rings are set up.

use serde::{Deserialize, Serialize};

/// Settings of every worker. None is live: a worker's ring and listeners are made once, at boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// How many workers. Default 0 = one per core of the process's own affinity mask; at most 1,024.
    pub count: u32,
    /// Bind each worker to a core of the process's affinity mask. Default true.
    pub pin: bool,
    /// Entries of the submission queue, a power of two. Default 256; 64 to 32,768. A full queue is submitted at once, while what
    /// it sends is in the caches: with 1,000 busy connections 4,096 cost a third more CPU (`loadtest bench --case h1-1000`).
    pub ring_entries: u32,
    /// Entries of the completion queue, a power of two, at least `ring_entries`. Default 16,384: two reads and
    /// writes of each of 8,000 connections, so that a burst of completions does not overflow it.
    pub cq_entries: u32,
    /// Which flags the ring is made with. Default [`RingFlags::Coop`].
    pub ring_flags: RingFlags,
    /// Hand accepted sockets to a less loaded worker. Default true.
    pub rebalance: bool,
    /// Pass the middle of large response bodies on inside the kernel (splice(2)), in clear and of known length. Default true.
    pub splice: bool,
    /// Connections that the kernel queues per listener and worker before it drops SYNs. Default 4,096; at most
    /// 65,535, and never more than `net.core.somaxconn`.
    pub backlog: u32,
}

/// Which flags a worker's ring is made with.
///
/// CPU per relayed request against a raw ring was measured for each (loadtest, case `h1-64`): `Coop` 1.07, `Defer`
/// 1.04–1.09, `Default` 1.26.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RingFlags {
    /// `SINGLE_ISSUER | COOP_TASKRUN | SUBMIT_ALL`.
    #[default]
    Coop,
    /// `SINGLE_ISSUER | DEFER_TASKRUN | SUBMIT_ALL`: cheaper on some kernels, but completions may starve while a
    /// worker is busy. To be measured before use.
    Defer,
    /// No flags: for a kernel that refuses the others.
    Default,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            count: 0,
            pin: true,
            ring_entries: 256,
            cq_entries: 16_384,
            ring_flags: RingFlags::Coop,
            rebalance: true,
            splice: true,
            backlog: 4_096,
        }
    }
}
