//! The node's end: a process that the SSH session starts, that speaks frames on stdin and stdout, and that ends with it.
//!
//! `protocol` is what is said and `frame` its form, `serve` the loop on the node, `facts` what a node tells about itself,
//! `journal` what it remembers of runs, `client` the controller's end of the same wire. The agent has no templates, no
//! network of its own and no configuration.

pub mod facts;
mod frame;
pub mod journal;
mod needs;
mod pending;
pub mod protocol;
mod serve;
mod tunnels;

#[cfg(feature = "controller")]
pub mod client;

pub use serve::{run, serve};
