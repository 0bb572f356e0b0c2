//! Plays, roles, tasks and handlers: read from YAML, checked, typed, with the place of everything kept.
//!
//! `tree` finds files (beside the inventory first, then the built-in ones), `play` and `task` read YAML into the types of
//! `types`. Keywords are Ansible's, with the same meaning; what is not supported is an error at load, with the line.
//! Nothing here renders a template or knows a host. Source: Ansible's "Playbook Keywords" reference.

mod declared;
mod play;
mod task;
mod tree;
mod types;

pub use declared::{Declared, declared, group_vars, specs_of};
pub use play::{load, tasks_of};
pub use tree::Tree;
pub use types::{BatchSize, Block, Files, Keywords, Loop, Play, Playbook, Role, Step, Task, TaskId};
