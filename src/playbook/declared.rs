//! What kprov and its roles declare: the argument specs of all roles, and the defaults that apply where nobody sets a value.

use super::play::tasks_of;
use super::{Playbook, Tree};
use crate::source::{InputErrors, Source};
use crate::vars::{ArgumentSpecs, Layer, VarMap, Vault, read_map};
use crate::yaml;
use indexmap::IndexSet;
use std::path::Path;
use std::sync::Arc;

/// Declarations of all roles in a tree, whether or not a playbook uses them.
#[derive(Debug, Default)]
pub struct Declared {
    pub specs: ArgumentSpecs,
    /// kprov's own `group_vars/all`, then the defaults of each role.
    pub defaults: Vec<Layer>,
}

/// kprov's own `group_vars/all`.
pub fn group_vars() -> Result<Layer, InputErrors> {
    let mut vars = VarMap::default();
    for (name, bytes) in Tree::built_in("group_vars/all/") {
        let source = Source::new(format!("kprov:{name}"), String::from_utf8_lossy(&bytes));
        vars.extend(read_map(&yaml::load(&source)?, &Vault::default())?);
    }
    Ok(Arc::new(vars))
}

/// The argument specs of the roles of a playbook, and of no others.
pub fn specs_of(tree: &Tree, playbook: &Playbook) -> Result<ArgumentSpecs, InputErrors> {
    let mut declared = Declared::default();
    let tasks = playbook.plays.iter().flat_map(|play| tasks_of(&play.steps));
    let roles: IndexSet<String> = tasks.filter_map(|task| task.role.as_ref().map(|role| role.name.clone())).collect();
    for role in roles {
        declared.read_specs(tree, &role, &format!("roles/{role}/meta/argument_specs.yml"))?;
    }
    Ok(declared.specs)
}

/// Reads `playbooks/argument_specs.yml`, and of each role `meta/argument_specs.yml`, `defaults` and `vars`.
pub fn declared(tree: &Tree) -> Result<Declared, InputErrors> {
    let mut declared = Declared::default();
    let mut errors = Vec::new();
    let mut collect = |result: Result<(), InputErrors>| {
        if let Err(mut more) = result {
            errors.append(&mut more.0);
        }
    };
    collect(declared.read_specs(tree, "kprov", "playbooks/argument_specs.yml"));
    collect(group_vars().map(|vars| declared.add_vars("kprov", vars, true)));
    for role in tree.roles() {
        collect(declared.read_specs(tree, &role, &format!("roles/{role}/meta/argument_specs.yml")));
        for (part, is_default) in [("defaults", true), ("vars", false)] {
            match tree.read(Path::new(&format!("roles/{role}/{part}/main.yml"))) {
                Ok(Some(source)) => collect(declared.read_vars(&role, &source, is_default)),
                Ok(None) => {}
                Err(error) => collect(Err(error.into())),
            }
        }
    }
    if errors.is_empty() { Ok(declared) } else { Err(InputErrors(errors)) }
}

impl Declared {
    fn read_specs(&mut self, tree: &Tree, role: &str, path: &str) -> Result<(), InputErrors> {
        match tree.read(Path::new(path))? {
            Some(source) => self.specs.load(role, &yaml::load(&source)?),
            None => Ok(()),
        }
    }

    /// Names that are set without a spec are known all the same.
    fn read_vars(&mut self, role: &str, source: &Arc<Source>, is_default: bool) -> Result<(), InputErrors> {
        self.add_vars(role, Arc::new(read_map(&yaml::load(source)?, &Vault::default())?), is_default);
        Ok(())
    }

    fn add_vars(&mut self, role: &str, vars: Layer, is_default: bool) {
        self.specs.declare(role, vars.keys().map(String::as_str));
        if is_default {
            self.defaults.push(vars);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::{Level, Stack};

    #[test]
    fn every_built_in_default_fits_its_declaration() {
        let declared = declared(&Tree::new(Vec::new())).unwrap();
        for layer in &declared.defaults {
            for (name, var) in layer.iter() {
                declared.specs.check_value(name, &var.value).unwrap();
                let spec = declared.specs.get(name).unwrap();
                let place = var.origin.as_ref().unwrap();
                assert!(!spec.description.is_empty(), "{place}: {name} has a default and no argument spec");
            }
        }
        let mut stack = Stack::new();
        for layer in declared.defaults {
            stack.push(Level::RoleDefaults, layer);
        }
        let memory = stack.lookup("minimal_node_memory_mb").unwrap();
        assert_eq!(memory.value.as_int(), Some(1024));
        assert!(memory.origin.as_ref().unwrap().to_string().starts_with("kprov:group_vars/all/preconditions.yml:"));
    }

    /// A line `# name: value` of the sample shows a default; it must not drift from it.
    #[test]
    fn the_sample_inventory_shows_the_defaults() {
        let declared = declared(&Tree::new(Vec::new())).unwrap();
        let mut stack = Stack::new();
        for layer in declared.defaults {
            stack.push(Level::RoleDefaults, layer);
        }
        let mut shown = 0;
        for (path, bytes) in Tree::built_in("inventory/sample/group_vars/") {
            let text = String::from_utf8(bytes).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("# "));
            let pairs = lines.filter(|line| {
                line.split_once(": ").is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            });
            let source = Source::new(&path, pairs.collect::<Vec<_>>().join("\n"));
            for (name, var) in read_map(&yaml::load(&source).unwrap(), &Vault::default()).unwrap() {
                assert!(name.starts_with("ansible_") || declared.specs.get(&name).is_some(), "{path}: {name}");
                if let Some(default) = stack.lookup(&name) {
                    assert_eq!(var.value, default.value, "{path}: {name}");
                    shown += 1;
                }
            }
        }
        assert!(shown > 20, "{shown}");
    }

    #[test]
    fn a_role_beside_the_inventory_declares_too() {
        let dir = tempfile::tempdir().unwrap();
        let role = dir.path().join("roles/mine");
        std::fs::create_dir_all(role.join("meta")).unwrap();
        std::fs::create_dir_all(role.join("defaults")).unwrap();
        let specs = "argument_specs: {main: {options: {mine_port: {type: int}}}}";
        std::fs::write(role.join("meta/argument_specs.yml"), specs).unwrap();
        std::fs::write(role.join("defaults/main.yml"), "mine_name: x\n").unwrap();
        let declared = declared(&Tree::new(vec![dir.path().to_owned()])).unwrap();
        assert_eq!(declared.specs.get("mine_port").unwrap().role, "mine");
        assert!(declared.specs.get("mine_name").is_some());
        std::fs::write(role.join("meta/argument_specs.yml"), "argument_specs: {main: {options: {x: {type: nope}}}}")
            .unwrap();
        let error = super::declared(&Tree::new(vec![dir.path().to_owned()])).unwrap_err();
        assert!(error.to_string().ends_with("argument_specs.yml:1: unknown type: nope"), "{error}");
    }
}
