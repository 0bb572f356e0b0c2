//! Runs plays on hosts: loads, connects, drives, collects. The only place where things happen at the same time.
//!
//! `run` loads everything and holds what is shared; `connect` reaches the hosts; `lock` keeps other runs away from them;
//! `driver` takes a host through a play and `collect` takes in what became of its tasks; `plan` makes a plan of that, and
//! holds a run to it; `record` names runs and reads what nodes remember of them; `actions` are the modules of the controller; `event` is the one stream
//! that recap, display and record read.

pub mod actions;
mod blobs;
mod collect;
pub mod connect;
mod driver;
pub mod event;
mod host;
mod link;
pub mod lint;
pub mod lock;
mod options;
pub mod plan;
pub mod preconditions;
pub mod recap;
pub mod record;
mod run;
mod scope;
mod shapes;
mod variables;

pub use host::HostState;
pub use link::Link;
pub use options::Options;
pub use run::Run;
