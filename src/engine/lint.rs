//! Finds mistakes that can be told without a host: inventory, variables, playbook, roles, and the syntax of templates.
//!
//! [`Run::load`](super::Run::load) refuses the same mistakes; here every stage is gone through even if one before it found
//! something, and the inventory is optional.

use super::run::{absolute, check_variables, is_file, playbook_path};
use super::shapes::template_of;
use crate::inventory::Inventory;
use crate::playbook::{self, Playbook, Task, Tree, tasks_of};
use crate::source::{InputError, InputErrors, Span};
use crate::template::Templar;
use crate::value::Value;
use crate::vars::{Layer, Variables, Vault};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to look at.
#[derive(Debug, Default)]
pub struct Subject {
    /// None: only the playbook.
    pub inventories: Vec<PathBuf>,
    pub extra_vars: Vec<String>,
    pub vault_password_files: Vec<PathBuf>,
    /// The name of a built-in playbook, or a file.
    pub playbook: String,
}

/// What was found, and how much was looked at.
#[derive(Debug, Default)]
pub struct Report {
    pub errors: Vec<InputError>,
    pub warnings: Vec<InputError>,
    pub hosts: usize,
    pub tasks: usize,
}

/// Looks at everything.
pub fn lint(subject: &Subject) -> Report {
    let mut report = Report::default();
    if let Err(errors) = look(subject, &mut report) {
        report.errors.extend(errors.0);
    }
    report
}

/// An error is one after which there is nothing more to look at.
fn look(subject: &Subject, report: &mut Report) -> Result<(), InputErrors> {
    let vault = Vault::from_files(subject.vault_password_files.iter().map(PathBuf::as_path))
        .map_err(|error| InputError::new(error.to_string()))?;
    let built_in = !is_file(&subject.playbook);
    let load = if built_in { Inventory::load_cluster } else { Inventory::load };
    let mut inventory = None;
    if !subject.inventories.is_empty() {
        match load(&subject.inventories, &vault) {
            Ok(loaded) => inventory = Some(loaded),
            Err(errors) => report.errors.extend(errors.0),
        }
    }
    let (playbook_path, playbook_dir) = playbook_path(&subject.playbook);
    let beside = inventory.iter().flat_map(|inventory| &inventory.dirs).map(|dir| absolute(dir)).next();
    let tree = Tree::new(playbook_dir.iter().cloned().chain(beside).collect());
    let playbook = match playbook::load(&tree, &playbook_path) {
        Ok(playbook) => Some(playbook),
        Err(errors) => {
            report.errors.extend(errors.0);
            None
        }
    };
    if let Some(playbook) = &playbook {
        let templar = Templar::new();
        report.tasks = playbook.plays.iter().map(|play| tasks_of(&play.steps).len()).sum();
        report.errors.extend(templates(playbook, &templar).err().into_iter().flat_map(|errors| errors.0));
    }
    let Some(inventory) = inventory else { return Ok(()) };
    report.hosts = inventory.hosts.len();
    if let Some(playbook) = &playbook {
        for play in &playbook.plays {
            if let Err(error) = inventory.select(&play.hosts.value) {
                report.errors.push(InputError { span: Some(play.hosts.span.clone()), ..error });
            }
        }
    }
    let variables = Variables::load(&inventory, playbook_dir.as_deref(), &subject.extra_vars, &vault)?;
    report.warnings.extend(variables.warnings.iter().cloned());
    if let Some(playbook) = &playbook {
        let (_, findings) = check_variables(&tree, playbook, built_in, &variables)?;
        report.errors.extend(findings.errors);
        report.warnings.extend(findings.warnings);
    }
    // A variable that nobody renders may be a template of something else.
    let mut syntax = Syntax::new(Templar::new());
    variables.layers().iter().for_each(|(_, layer)| syntax.layer(layer));
    report.warnings.extend(syntax.errors);
    Ok(())
}

/// Checks the syntax of every template that the tasks of a playbook and its roles hold.
pub fn templates(playbook: &Playbook, templar: &Templar) -> Result<(), InputErrors> {
    let mut syntax = Syntax::new(templar.clone());
    for play in &playbook.plays {
        syntax.layer(&play.vars);
        for task in tasks_of(&play.steps).iter().chain(&play.handlers) {
            syntax.task(task);
        }
    }
    if syntax.errors.is_empty() { Ok(()) } else { Err(InputErrors(syntax.errors)) }
}

struct Syntax {
    templar: Templar,
    errors: Vec<InputError>,
    /// What was looked at: roles and inherited keywords come with each of their tasks.
    seen: HashSet<String>,
}

impl Syntax {
    fn new(templar: Templar) -> Self {
        Self { templar, errors: Vec::new(), seen: HashSet::new() }
    }

    fn task(&mut self, task: &Task) {
        let keywords = &task.keywords;
        if let Some(role) = &task.role {
            self.layer(&role.defaults);
            self.layer(&role.vars);
        }
        keywords.vars.iter().chain(&keywords.params).for_each(|layer| self.layer(layer));
        let conditions = [&keywords.when, &keywords.until].into_iter().flatten();
        let more = [&keywords.changed_when, &keywords.failed_when].into_iter().flatten().flatten();
        for condition in conditions.chain(more) {
            self.condition(&condition.value, &condition.span);
        }
        for spanned in keywords.environment.iter().chain(keywords.loop_.as_ref().map(|l| &l.items)) {
            self.value(&spanned.value, &spanned.span);
        }
        if let Some(text) = &task.free_form {
            self.value(&Value::String(text.clone()), &task.args_span);
        }
        for (name, value) in task.args.as_map().into_iter().flatten() {
            match (task.module.as_str(), name.as_str(), value) {
                ("assert", "that", Value::List(items)) => {
                    items.iter().for_each(|item| self.condition(item, &task.args_span));
                }
                ("assert", "that", one) | ("debug", "var", one) => self.condition(one, &task.args_span),
                (_, _, value) => self.value(value, &task.args_span),
            }
        }
        // `src` of `k8s` is taken as it is.
        let rendered = task.module == "template" || task.args.get("template").is_some();
        if let Some(source) = template_of(task).filter(|_| rendered)
            && self.seen.insert(source.path.display().to_string())
            && let Err(error) = self.templar.check_file(&source.text, Path::new(&source.path))
        {
            self.errors.push(error.into_input(&task.args_span));
        }
    }

    fn layer(&mut self, layer: &Layer) {
        if !self.seen.insert(format!("{:p}", Arc::as_ptr(layer))) {
            return;
        }
        for var in layer.values().filter(|var| !var.literal) {
            if let Some(origin) = &var.origin {
                self.value(&var.value, origin);
            }
        }
    }

    fn condition(&mut self, value: &Value, span: &Span) {
        if let Value::String(text) = value
            && let Err(error) = self.templar.check_condition(text)
        {
            self.push(error.into_input(span));
        }
    }

    fn value(&mut self, value: &Value, span: &Span) {
        match value {
            Value::String(text) => {
                if let Err(error) = self.templar.check(text) {
                    self.push(error.into_input(span));
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.value(item, span)),
            Value::Map(map) => map.iter().for_each(|(key, item)| {
                self.value(&Value::String(key.clone()), span);
                self.value(item, span);
            }),
            _ => {}
        }
    }

    /// What is inherited comes with each task and is told once.
    fn push(&mut self, error: InputError) {
        if self.seen.insert(error.to_string()) {
            self.errors.push(error);
        }
    }
}
