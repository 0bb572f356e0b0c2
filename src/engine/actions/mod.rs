//! Modules that run on the controller, and what turns a task into something that a node can run.
//!
//! Most modules become a [`Resource`] for the agent. A few are the controller's own: they evaluate expressions (`assert`,
//! `debug`, `set_fact`, `fail`), need the controller's files (`template`, `artifact`), or speak to the Kubernetes API
//! through a node (`k8s`, `k8s_info`, `admin_kubeconfig`).

use super::host::HostState;
use super::link::Link;
use super::run::Run;
use crate::modules::args::{ArgError, Args};
use crate::modules::{self, Failure, Outcome, Resource};
use crate::playbook::Task;
use crate::source::InputError;
use crate::template::Scope;
use crate::value::{After, Map, Value};
use std::sync::Arc;

mod kubernetes;
mod local;
mod node;

pub use kubernetes::{KubeClients, Kubernetes};

/// The names of the modules of this file. `template` and `artifact` end as resources of the node.
pub const NAMES: &[&str] = &[
    "admin_kubeconfig",
    "artifact",
    "assert",
    "containerd_image",
    "debug",
    "fail",
    "k8s",
    "k8s_info",
    "set_fact",
    "setup",
    "template",
];

/// The arguments of modules that evaluate expressions: what else is written there is a mistake that is known at load.
/// `None`: the module itself refuses what it does not know, when its arguments are rendered.
pub fn arguments(module: &str) -> Option<&'static [&'static str]> {
    Some(match module {
        "assert" => &["that", "fail_msg", "msg", "success_msg", "quiet"],
        "debug" => &["msg", "var"],
        "fail" => &["msg"],
        "setup" => &[],
        _ => return None,
    })
}

/// A task that is ready to run.
pub enum Prepared {
    Node(Box<Resource>),
    Local(Action),
}

/// A module of the controller with its arguments.
pub enum Action {
    /// The outcome is known already (`assert`, `debug`, `set_fact`, `fail`).
    Known(Result<Outcome, Failure>),
    /// Names and values for the host.
    SetFact(Map),
    Setup,
    Kubernetes(Box<Kubernetes>),
}

/// Why a task cannot run.
pub enum Unprepared {
    /// Plan: an argument is known only after that task.
    Unknown(After),
    Failed(Failure),
}

impl From<Failure> for Unprepared {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Whether the task may only be evaluated when everything before it is done.
pub fn needs_results(task: &Task) -> bool {
    matches!(task.module.as_str(), "k8s" | "k8s_info" | "admin_kubeconfig" | "setup")
}

/// Renders the arguments of a task and makes the module of them.
pub async fn prepare(run: &Arc<Run>, task: &Arc<Task>, scope: &Arc<dyn Scope>) -> Result<Prepared, Unprepared> {
    match task.module.as_str() {
        "assert" => return Ok(Prepared::Local(local::assert(run, task, scope)?)),
        "debug" => return Ok(Prepared::Local(local::debug(run, task, scope)?)),
        _ => {}
    }
    let mut args = render_args(run, task, scope)?;
    let free_form = match &task.free_form {
        None => None,
        Some(text) => match run.templar.render_str(text, scope).map_err(|e| failed(e.into_input(&task.args_span)))? {
            Value::Unknown(after) => return Err(Unprepared::Unknown(after)),
            value => Some(value.to_string()),
        },
    };
    let resource = match task.module.as_str() {
        "fail" => {
            let message = args.get("msg").map_or_else(|| "failed as requested".to_owned(), ToString::to_string);
            return Ok(Prepared::Local(Action::Known(Err(Failure::new(message)))));
        }
        "set_fact" => {
            args.shift_remove("cacheable");
            return Ok(Prepared::Local(Action::SetFact(args)));
        }
        "setup" => return Ok(Prepared::Local(Action::Setup)),
        "k8s" | "k8s_info" | "admin_kubeconfig" => {
            let action = Kubernetes::prepare(run, task, args, scope)?;
            return Ok(Prepared::Local(Action::Kubernetes(Box::new(action))));
        }
        "template" => node::template(run, task, args, scope)?,
        "artifact" => node::artifact(run, task, args, scope).await?,
        "containerd_image" => match node::containerd_image(run, task, args, scope).await? {
            Some(resource) => resource,
            None => {
                return Ok(Prepared::Local(Action::Known(Ok(Outcome::unchanged(Map::new())))));
            }
        },
        name => match modules::from_args(name, Args::new(args, free_form, &task.files)) {
            Some(made) => made.map_err(|error| arg_error(task, error))?,
            None => return Err(failed(InputError::at(&task.span, format!("unknown module `{name}`")))),
        },
    };
    let mut resource = resource;
    node::settle(run, task, scope, &mut resource)?;
    Ok(Prepared::Node(Box::new(resource)))
}

/// The task's arguments with their templates rendered; `omit` drops one.
fn render_args(run: &Run, task: &Task, scope: &Arc<dyn Scope>) -> Result<Map, Failure> {
    match run.templar.render(&task.args, scope).map_err(|e| Failure::from(e.into_input(&task.args_span)))? {
        Value::Map(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => {
            let message = format!("arguments have to be a mapping, found {}", other.type_name());
            Err(InputError::at(&task.args_span, message).into())
        }
    }
}

/// A mistake in the arguments, with its place.
fn arg_error(task: &Task, error: ArgError) -> Unprepared {
    if let Some(after) = error.unknown_after {
        return Unprepared::Unknown(*after);
    }
    let mut input = InputError::at(&task.args_span, format!("{}: {}", task.module, error.message));
    input.help = error.help;
    failed(input)
}

fn failed(error: InputError) -> Unprepared {
    Unprepared::Failed(error.into())
}

impl Action {
    /// Whether it looks at or changes something that earlier tasks of the node may still be changing.
    pub fn touches_world(&self) -> bool {
        matches!(self, Self::Kubernetes(_) | Self::Setup)
    }

    /// Runs it for `host`, through `link`. `secret`: its arguments hold secrets. `expect`: as in [`crate::agent::protocol::Task`].
    pub async fn run(
        self,
        run: &Arc<Run>,
        host: &HostState,
        link: &Arc<Link>,
        secret: bool,
        expect: Option<&[String]>,
    ) -> Result<Outcome, Failure> {
        match self {
            Self::Known(result) => result,
            Self::SetFact(facts) => {
                for (name, value) in &facts {
                    host.set_result(name, value.clone(), secret);
                }
                Ok(Outcome::unchanged([("ansible_facts".to_owned(), Value::Map(facts))].into_iter().collect()))
            }
            Self::Setup => {
                let facts = link.agent.facts().await?;
                host.set_facts(facts.as_map().cloned().unwrap_or_default());
                Ok(Outcome::unchanged(Map::new()))
            }
            Self::Kubernetes(action) => action.run(run, link, expect).await,
        }
    }
}
