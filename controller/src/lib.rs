//! The control plane: one thread that turns manifests into route tables and keeps every worker up to date.
//!
//! In the order an update meets them: [`watch`] (the only input) → [`object`] → [`world`] → [`merge`] →
//! [`compile`] → [`broadcast`] → workers, and back as reports → [`view`]. What an [`operator`] says goes straight to
//! the broadcast. [`mod@run`] is the loop; [`unbound`] is what workers cannot listen on; [`snapshot`] keeps the world for a start without the hub; [`check`] is the same
//! road without workers. [`verdict`] is what is said about objects on the way, [`finding`] what the hub is told of it; [`dump`] is what a table
//! looks like, [`plan`] how two of them differ. [`canary`] tries a changed table on one worker first.
//!
//! It is never on the path of a request or of a first fallback: while it is dead, the last good table serves.
#![forbid(unsafe_code)]

pub mod broadcast;
pub mod canary;
pub mod check;
mod clock;
pub mod compile;
pub mod crd;
mod digest;
pub mod dump;
pub mod finding;
pub mod import;
pub mod intern;
pub mod merge;
pub mod object;
pub mod operator;
pub mod plan;
pub mod rbac;
pub mod run;
pub mod snapshot;
pub mod text;
pub mod unbound;
pub mod verdict;
pub mod view;
pub mod watch;
pub mod world;

pub use broadcast::{Mailbox, Reader};
pub use check::{CheckReport, check_dir, compile_dir, compile_fleet};
pub use compile::listen::Listen;
pub use crd::crds;
pub use operator::{Command, Order, Refused, Standing};
pub use run::{ControllerSettings, Inputs, Looker, ManifestSource, run};
pub use view::{ControllerView, LagHistogram, SharedView};
