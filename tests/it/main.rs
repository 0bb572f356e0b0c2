//! The one integration binary: each module tests one area through public interfaces.

mod agent;
mod artifacts;
mod cluster;
mod inventory;
mod kube;
mod lab;
mod launch;
mod node;
mod plan;
mod schema;
mod sshd;
mod template;
mod transport;
mod vars;
