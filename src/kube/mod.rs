//! The Kubernetes API, as tasks use it: applying objects, deleting them, asking for them and waiting on them.
//!
//! A [`Client`] runs on the controller and reaches the API server through whatever opens a byte stream to it: in a run
//! that is the agent on a control-plane node, so the port need not be reachable from the operator's machine. TLS goes end
//! to end, from here to the API server, with an [`Identity`] whose key was made in this process.
//!
//! The tasks are `kubernetes.core.k8s` and `kubernetes.core.k8s_info`, with the arguments of the Ansible collection of
//! that name as far as [`from_args`] takes them. What they do is always a server-side apply, so a plan is the API server's
//! own dry run. Nothing here knows hosts, roles or the agent.

mod admin;
mod apply;
mod args;
mod client;
mod diff;
mod info;
mod object;
mod plan;

pub use admin::{Identity, IdentityRequest, kubeconfig_is_good, write_kubeconfig};
pub use args::{NAMES, Task, from_args};
pub use client::Client;
pub use info::{Condition, Query, Wait};
pub use object::{Object, ObjectKey};
