//! The node's end: a process that the SSH session starts, and that speaks frames on stdin and stdout.
//!
//! `protocol` is what is said, `frame` its form, `session` what makes it survive a dropped link; `serve` is the loop on the
//! node, `wire` its reading and writing, `worker` the process that goes on without its SSH session; `facts` is what a node
//! tells about itself, `lock` who may change it, `journal` what it remembers of runs, `client` the controller's end of the
//! same wire. The agent has no templates, no network of its own and no configuration.

pub mod facts;
mod frame;
pub mod journal;
mod lock;
mod needs;
mod pending;
pub mod protocol;
mod serve;
mod session;
mod tunnels;
mod wire;
mod worker;

#[cfg(feature = "controller")]
pub mod client;

pub use serve::run;
pub use worker::{attach, start, work};

/// Names the state of the agent's sources that a program was built from. `kprov-agent` holds it as text, and prints it for
/// `--version`; kprov looks for its own in the file that it is about to send, whatever architecture that is for.
pub const BUILD: &str = concat!("kprov-agent build ", env!("KPROV_AGENT_BUILD"), "\n");
