//! What the checks look at: groups, rendered variables, facts.

use super::{Finding, NEVER_IGNORED, Severity};
use crate::inventory::Inventory;
use crate::source::{InputError, Span};
use crate::value::Value;
use indexmap::{IndexMap, IndexSet};
use std::net::IpAddr;

pub type Checked = Result<Vec<Finding>, InputError>;

/// Rendered variables, each with the place where it was written.
pub trait Vars {
    /// `None`: not defined. An error: it cannot be rendered.
    fn get(&self, host: &str, name: &str) -> Result<Option<(Value, Option<Span>)>, InputError>;
}

/// Everything that is known about the cluster before a change.
#[derive(Clone, Copy)]
pub struct Cluster<'a> {
    pub inventory: &'a Inventory,
    pub vars: &'a dyn Vars,
    /// Facts by host, of those that answered. As the agent sends them.
    pub facts: &'a IndexMap<String, Value>,
}

/// One host of the cluster.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub name: &'a str,
    pub cluster: Cluster<'a>,
}

/// A variable and what it is called.
#[derive(Clone, Debug)]
pub struct Setting<T> {
    pub name: &'static str,
    pub value: T,
    pub origin: Option<Span>,
}

/// Groups whose hosts belong to the cluster.
pub const CONTROL_PLANE: &str = "kube_control_plane";
pub const NODE: &str = "kube_node";
pub const ETCD: &str = "etcd";

impl<'a> Cluster<'a> {
    /// The hosts that get something installed, in the order of the inventory.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let members: IndexSet<&str> =
            [CONTROL_PLANE, NODE, ETCD].into_iter().flat_map(|group| self.inventory.hosts_of(group)).collect();
        let cluster = *self;
        self.inventory
            .hosts
            .keys()
            .map(String::as_str)
            .filter(move |name| members.contains(name))
            .map(move |name| Node { name, cluster })
    }

    /// The hosts that run a kubelet.
    pub fn kubelets(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        self.nodes().filter(|node| node.is_in(CONTROL_PLANE) || node.is_in(NODE))
    }

    /// A variable that has to be the same on all hosts of the cluster; `None` where there are no hosts.
    pub fn shared<T: PartialEq>(
        &self,
        read: impl Fn(&Node<'a>) -> Result<Setting<T>, InputError>,
    ) -> Result<Option<Setting<T>>, InputError> {
        let mut first: Option<(&str, Setting<T>)> = None;
        for node in self.nodes() {
            let setting = read(&node)?;
            match &first {
                None => first = Some((node.name, setting)),
                Some((host, known)) if known.value != setting.value => {
                    let message = format!("`{}` differs between {host} and {}", known.name, node.name);
                    return Err(InputError { span: setting.origin, ..InputError::new(message) }
                        .help("it is one value for the whole cluster: set it in group_vars/all"));
                }
                Some(_) => {}
            }
        }
        Ok(first.map(|(_, setting)| setting))
    }

    /// Whether `ignore_assert_errors` covers the finding: for its host, or for all hosts where it is the cluster's.
    pub fn ignored(&self, finding: &Finding) -> Result<bool, InputError> {
        if NEVER_IGNORED.contains(&finding.check) {
            return Ok(false);
        }
        let hosts: Vec<Node<'_>> =
            self.nodes().filter(|node| finding.host.as_deref().is_none_or(|host| host == node.name)).collect();
        for node in &hosts {
            if !node.bool("ignore_assert_errors")?.value {
                return Ok(false);
            }
        }
        Ok(!hosts.is_empty())
    }

    /// A finding about the cluster as a whole.
    pub fn finding(&self, check: &'static str, found: impl Into<String>, required: impl Into<String>) -> Finding {
        Finding {
            host: None,
            check,
            found: found.into(),
            required: required.into(),
            variable: None,
            origin: None,
            help: String::new(),
            severity: Severity::Error,
        }
    }
}

impl<'a> Node<'a> {
    pub fn is_in(&self, group: &str) -> bool {
        self.cluster.inventory.hosts.get(self.name).is_some_and(|host| host.groups.contains(group))
    }

    /// Whether the host has told its facts.
    pub fn known(&self) -> bool {
        self.cluster.facts.contains_key(self.name)
    }

    /// A fact, by the keys that lead to it.
    pub fn fact(&self, path: &[&str]) -> Option<&'a Value> {
        let facts = self.cluster.facts.get(self.name)?;
        path.iter().try_fold(facts, |value, key| value.get(key)).filter(|value| **value != Value::Null)
    }

    /// A fact that is a text and not empty.
    pub fn text_fact(&self, path: &[&str]) -> Option<&'a str> {
        self.fact(path)?.as_str().filter(|text| !text.is_empty())
    }

    pub fn int_fact(&self, path: &[&str]) -> Option<i64> {
        match self.fact(path)? {
            Value::Int(n) => Some(*n),
            Value::Float(x) => Some(*x as i64),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub fn optional<T>(
        &self,
        name: &'static str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Setting<T>>, InputError> {
        let Some((value, origin)) = self.cluster.vars.get(self.name, name)? else { return Ok(None) };
        match read(&value) {
            Some(value) => Ok(Some(Setting { name, value, origin })),
            None => {
                let message = format!("`{name}` is {} ({value}), expected {expected}", value.type_name());
                Err(InputError { span: origin, ..InputError::new(message) })
            }
        }
    }

    fn required<T>(
        &self,
        name: &'static str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Setting<T>, InputError> {
        self.optional(name, expected, read)?
            .ok_or_else(|| InputError::new(format!("{}: the variable `{name}` is not defined", self.name)))
    }

    /// A whole number; also as text, which is what `-e name=400` gives.
    pub fn int(&self, name: &'static str) -> Result<Setting<i64>, InputError> {
        self.required(name, "a whole number", |value| match value {
            Value::Int(n) => Some(*n),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        })
    }

    pub fn bool(&self, name: &'static str) -> Result<Setting<bool>, InputError> {
        self.required(name, "true or false", Value::to_bool)
    }

    pub fn text(&self, name: &'static str) -> Result<Setting<String>, InputError> {
        self.required(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub fn texts(&self, name: &'static str) -> Result<Setting<Vec<String>>, InputError> {
        self.required(name, "a list of strings", |value| {
            value.as_list()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// The address that other hosts use, or why there is none.
    pub fn main_address(&self) -> Result<IpAddr, String> {
        let name = "main_access_ip";
        match self.cluster.vars.get(self.name, name) {
            Ok(Some((Value::String(text), _))) => text.parse().map_err(|_| format!("`{text}` in {name}")),
            Ok(Some((other, _))) => Err(format!("{} ({other}) in {name}", other.type_name())),
            Ok(None) => Err(format!("no variable {name}")),
            Err(error) => Err(error.message),
        }
    }

    /// A finding about this host.
    pub fn finding(&self, check: &'static str, found: impl Into<String>, required: impl Into<String>) -> Finding {
        Finding { host: Some(self.name.to_owned()), ..self.cluster.finding(check, found, required) }
    }

    /// The host has not told what the check needs to know: that is not taken for a yes.
    pub fn unknown(&self, check: &'static str, fact: &str, required: impl Into<String>) -> Finding {
        self.finding(check, format!("no fact `{fact}`"), required).help("look at `kprov facts` for this host")
    }
}

impl Finding {
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Names the variable that sets the limit.
    #[must_use]
    pub fn limit<T>(mut self, setting: &Setting<T>) -> Self {
        self.variable = Some(setting.name.to_owned());
        self.origin = setting.origin.clone();
        self
    }
}
