//! kprov turns a declarative inventory into a Kubernetes cluster over SSH, and keeps it that way.
//!
//! Reading order: [`cli`]`::apply` is the table of contents of a run. Below it, dependencies point down only:
//! `cli` -> `engine` -> {`graph`, `transport`, `agent`} -> {`inventory`, `vars`, `template`, `playbook`} -> `yaml`.
//! The library never prints; `cli` and `ui` are the only places that talk to the user. What runs on a node (`agent`,
//! `modules`, `system`, `pki`) builds without the `controller` feature into the small `kprov-agent`.

pub mod agent;
pub mod modules;
pub mod pki;
pub mod source;
pub mod system;
pub mod value;

#[cfg(feature = "controller")]
pub mod artifacts;
#[cfg(feature = "controller")]
pub mod cli;
#[cfg(feature = "controller")]
pub mod engine;
#[cfg(feature = "controller")]
pub mod graph;
#[cfg(feature = "controller")]
pub mod inventory;
#[cfg(feature = "controller")]
pub mod kube;
#[cfg(feature = "controller")]
pub mod lab;
#[cfg(feature = "controller")]
pub mod playbook;
#[cfg(feature = "controller")]
pub mod preflight;
#[cfg(feature = "controller")]
pub mod template;
#[cfg(feature = "controller")]
pub mod transport;
#[cfg(feature = "controller")]
pub mod ui;
#[cfg(feature = "controller")]
pub mod vars;
#[cfg(feature = "controller")]
pub mod yaml;
