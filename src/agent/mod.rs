//! The node's end: a process that the SSH session starts, that speaks frames on stdin and stdout, and that ends with it.
//!
//! `protocol` is what is said, `serve` the loop on the node, `facts` what a node tells about itself, `client` the
//! controller's end of the same wire. The agent has no templates, no network of its own and no configuration.

pub mod protocol;
