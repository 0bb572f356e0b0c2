//! Checks each host's variables against what the roles that it will run declare, as soon as they can be rendered.
//!
//! What is no template was checked at load already, where a user wrote it. Here facts are known, so everything is rendered
//! that a role's task would see: inventory, defaults, play and role variables. A value that hangs on a result of the run
//! (`register`, `set_fact`) is left to the task that reads it. Nothing has been changed on any host yet.

use super::run::Run;
use super::scope::TaskScope;
use crate::playbook::{Task, tasks_of};
use crate::source::InputError;
use crate::template::{Scope, Truth, is_omit};
use crate::value::Value;
use crate::vars::Spec;
use indexmap::{IndexMap, IndexSet};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What does not fit, each with the hosts that it is wrong for.
pub fn check(run: &Arc<Run>) -> Vec<(InputError, IndexSet<String>)> {
    let mut found: IndexMap<String, (InputError, IndexSet<String>)> = IndexMap::new();
    let mut take = |host: &str, error: InputError| {
        found.entry(error.to_string()).or_insert_with(|| (error, IndexSet::new())).1.insert(host.to_owned());
    };
    let mut specs: IndexMap<&str, Vec<&Spec>> = IndexMap::new();
    // Those without a place are known by name only.
    for spec in run.specs.iter().filter(|spec| spec.span.is_some()) {
        specs.entry(&spec.role).or_default().push(spec);
    }
    let made = made_in_the_run(run);
    let alive = |host: &str| run.hosts.get(host).is_some_and(|state| !state.is_dead());
    // What belongs to no role.
    for host in run.hosts.keys().filter(|host| alive(host)) {
        let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_host(run, host));
        for spec in specs.get("kprov").into_iter().flatten() {
            check_one(run, spec, &scope, &made).unwrap_or_else(|error| take(host, error));
        }
    }
    for (number, (play, shape)) in run.playbook.plays.iter().zip(&*run.shapes).enumerate() {
        let mut roles: IndexMap<String, Vec<Arc<Task>>> = IndexMap::new();
        for task in tasks_of(&play.steps) {
            if task.role.is_some() && run.selects(&task) {
                roles.entry(task.role_name().to_owned()).or_default().push(task);
            }
        }
        for (batch, host) in shape.batches.iter().enumerate().flat_map(|(i, hosts)| hosts.iter().map(move |h| (i, h))) {
            if !alive(host) {
                continue;
            }
            for (role, tasks) in &roles {
                let Some(specs) = specs.get(role.as_str()) else { continue };
                // A role whose conditions are all false on this host does nothing there, whatever its variables are.
                let used = tasks.iter().find_map(|task| {
                    let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_task(run, host, number, batch, task));
                    let mut conditions = task.keywords.when.iter();
                    let skipped =
                        conditions.any(|c| matches!(run.templar.condition(&c.value, &scope), Ok(Truth::False)));
                    (!skipped).then_some(scope)
                });
                let Some(scope) = used else { continue };
                for spec in specs {
                    check_one(run, spec, &scope, &made).unwrap_or_else(|error| take(host, error));
                }
            }
        }
    }
    found.into_values().collect()
}

fn check_one(run: &Run, spec: &Spec, scope: &Arc<dyn Scope>, made: &BTreeSet<String>) -> Result<(), InputError> {
    let name = &spec.name;
    let missing = || {
        let message = format!("the variable {name} is not set, and role {} requires it", spec.role);
        let error = InputError { span: spec.span.clone(), ..InputError::new(message) };
        if spec.required { Err(error.help("set it in group_vars, host_vars or with -e")) } else { Ok(()) }
    };
    let Some(var) = scope.lookup(name) else { return missing() };
    let at = |error: InputError| InputError { span: error.span.clone().or_else(|| var.origin.clone()), ..error };
    let (value, secret) = match var.literal {
        true => ((*var.value).clone(), false),
        false => match run.templar.render_noting(&var.value, scope) {
            Ok(rendered) => rendered,
            Err(error) => {
                let later = run.templar.reads_deep(&var.value, scope).iter().any(|name| made.contains(name));
                return match &var.origin {
                    _ if later => Ok(()),
                    Some(origin) => Err(error.into_input(origin)),
                    None => Err(InputError::new(format!("{name}: {error}"))),
                };
            }
        },
    };
    if is_omit(&value) {
        return missing();
    }
    run.specs.check_value(name, &value).map_err(|error| {
        at(match secret || var.secret {
            true => InputError::new(format!("wrong value of {name}: it does not fit its declaration (it is secret)")),
            false => error,
        })
    })
}

/// Names that have a value only while tasks run.
fn made_in_the_run(run: &Run) -> BTreeSet<String> {
    let mut names = BTreeSet::from(["item".to_owned(), "vars".to_owned()]);
    // What a host that is not there would have said: the task that needs it has its own word for that.
    if run.hosts.values().any(|host| host.is_dead()) {
        names.insert("hostvars".to_owned());
    }
    for task in run.playbook.plays.iter().flat_map(|play| tasks_of(&play.steps)) {
        names.extend(task.keywords.register.clone());
        for layer in &task.keywords.vars {
            names.extend(layer.keys().cloned());
        }
        if let Some(loop_) = &task.keywords.loop_ {
            names.insert(loop_.var.clone());
            names.extend(loop_.index_var.clone());
        }
        if let ("set_fact", Value::Map(map)) = (task.module.as_str(), &task.args) {
            names.extend(map.keys().cloned());
        }
    }
    names
}
