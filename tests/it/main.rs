//! The one integration binary: each module tests one area through public interfaces.

mod agent;
mod artifacts;
mod bad_input;
mod cluster;
mod commands;
mod faults;
mod fidelity;
mod fixture;
mod inventory;
mod kube;
mod lab;
mod launch;
mod links;
mod lock;
mod node;
mod plan;
mod record;
mod schema;
mod session;
mod sshd;
mod template;
mod transport;
mod untouched;
mod vars;
