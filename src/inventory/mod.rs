//! The inventory: hosts, groups and their variables, from INI, YAML or JSON files, directories and host lists.
//!
//! Reads what Ansible's `ini`, `yaml` and `host_list` plugins read, with the same result: `kprov inventory list` prints
//! what `ansible-inventory --list` prints. Where Ansible warns and goes on without the hosts or variables in question,
//! this is an error that points at the line. `group_vars` and `host_vars` are read by [`vars`](crate::vars), which also
//! decides precedence. Inventory scripts and plugins are not run.

mod build;
mod hostname;
mod ini;
mod literal;
mod select;
mod sources;
mod yaml;

use crate::source::{InputError, Span};
use crate::vars::Layer;
use indexmap::{IndexMap, IndexSet};
use std::path::PathBuf;

/// Names that stand for the machine kprov runs on. Without an entry in the inventory they are implicit: they can be
/// selected by name, and `all` does not contain them.
pub const LOCALHOST: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What one or several inventory sources say.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub hosts: IndexMap<String, Host>,
    /// `all` and `ungrouped` are always there.
    pub groups: IndexMap<String, Group>,
    /// The directories of the sources, in order: where `group_vars` and `host_vars` are looked for.
    pub dirs: Vec<PathBuf>,
    pub warnings: Vec<InputError>,
}

#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    /// Variables that the inventory sources give the host itself.
    pub vars: Layer,
    /// Every group that contains the host, `all` included; order: the groups in which it was listed, then theirs.
    pub groups: IndexSet<String>,
    /// The file that named the host first; absent for a host list.
    pub file: Option<PathBuf>,
    pub origin: Option<Span>,
}

#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    /// Variables that the inventory sources give the group.
    pub vars: Layer,
    /// Hosts listed in the group itself.
    pub hosts: IndexSet<String>,
    pub children: IndexSet<String>,
    pub parents: IndexSet<String>,
    /// Longest way from `all`; deeper groups win over their ancestors.
    pub depth: usize,
    /// `ansible_group_priority`: among groups of one depth the higher wins.
    pub priority: i64,
    pub origin: Option<Span>,
}

impl Inventory {
    /// Names of the hosts in a group and its descendants, without duplicates; empty for an unknown group.
    pub fn hosts_of(&self, group: &str) -> Vec<&str> {
        let hosts: IndexSet<&str> = self.descendants(group).iter().flat_map(|g| &g.hosts).map(String::as_str).collect();
        hosts.into_iter().collect()
    }

    /// A group and everything below it, nearest first.
    fn descendants(&self, group: &str) -> Vec<&Group> {
        let mut names: IndexSet<&str> = IndexSet::from([group]);
        let mut next = 0;
        while let Some(name) = names.get_index(next) {
            let children = self.groups.get(*name).map(|g| g.children.iter().map(String::as_str)).into_iter().flatten();
            names.extend(children);
            next += 1;
        }
        names.into_iter().filter_map(|name| self.groups.get(name)).collect()
    }

    /// The value of `group_names`: sorted, without `all`.
    pub fn group_names(&self, host: &str) -> Vec<&str> {
        let groups = self.hosts.get(host).map(|host| host.groups.iter());
        let mut names: Vec<&str> = groups.into_iter().flatten().map(String::as_str).filter(|&g| g != "all").collect();
        names.sort_unstable();
        names
    }

    /// The groups of a host in the order in which their variables apply: the last one wins. An implicit localhost is
    /// in `all` only.
    pub fn groups_of(&self, host: &str) -> Vec<&Group> {
        let mut groups: Vec<&Group> = match self.hosts.get(host) {
            Some(host) => host.groups.iter().filter_map(|name| self.groups.get(name)).collect(),
            None => self.groups.get("all").into_iter().collect(),
        };
        groups.sort_by(|a, b| (a.depth, a.priority, &a.name).cmp(&(b.depth, b.priority, &b.name)));
        groups
    }
}
