//! The node's end: a process that the SSH session starts, that speaks frames on stdin and stdout, and that ends with it.
//!
//! `protocol` is what is said and `frame` its form, `serve` the loop on the node, `facts` what a node tells about itself,
//! `lock` who may change it, `client` the controller's end of the same wire. The agent has no templates, no network of its own and no configuration.

pub mod facts;
mod frame;
mod lock;
mod needs;
mod pending;
pub mod protocol;
mod serve;
mod tunnels;

#[cfg(feature = "controller")]
pub mod client;

pub use serve::{run, serve};

/// Names the state of the agent's sources that a program was built from. `kprov-agent` holds it as text, and prints it for
/// `--version`; kprov looks for its own in the file that it is about to send, whatever architecture that is for.
pub const BUILD: &str = concat!("kprov-agent build ", env!("KPROV_AGENT_BUILD"), "\n");
