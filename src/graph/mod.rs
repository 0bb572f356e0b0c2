//! The task graph: which task on which host waits for what.
//!
//! [`compile`] is pure: plays, reduced to their shape, become a directed acyclic graph of (task, host) nodes. On one host
//! tasks follow each other (`Order`, which the pipeline does not wait for). Edges between hosts (`Waits`) exist only for
//! plays that need others, batches, `run_once`, barriers, and tasks that read other hosts' variables.
//! [`Progress`] is the same graph while it runs: it tells when a node may start.

mod compile;
mod progress;

pub use compile::{Edge, Node, PlayShape, StepKind, StepShape, TaskGraph, compile};
pub use progress::Progress;
