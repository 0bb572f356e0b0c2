//! Runs plays on hosts: loads, connects, drives, collects. The only place where things happen at the same time.
//!
//! `run` loads everything and holds what is shared; `connect` reaches the hosts; `driver` takes a host through a play and
//! `collect` takes in what became of its tasks; `plan` makes a plan
//! of that, and holds a run to it; `actions` are the modules of the controller; `event` is the one stream
//! that recap, display and record read.

pub mod actions;
mod blobs;
mod collect;
pub mod connect;
mod driver;
pub mod event;
mod host;
mod link;
mod options;
pub mod plan;
pub mod preconditions;
pub mod recap;
mod run;
mod scope;
mod shapes;

pub use host::HostState;
pub use link::Link;
pub use options::Options;
pub use run::{Run, built_in_defaults, operator};
