//! YAML and JSON inventories: groups with `hosts`, `children` and `vars`.
//!
//! Source: Ansible's `yaml` inventory plugin. What it skips with a warning (an unknown key in a group) is an error here.

use super::build::Builder;
use super::hostname;
use crate::source::{InputError, Source, near_miss};
use crate::vars::{Var, VarMap, Vault};
use crate::yaml::{self, Kind, Node};
use std::sync::Arc;

pub(super) fn read(source: &Arc<Source>, vault: &Vault, builder: &mut Builder) {
    let root = match yaml::load_with(source, &mut builder.warnings) {
        Ok(root) => root,
        Err(error) => return builder.error(error),
    };
    let Some(groups) = root.as_map() else {
        let error = InputError::at(&root.span, format!("expected a mapping of groups, found {}", root.describe()));
        return builder.error(error.help("begin with `all:`"));
    };
    if let Some(plugin) = root.get("plugin") {
        return builder
            .error(InputError::at(&plugin.span, "inventory plugins are not supported: this file configures one"));
    }
    for (name, group) in groups {
        read_group(name, group, source, vault, builder);
    }
}

fn read_group(key: &Node, body: &Node, source: &Arc<Source>, vault: &Vault, builder: &mut Builder) -> Option<String> {
    let Some(name) = key.as_str().map(str::to_owned) else {
        builder.error(InputError::at(&key.span, format!("a group name must be a string, found {}", key.describe())));
        return None;
    };
    builder.add_group(&name, &key.span);
    let Some(sections) = section(body, &format!("group {name}"), builder) else { return Some(name) };
    // Declared order decides the order of members; unknown keys are found on the way.
    for (section_key, content) in sections {
        let what = format!("{} of group {name}", section_key.key_text());
        match section_key.as_str() {
            Some("vars") => {
                for (var_name, var) in section(content, &what, builder).unwrap_or_default() {
                    if let Some((var_name, var)) = variable(var_name, var, vault, builder) {
                        builder.set_group_var(&name, &var_name, var);
                    }
                }
            }
            Some("children") => {
                for (child_key, child) in members(content, &what, builder) {
                    if let Some(child_name) = read_group(&child_key, &child, source, vault, builder) {
                        builder.add_child(&name, &child_name, &child_key.span);
                    }
                }
            }
            Some("hosts") => {
                for (entry, vars) in members(content, &what, builder) {
                    read_host(&entry, &vars, &name, source, vault, builder);
                }
            }
            _ => {
                let found = section_key.key_text();
                let error = InputError::at(&section_key.span, format!("unknown key in group {name}: {found}"));
                builder.error(match near_miss(&found, ["hosts", "children", "vars"]) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("a group has hosts, children and vars; its groups stand under children"),
                });
            }
        }
    }
    Some(name)
}

fn read_host(entry: &Node, vars: &Node, group: &str, source: &Arc<Source>, vault: &Vault, builder: &mut Builder) {
    let Some(pattern) = entry.as_str() else {
        let error = InputError::at(&entry.span, format!("a host name must be a string, found {}", entry.describe()));
        return builder.error(error.help("quote it"));
    };
    let (names, port) = match hostname::expand(pattern) {
        Ok(expanded) => expanded,
        Err(message) => return builder.error(InputError::at(&entry.span, message)),
    };
    let mut map = VarMap::new();
    for (name, value) in section(vars, &format!("host {pattern}"), builder).unwrap_or_default() {
        map.extend(variable(name, value, vault, builder));
    }
    builder.add_hosts(&names, port, &map, group, Some(&source.path), Some(&entry.span));
}

fn variable(name: &Node, value: &Node, vault: &Vault, builder: &mut Builder) -> Option<(String, Var)> {
    let text = name.key_text();
    if !crate::vars::is_valid_name(&text) {
        let error = InputError::at(&name.span, format!("invalid variable name: `{text}`"));
        builder.error(error.help("use letters, digits and `_`"));
        return None;
    }
    match Var::from_pair(name, value, vault) {
        Ok(var) => Some((text, var)),
        Err(error) => {
            builder.error(error);
            None
        }
    }
}

/// A mapping or nothing; anything else is reported.
fn section<'a>(node: &'a Node, what: &str, builder: &mut Builder) -> Option<&'a [(Node, Node)]> {
    match &node.kind {
        Kind::Map(pairs) => Some(pairs),
        Kind::Null => None,
        _ => {
            let error = InputError::at(&node.span, format!("expected a mapping for {what}, found {}", node.describe()));
            builder.error(if node.as_list().is_some() {
                error.help("write `name:` instead of `- name`")
            } else {
                error
            });
            None
        }
    }
}

/// Members of a group: a mapping, or one name as a string.
fn members(node: &Node, what: &str, builder: &mut Builder) -> Vec<(Node, Node)> {
    match node.as_str() {
        Some(_) => vec![(node.clone(), Node::new(Kind::Null, node.span.clone()))],
        None => section(node, what, builder).unwrap_or_default().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Inventory;
    use crate::source::InputErrors;
    use proptest::prelude::*;

    fn load(text: &str) -> Result<Inventory, InputErrors> {
        let mut builder = Builder::new();
        read(&Source::new("hosts.yml", text), &Vault::default(), &mut builder);
        builder.finish()
    }

    #[test]
    fn mistakes_point_at_the_line() {
        let cases = [
            ("", "hosts.yml:1: expected a mapping of groups, found nothing"),
            ("- n1\n", "hosts.yml:1: expected a mapping of groups, found a list"),
            ("plugin: aws_ec2\n", "hosts.yml:1: inventory plugins are not supported: this file configures one"),
            ("all:\n  host: {n1: }\n", "hosts.yml:2: unknown key in group all: host"),
            ("all:\n  hosts:\n    - n1\n", "hosts.yml:3: expected a mapping for hosts of group all, found a list"),
            ("all: {hosts: {n1: x}}\n", "hosts.yml:1: expected a mapping for host n1, found a string"),
            ("all: {hosts: {1: }}\n", "hosts.yml:1: a host name must be a string, found an integer"),
            ("all: {hosts: {n1: {a-b: 1}}}\n", "hosts.yml:1: invalid variable name: `a-b`"),
            (
                "a: {children: {b: {children: {a: }}}, hosts: n1}\n",
                "hosts.yml:1: groups contain each other: b is already above a",
            ),
            (
                "all: {hosts: {n1: {x: !vault y}}}\n",
                "hosts.yml:1: not in the format of ansible-vault: no content after the header",
            ),
            (
                "all:\n  hosts:\n\tn1:\n",
                "hosts.yml:3: invalid YAML: tabs disallowed within this context (block indentation)",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(load(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_single_name_stands_for_a_mapping() {
        let inventory = load("all: {children: web}\nweb: {hosts: n1}\n").unwrap();
        assert_eq!(inventory.hosts_of("web"), ["n1"]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(all|a|b|hosts|children|vars|n1|x|:|: |\\{|\\}|\\n|\\n  |\\n    |, |- |1|!vault |&a |\\*a |<<){0,30}") {
            let _ = load(&text);
        }
    }
}
