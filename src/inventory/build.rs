//! Collects what the sources say and makes the [`Inventory`] of it.
//!
//! The order in which groups, members and edges are declared is kept: it decides the order of hosts in a play and of
//! everything that `kprov inventory` prints.

use super::{Group, Host, Inventory};
use crate::source::{InputError, InputErrors, Span};
use crate::value::Value;
use crate::vars::{Var, VarMap};
use indexmap::{IndexMap, IndexSet};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names that Kubespray's groups had before they were renamed. Hosts in them would silently be left out.
const RENAMED: [(&str, &str); 7] = [
    ("kube-master", "kube_control_plane"),
    ("kube_master", "kube_control_plane"),
    ("kube-control-plane", "kube_control_plane"),
    ("kube-node", "kube_node"),
    ("k8s-cluster", "k8s_cluster"),
    ("calico-rr", "calico_rr"),
    ("no-floating", "no_floating"),
];

#[derive(Default)]
pub(super) struct GroupDraft {
    vars: VarMap,
    hosts: IndexSet<String>,
    children: IndexSet<String>,
    parents: IndexSet<String>,
    priority: i64,
    origin: Option<Span>,
}

struct HostDraft {
    vars: VarMap,
    file: Option<PathBuf>,
    origin: Option<Span>,
}

pub(super) struct Builder {
    hosts: IndexMap<String, HostDraft>,
    groups: IndexMap<String, GroupDraft>,
    pub dirs: IndexSet<PathBuf>,
    pub warnings: Vec<InputError>,
    pub errors: Vec<InputError>,
}

impl Builder {
    pub fn new() -> Self {
        let mut builder = Self {
            hosts: IndexMap::new(),
            groups: IndexMap::new(),
            dirs: IndexSet::new(),
            warnings: Vec::new(),
            errors: Vec::new(),
        };
        builder.group("all");
        builder.group("ungrouped");
        builder.link("all", "ungrouped");
        builder
    }

    pub fn error(&mut self, error: InputError) {
        self.errors.push(error);
    }

    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    pub fn has_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// The group of a name, made if need be.
    pub fn group(&mut self, name: &str) -> &mut GroupDraft {
        self.groups.entry(name.to_owned()).or_insert_with(|| GroupDraft { priority: 1, ..GroupDraft::default() })
    }

