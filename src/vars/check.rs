//! Checks what inventory, variable files and `-e` set against what the roles declare.
//!
//! A value of a wrong type or outside of its choices is an error at its own line. So is an unknown name that is a near
//! miss of a declared one: it would silently do nothing. A name that Kubespray knows and kprov does not support is a
//! warning by name, and so is any other name that nothing reads. Values that hold templates are checked when they are
//! rendered, with [`ArgumentSpecs::check_value`].

use super::specs::has_template;
use super::{ArgumentSpecs, Level, Var, Variables};
use crate::source::{InputError, near_miss};
use crate::value::Value;
use indexmap::IndexMap;
use std::collections::HashSet;

/// Names of Kubespray's variables, one a line; `#` begins a comment.
const KUBESPRAY: &str = include_str!("kubespray_variables.txt");

/// What was found; errors stop the run.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub errors: Vec<InputError>,
    pub warnings: Vec<InputError>,
}

/// Checks the value of every variable that was written, whether or not a host uses it.
pub fn check_values(specs: &ArgumentSpecs, variables: &Variables) -> Vec<InputError> {
    let mut errors = Vec::new();
    for (name, var) in written(variables) {
        if let Err(error) = specs.check_value(name, &var.value) {
            let mut error = InputError { span: var.origin.clone(), ..error };
            if var.secret {
                error.message =
                    format!("wrong value of {name}: it does not fit its declaration (it comes from a vault)");
            }
            errors.push(error);
        }
    }
    errors
}

/// Checks values as [`check_values`] does, and that every name is one that something reads.
pub fn check(specs: &ArgumentSpecs, variables: &Variables) -> Findings {
    let mut findings = Findings { errors: check_values(specs, variables), warnings: Vec::new() };
    let kubespray: HashSet<&str> = KUBESPRAY.lines().filter(|line| !line.starts_with('#')).collect();
    let read = names_read(specs, variables);
    // One mistake in a host line is often made in every host line: report the first, with a count.
    let mut unknown: IndexMap<&str, (&Var, usize)> = IndexMap::new();
    for (name, var) in written(variables) {
        if specs.get(name).is_none() && !name.starts_with("ansible_") && !read.contains(name) {
            unknown.entry(name).or_insert((var, 0)).1 += 1;
        }
    }
    let mut unsupported: IndexMap<String, Vec<(&str, &Var)>> = IndexMap::new();
    let declared: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    for (name, (var, times)) in unknown {
        let more = if times > 1 { format!(" (and {} more like it)", times - 1) } else { String::new() };
        let found = |message: String| InputError { span: var.origin.clone(), ..InputError::new(message + &more) };
        if kubespray.contains(name) {
            let file = var.origin.as_ref().map(|span| span.source.path.display().to_string());
            unsupported.entry(file.unwrap_or_default()).or_default().push((name, var));
        } else if let Some(near) = near_miss(name, declared.iter().copied()) {
            let error = found(format!("unknown variable: {name}")).help(format!("did you mean `{near}`?"));
            findings.errors.push(error);
        } else {
            findings.warnings.push(found(format!("unknown variable: {name}; nothing reads it")));
        }
    }
    // A whole inventory of Kubespray sets many of them: one warning for each file.
    for vars in unsupported.into_values() {
        let names: Vec<&str> = vars.iter().map(|(name, _)| *name).collect();
        let span = vars.first().and_then(|(_, var)| var.origin.clone());
        let message = format!("not supported by kprov and ignored: {}", names.join(", "));
        findings.warnings.push(InputError { span, ..InputError::new(message) });
    }
    findings
}

/// Every variable of the user's files, inventories and `-e`.
fn written(variables: &Variables) -> impl Iterator<Item = (&str, &Var)> {
    let layers = variables.layers().iter().filter(|(level, _)| *level != Level::Magic);
    layers.flat_map(|(_, layer)| layer.iter().map(|(name, var)| (name.as_str(), var)))
}

/// Every word that stands in a template of a variable or of a default: a superset of the names that are read.
fn names_read(specs: &ArgumentSpecs, variables: &Variables) -> HashSet<String> {
    let mut names = HashSet::new();
    let defaults = specs.iter().filter_map(|spec| spec.default.as_ref());
    let values = written(variables).filter(|(_, var)| !var.literal).map(|(_, var)| &*var.value);
    for value in defaults.chain(values).filter(|value| has_template(value)) {
        words(value, &mut names);
    }
    names
}

fn words(value: &Value, names: &mut HashSet<String>) {
    match value {
        Value::String(text) => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            names.extend(text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(str::to_owned));
        }
        Value::List(items) => items.iter().for_each(|item| words(item, names)),
        Value::Map(map) => map.values().for_each(|item| words(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Inventory;
    use crate::source::Source;
    use crate::vars::Vault;
    use crate::yaml;

    #[test]
    fn findings_point_at_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts.ini");
        std::fs::write(&hosts, "[kube_node]\nn1 ip=10.0.0.1 rack=a\nn2 rack=b site=x\n[all:vars]\nansible_user=root\n")
            .unwrap();
        std::fs::create_dir(dir.path().join("group_vars")).unwrap();
        let all = "kube_versoin: v1\nminimal_node_memory_mb: lots\ncalico_mtu: 1400\ntypha_enabled: no\nlabel: '{{ site }}'\nnode_labels: {x: '{{ label }}'}\n";
        std::fs::write(dir.path().join("group_vars/all.yml"), all).unwrap();
        let inventory = Inventory::load(&[hosts], &Vault::default()).unwrap();
        let variables = Variables::load(&inventory, None, &["kube_version=v1".to_owned()], &Vault::default()).unwrap();
        let mut specs = ArgumentSpecs::default();
        let text = "argument_specs: {main: {options: {kube_version: {}, minimal_node_memory_mb: {type: int}, \
                    ip: {}, node_labels: {type: dict}}}}";
        specs.load("r", &yaml::load(&Source::new("s.yml", text)).unwrap()).unwrap();
        let findings = check(&specs, &variables);
        let show = |findings: &[InputError]| {
            let prefix = format!("{}/", dir.path().display());
            findings.iter().map(|f| f.to_string().replace(&prefix, "")).collect::<Vec<_>>()
        };
        assert_eq!(
            show(&findings.errors),
            [
                "group_vars/all.yml:2: wrong type of minimal_node_memory_mb: expected int, found str `lots`",
                "group_vars/all.yml:1: unknown variable: kube_versoin",
            ]
        );
        assert_eq!(findings.errors[1].help.as_deref(), Some("did you mean `kube_version`?"));
        assert_eq!(
            show(&findings.warnings),
            [
                "hosts.ini:2: unknown variable: rack; nothing reads it (and 1 more like it)",
                "group_vars/all.yml:3: not supported by kprov and ignored: calico_mtu, typha_enabled",
            ]
        );
    }

    #[test]
    fn the_names_of_kubespray_are_names() {
        let names: Vec<&str> = KUBESPRAY.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(names.is_sorted() && names.contains(&"kube_network_plugin"));
        assert!(names.iter().all(|name| crate::vars::is_valid_name(name)));
    }
}
