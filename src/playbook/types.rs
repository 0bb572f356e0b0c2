//! The typed playbook.

use super::Tree;
use crate::modules::args::{ArgError, Files as ArgFiles};
use crate::source::{Source, Span, Spanned};
use crate::value::Value;
use crate::vars::Layer;
use std::path::PathBuf;
use std::sync::Arc;

/// Number of a play and of a task in it, "3.12": the same in `plan` and `apply` of the same playbook.
pub type TaskId = String;

/// Plays in order.
#[derive(Debug)]
pub struct Playbook {
    pub plays: Vec<Play>,
}

/// Tasks for the hosts of a pattern.
#[derive(Debug)]
pub struct Play {
    pub name: String,
    pub hosts: Spanned<String>,
    pub span: Span,
    /// Plays by name that have to be done on all their hosts before this one starts; by default the one before.
    pub needs: Option<Vec<Spanned<String>>>,
    /// Sizes of the batches, in hosts or percent of the play's hosts; empty: all at once. The last one repeats.
    pub serial: Vec<BatchSize>,
    pub any_errors_fatal: bool,
    pub gather_facts: bool,
    /// `become` of the play.
    pub escalate: Option<bool>,
    pub become_user: Option<String>,
    pub vars: Layer,
    pub steps: Vec<Step>,
    pub handlers: Vec<Arc<Task>>,
    /// How many tasks, barriers and flushes there are in `steps`, however deep; they are numbered from 0 in order.
    pub len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BatchSize {
    Hosts(usize),
    Percent(f64),
}

/// What a play consists of.
#[derive(Clone, Debug)]
pub enum Step {
    Task(Arc<Task>),
    Block(Arc<Block>),
    /// `meta: flush_handlers`, and the end of a section. `index` counts it among the tasks.
    FlushHandlers {
        index: usize,
        /// The last one of a play also runs what an earlier run left behind.
        last: bool,
    },
    /// `meta: barrier`: every host waits here for all others. `index` counts it among the tasks.
    Barrier {
        index: usize,
    },
}

/// Tasks with a rescue. Blocks without one are dissolved into their tasks at load.
#[derive(Debug)]
pub struct Block {
    pub body: Vec<Step>,
    pub rescue: Vec<Step>,
    pub always: Vec<Step>,
}

/// A task, with what it inherits from its blocks, role and play folded in.
#[derive(Debug)]
pub struct Task {
    pub id: TaskId,
    /// Number among the tasks of the play; handlers have none.
    pub index: Option<usize>,
    /// As written; may hold a template.
    pub name: String,
    pub role: Option<Arc<Role>>,
    /// Without `ansible.builtin.`.
    pub module: String,
    /// A mapping of arguments, not rendered.
    pub args: Value,
    pub args_span: Span,
    pub free_form: Option<String>,
    pub keywords: Keywords,
    pub span: Span,
    /// The file that holds it: relative `src` and includes are looked for from there.
    pub files: Files,
}

/// What surrounds a task's module. Inherited from blocks where Ansible inherits it.
#[derive(Clone, Debug, Default)]
pub struct Keywords {
    /// All have to hold, outermost first.
    pub when: Vec<Spanned<Value>>,
    pub tags: Vec<String>,
    pub loop_: Option<Loop>,
    pub register: Option<String>,
    pub notify: Vec<String>,
    /// Topics that a handler listens to, beside its name.
    pub listen: Vec<String>,
    pub delegate_to: Option<Spanned<String>>,
    pub run_once: bool,
    pub ignore_errors: Option<Spanned<Value>>,
    pub until: Vec<Spanned<Value>>,
    pub retries: Option<Spanned<Value>>,
    /// Seconds between tries.
    pub delay: Option<Spanned<Value>>,
    pub changed_when: Option<Vec<Spanned<Value>>>,
    pub failed_when: Option<Vec<Spanned<Value>>>,
    pub no_log: bool,
    /// `check_mode: false`: runs in a plan too; only for tasks that change nothing.
    pub always_run: bool,
    pub environment: Vec<Spanned<Value>>,
    pub any_errors_fatal: bool,
    /// Block variables, outermost first, then the task's own.
    pub vars: Vec<Layer>,
    /// Parameters of the role that the task is in.
    pub params: Vec<Layer>,
}

/// `loop` and `with_items`.
#[derive(Clone, Debug)]
pub struct Loop {
    pub items: Spanned<Value>,
    /// `with_items` flattens one level.
    pub flatten: bool,
    pub var: String,
    pub index_var: Option<String>,
    pub label: Option<String>,
}

/// A role's variables, and where its files are.
#[derive(Debug)]
pub struct Role {
    pub name: String,
    pub defaults: Layer,
    pub vars: Layer,
}

/// Finds the files and templates that a task names: those of its role, then those beside the playbook.
#[derive(Clone, Debug)]
pub struct Files {
    pub tree: Arc<Tree>,
    /// "roles/etcd", or the playbook's own directory.
    pub base: PathBuf,
}

impl Files {
    /// A template by the name that a task gives it.
    pub fn template(&self, name: &str) -> Result<Arc<Source>, ArgError> {
        let (path, bytes) = self.find("templates", name)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            ArgError::new("src", format!("{} is not UTF-8, which a template has to be", path.display()))
        })?;
        Ok(Source::new(path, text))
    }

    /// A text file of the directory `kind` of the role, or beside it.
    pub fn source(&self, kind: &str, name: &str) -> Option<Arc<Source>> {
        let (path, bytes) = self.find(kind, name).ok()?;
        Some(Source::new(path, String::from_utf8(bytes).ok()?))
    }

    fn find(&self, kind: &str, name: &str) -> Result<(PathBuf, Vec<u8>), ArgError> {
        let candidates = [self.base.join(kind).join(name), self.base.join(name)];
        for candidate in &candidates {
            if let Some(found) = self.tree.read_bytes(candidate).map_err(|e| ArgError::new("src", e.message))? {
                return Ok(found);
            }
        }
        let mut error = ArgError::new("src", format!("file `{name}` not found"));
        error.help = Some(format!("looked for {} and {}", candidates[0].display(), candidates[1].display()));
        Err(error)
    }
}

impl ArgFiles for Files {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ArgError> {
        self.find("files", name)
    }
}

impl Task {
    /// The name of the role, or "" outside of roles.
    pub fn role_name(&self) -> &str {
        self.role.as_ref().map_or("", |role| &role.name)
    }

    /// `role : task`, as Ansible shows it.
    pub fn title(&self) -> String {
        match &self.role {
            Some(role) => format!("{} : {}", role.name, self.name),
            None => self.name.clone(),
        }
    }
}
