//! A variable with its origin, and the stack of layers in which a name is looked up.

use super::{Vault, VaultError};
use crate::source::{InputError, Span};
use crate::value::Value;
use crate::yaml::{Kind, Node};
use indexmap::IndexMap;
use std::fmt;
use std::sync::Arc;

/// A variable as it was written: not rendered, its origin kept. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    pub value: Arc<Value>,
    /// Where the value was written; facts, results and computed variables have no place.
    pub origin: Option<Span>,
    /// Never shown: vault values, passwords, what a `no_log` task registered.
    pub secret: bool,
    /// Data, not a template: `{{` in it is text. Ansible's "unsafe": facts, results of tasks, `!unsafe`.
    pub literal: bool,
}

impl Var {
    pub fn at(value: impl Into<Value>, origin: Span) -> Self {
        Self { value: Arc::new(value.into()), origin: Some(origin), secret: false, literal: false }
    }

    /// Reads a pair of a mapping; the origin is the place of both. A `!vault` value anywhere in it is decrypted and makes
    /// the whole variable secret.
    pub fn from_pair(key: &Node, value: &Node, vault: &Vault) -> Result<Self, InputError> {
        // An alias was written elsewhere, maybe above the key.
        let origin = if value.span.start >= key.span.end { value.span.end } else { key.span.end };
        let origin = key.span.source.span(key.span.start, origin);
        let mut node = value.clone();
        let secret = decrypt(&mut node, vault)?;
        let literal = node.tag.take_if(|tag| tag == "!unsafe").is_some();
        Ok(Self { value: Arc::new(node.to_value()), origin: Some(origin), secret, literal })
    }
}

/// A value that nobody wrote in a file: it is data, never evaluated as a template.
impl From<Value> for Var {
    fn from(value: Value) -> Self {
        Self { value: Arc::new(value), origin: None, secret: false, literal: true }
    }
}

/// Decrypts every vaulted text in a tree; says whether there was one.
fn decrypt(node: &mut Node, vault: &Vault) -> Result<bool, InputError> {
    let mut any = false;
    match &mut node.kind {
        Kind::String(text) if node.tag.as_deref() == Some("!vault") => {
            let plain = vault.decrypt(text).map_err(|error| {
                let found = InputError::at(&node.span, error.to_string());
                match error {
                    VaultError::NoPassword => found.help("name the file that holds it: --vault-password-file"),
                    _ => found,
                }
            })?;
            *text = plain;
            any = true;
        }
        Kind::List(items) => {
            for item in items {
                any |= decrypt(item, vault)?;
            }
        }
        Kind::Map(pairs) => {
            for (_, item) in pairs {
                any |= decrypt(item, vault)?;
            }
        }
        _ => {}
    }
    Ok(any)
}

/// Variables by name, in the order in which they were written.
pub type VarMap = IndexMap<String, Var>;

/// Variables of one source (a file, a play's `vars`, a host's facts), shared between hosts and tasks.
pub type Layer = Arc<VarMap>;

/// Precedence of a layer, lowest first.
///
/// Source: "Understanding variable precedence" in Ansible's user guide. Levels that the guide numbers separately and that
/// kprov reads in one place share a name here. Note that a group's variables in the inventory file are below
/// `group_vars/all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    RoleDefaults,
    InventoryGroup,
    InventoryGroupVarsAll,
    PlaybookGroupVarsAll,
    InventoryGroupVars,
    PlaybookGroupVars,
    InventoryHost,
    InventoryHostVars,
    PlaybookHostVars,
    Facts,
    /// `vars` of a play.
    PlayVars,
    /// `vars_files` of a play.
    VarsFiles,
    RoleVars,
    BlockVars,
    TaskVars,
    IncludeVars,
    /// `set_fact` and `register`.
    SetFact,
    RoleParams,
    ExtraVars,
    /// `inventory_hostname`, `groups`, `item` and the like: nobody overrides them.
    Magic,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoleDefaults => "defaults",
            Self::InventoryGroup => "inventory, group",
            Self::InventoryGroupVarsAll => "inventory group_vars/all",
            Self::PlaybookGroupVarsAll => "playbook group_vars/all",
            Self::InventoryGroupVars => "inventory group_vars",
            Self::PlaybookGroupVars => "playbook group_vars",
            Self::InventoryHost => "inventory, host",
            Self::InventoryHostVars => "inventory host_vars",
            Self::PlaybookHostVars => "playbook host_vars",
            Self::Facts => "facts",
            Self::PlayVars => "play vars",
            Self::VarsFiles => "play vars_files",
            Self::RoleVars => "role vars",
            Self::BlockVars => "block vars",
            Self::TaskVars => "task vars",
            Self::IncludeVars => "include_vars",
            Self::SetFact => "set_fact, register",
            Self::RoleParams => "role parameters",
            Self::ExtraVars => "extra vars (-e)",
            Self::Magic => "special variables",
        })
    }
}

/// Layers in order of precedence. Cheap to clone: layers are shared.
///
/// A higher layer replaces a variable as a whole (Ansible's `hash_behaviour = replace`). Within a level the layer that
/// was pushed last wins.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    layers: Vec<(Level, Layer)>,
}

impl Stack {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer above everything of its level and below.
    pub fn push(&mut self, level: Level, layer: Layer) {
        if !layer.is_empty() {
            let at = self.layers.partition_point(|(l, _)| *l <= level);
            self.layers.insert(at, (level, layer));
        }
    }

    /// The variable that counts.
    pub fn lookup(&self, name: &str) -> Option<&Var> {
        self.layers.iter().rev().find_map(|(_, layer)| layer.get(name))
    }

    /// Every layer that sets the name: the one that counts first, then what it overrides.
    pub fn explain<'a>(&'a self, name: &str) -> Vec<(Level, &'a Var)> {
        self.layers.iter().rev().filter_map(|(level, layer)| Some((*level, layer.get(name)?))).collect()
    }

    /// Every name that is set, in the order of first appearance.
    pub fn names(&self) -> Vec<&str> {
        let mut names = indexmap::IndexSet::new();
        names.extend(self.layers.iter().flat_map(|(_, layer)| layer.keys().map(String::as_str)));
        names.into_iter().collect()
    }

    pub fn layers(&self) -> &[(Level, Layer)] {
        &self.layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(value: i64) -> Layer {
        Arc::new([("x".to_owned(), Var::from(Value::Int(value)))].into_iter().collect())
    }

    #[test]
    fn the_highest_level_wins_whatever_the_order_of_pushing() {
        let mut stack = Stack::new();
        stack.push(Level::ExtraVars, layer(9));
        stack.push(Level::RoleDefaults, layer(1));
        stack.push(Level::InventoryHost, layer(5));
        stack.push(Level::InventoryHost, layer(6));
        assert_eq!(*stack.lookup("x").unwrap().value, Value::Int(9));
        let values: Vec<_> = stack.explain("x").into_iter().map(|(_, var)| var.value.as_int().unwrap()).collect();
        assert_eq!(values, [9, 6, 5, 1]);
    }
}
