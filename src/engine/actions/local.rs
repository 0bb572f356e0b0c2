//! `assert` and `debug`: expressions of the controller.

use super::{Action, render_args};
use crate::engine::run::Run;
use crate::modules::{Failure, Outcome};
use crate::playbook::Task;
use crate::source::{InputError, Spanned};
use crate::template::{Scope, Truth};
use crate::value::{Map, Value};
use std::sync::Arc;

fn ok(message: String) -> Outcome {
    let result: Map = [("msg".to_owned(), message.as_str().into()), ("kprov_message".to_owned(), message.into())]
        .into_iter()
        .collect();
    Outcome::unchanged(result)
}

/// `assert`: `that` holds expressions, not templates.
pub fn assert(run: &Run, task: &Task, scope: &Arc<dyn Scope>) -> Result<Action, Failure> {
    let that = match task.args.get("that") {
        Some(Value::List(list)) => list.clone(),
        Some(one) => vec![one.clone()],
        None => return Err(InputError::at(&task.args_span, "assert: missing argument `that`").into()),
    };
    let mut rest = task.args.as_map().cloned().unwrap_or_default();
    rest.shift_remove("that");
    let message = |name: &str| -> Result<Option<String>, Failure> {
        let Some(value) = rest.get(name) else { return Ok(None) };
        let rendered = run.templar.render(value, scope).map_err(|e| Failure::from(e.into_input(&task.args_span)))?;
        Ok(Some(match rendered {
            Value::List(lines) => lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            other => other.to_string(),
        }))
    };
    for condition in that {
        let condition = Spanned { value: condition, span: task.args_span.clone() };
        let truth =
            run.templar.condition(&condition.value, scope).map_err(|e| Failure::from(e.into_input(&condition.span)))?;
        if truth == Truth::False {
            let text = match message("fail_msg")? {
                Some(text) => text,
                None => message("msg")?.unwrap_or_else(|| format!("assertion failed: {}", condition.value)),
            };
            return Ok(Action::Known(Err(Failure::new(text))));
        }
    }
    let text = message("success_msg")?;
    let quiet = rest.get("quiet").and_then(Value::to_bool).unwrap_or(true);
    let outcome = match text {
        Some(text) if !quiet => ok(text),
        _ => Outcome::unchanged(Map::new()),
    };
    Ok(Action::Known(Ok(outcome)))
}

/// `debug`: a message, or the value of an expression.
pub fn debug(run: &Run, task: &Task, scope: &Arc<dyn Scope>) -> Result<Action, Failure> {
    if let Some(var) = task.args.get("var") {
        let name = var.to_string();
        let template = Value::String(format!("{{{{ {name} }}}}"));
        let value = run.templar.render(&template, scope).map_err(|e| Failure::from(e.into_input(&task.args_span)))?;
        return Ok(Action::Known(Ok(ok(format!("{name}: {value}")))));
    }
    let args = render_args(run, task, scope)?;
    let message = args.get("msg").map_or_else(|| "Hello world!".to_owned(), ToString::to_string);
    Ok(Action::Known(Ok(ok(message))))
}