    /// Declares a group. A bad name is reported, and the group exists all the same so that one mistake is one error.
    pub fn add_group(&mut self, name: &str, span: &Span) {
        if self.group(name).origin.is_none() {
            if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == name) {
                let error = InputError::at(span, format!("group {name} is called {new} now"));
                self.errors.push(error.help(format!("rename the group to {new}")));
            } else if name.is_empty() || name.contains(|c: char| c.is_whitespace() || ",:&!~*?[](){}\"'/".contains(c)) {
                let error = InputError::at(span, format!("invalid group name: `{name}`"));
                self.errors.push(error.help("use letters, digits and `_`"));
            } else if name.contains(|c: char| !c.is_alphanumeric() && c != '_')
                || name.starts_with(|c: char| c.is_ascii_digit())
            {
                let warning = InputError::at(span, format!("group name `{name}` is no valid variable name"));
                self.warnings.push(warning.help("use letters, digits and `_`, and no digit first"));
            }
        }
        self.group(name).origin.get_or_insert_with(|| span.clone());
    }

    /// Adds hosts to a group with their variables; `port` becomes `ansible_port`.
    pub fn add_hosts(
        &mut self,
        names: &[String],
        port: Option<u16>,
        vars: &VarMap,
        group: &str,
        file: Option<&Path>,
        span: Option<&Span>,
    ) {
        for name in names {
            let host = self.hosts.entry(name.clone()).or_insert_with(|| {
                let port = port.map(|port| Var { origin: span.cloned(), ..Var::from(Value::Int(port.into())) });
                HostDraft {
                    vars: port.map(|port| ("ansible_port".to_owned(), port)).into_iter().collect(),
                    file: file.map(Path::to_owned),
                    origin: span.cloned(),
                }
            });
            host.vars.extend(vars.iter().map(|(name, var)| (name.clone(), var.clone())));
            self.group(group).hosts.insert(name.clone());
        }
    }

    pub fn set_group_var(&mut self, group: &str, name: &str, var: Var) {
        if name != "ansible_group_priority" {
            self.group(group).vars.insert(name.to_owned(), var);
            return;
        }
        let priority = match &*var.value {
            Value::Int(n) => Some(*n),
            Value::String(s) => s.trim().parse().ok(),
            _ => None,
        };
        match priority {
            Some(priority) => self.group(group).priority = priority,
            None => {
                let message = format!("ansible_group_priority must be an integer, found {}", var.value);
                self.errors.push(InputError { span: var.origin, ..InputError::new(message) });
            }
        }
    }

    /// Makes `child` a child of `parent`; both exist. A cycle is an error.
    pub fn add_child(&mut self, parent: &str, child: &str, span: &Span) {
        if child == "all" {
            self.errors.push(InputError::at(span, "the group all contains every group and cannot be a child"));
        } else if parent == child || self.reaches(child, parent) {
            let message = format!("groups contain each other: {child} is already above {parent}");
            let message = if parent == child { format!("group {child} cannot contain itself") } else { message };
            self.errors.push(InputError::at(span, message).help("remove one of the two memberships"));
        } else {
            self.link(parent, child);
        }
    }

    fn link(&mut self, parent: &str, child: &str) {
        self.group(parent).children.insert(child.to_owned());
        self.group(child).parents.insert(parent.to_owned());
    }

    /// Makes the groups exist that kprov's playbooks name, and puts every node of the cluster into `k8s_cluster`.
    pub fn add_cluster_groups(&mut self) {
        for name in ["kube_control_plane", "kube_node", "etcd", "calico_rr", "k8s_cluster"] {
            self.group(name);
        }
        for member in ["kube_control_plane", "kube_node", "calico_rr"] {
            if !self.reaches(member, "k8s_cluster") {
                self.link("k8s_cluster", member);
            }
        }
    }

    /// Whether `to` is among the descendants of `from`.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let mut seen = IndexSet::from([from]);
        let mut next = 0;
        while let Some(&name) = seen.get_index(next) {
            if name == to {
                return true;
            }
            seen.extend(self.groups.get(name).into_iter().flat_map(|g| &g.children).map(String::as_str));
            next += 1;
        }
        false
    }

    /// Ends the collection: every group below `all`, every host in a group, depths, ancestors.
    pub fn finish(mut self) -> Result<Inventory, InputErrors> {
        let orphans: Vec<String> = self
            .groups
            .iter()
            .filter(|(name, group)| *name != "all" && group.parents.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        for name in orphans {
            self.link("all", &name);
        }
        let mut direct: HashMap<String, IndexSet<String>> = HashMap::new();
        for (name, group) in &self.groups {
            for host in &group.hosts {
                direct.entry(host.clone()).or_default().insert(name.clone());
            }
        }
        let names: Vec<String> = self.hosts.keys().cloned().collect();
        for host in &names {
            let groups = direct.entry(host.clone()).or_default();
            let grouped = groups.iter().any(|group| group != "all" && group != "ungrouped");
            if grouped && groups.shift_remove("ungrouped") {
                self.group("ungrouped").hosts.shift_remove(host);
            } else if !grouped && groups.insert("ungrouped".into()) {
                self.group("ungrouped").hosts.insert(host.clone());
            }
        }
        for name in &names {
            if let (Some(group), Some(host)) = (self.groups.get(name), self.hosts.get(name)) {
                let message = format!("{name} is both a group and a host");
                let span = host.origin.clone().or_else(|| group.origin.clone());
                self.warnings.push(InputError { span, ..InputError::new(message) });
            }
        }
        if self.hosts.is_empty() && self.errors.is_empty() {
            self.errors.push(
                InputError::new("the inventory has no hosts")
                    .help("list at least one host, or name another file with -i"),
            );
        }
        if !self.errors.is_empty() {
            return Err(InputErrors(self.errors));
        }
        let depths = self.depths();
        let groups = &self.groups;
        let hosts = self.hosts.into_iter().map(|(name, draft)| {
            let mut memberships = direct.remove(&name).unwrap_or_default();
            let mut next = 0;
            while let Some(group) = memberships.get_index(next).and_then(|group| groups.get(group)) {
                memberships.extend(group.parents.iter().cloned());
                next += 1;
            }
            let HostDraft { vars, file, origin } = draft;
            (name.clone(), Host { name, vars: Arc::new(vars), groups: memberships, file, origin })
        });
        let hosts = hosts.collect();
        let groups = self.groups.into_iter().map(|(name, draft)| {
            let GroupDraft { vars, hosts, children, parents, priority, origin } = draft;
            let depth = depths.get(&name).copied().unwrap_or_default();
            (name.clone(), Group { name, vars: Arc::new(vars), hosts, children, parents, depth, priority, origin })
        });
        Ok(Inventory {
            hosts,
            groups: groups.collect(),
            dirs: self.dirs.into_iter().collect(),
            warnings: self.warnings,
        })
    }

    /// The longest way from `all` to each group.
    fn depths(&self) -> HashMap<String, usize> {
        let mut depths: HashMap<String, usize> = HashMap::from([("all".into(), 0)]);
        // There are no cycles, so no way is longer than the number of groups.
        let mut frontier: IndexSet<&str> = IndexSet::from(["all"]);
        for depth in 1..=self.groups.len() {
            if frontier.is_empty() {
                break;
            }
            frontier = frontier.iter().flat_map(|name| &self.groups[*name].children).map(String::as_str).collect();
            for name in &frontier {
                depths.insert((*name).to_owned(), depth);
            }
        }
        depths
    }
}
