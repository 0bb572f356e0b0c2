//! One task on one host, item by item: what its loop gives, what each item evaluates to, and what its conditions make of
//! the result (`until`, `changed_when`, `failed_when`).

use super::{Driver, Flow, Handler};
use crate::agent::protocol::StepName;
use crate::engine::actions::{self, Prepared};
use crate::engine::collect::{Finished, Verdict, literal};
use crate::engine::scope::{TaskScope, result_value};
use crate::modules::{Failure, Grade, Outcome};
use crate::playbook::{Loop, Task};
use crate::source::{InputError, Spanned};
use crate::template::{Scope, Truth};
use crate::value::{After, Value};
use std::sync::Arc;
use std::time::Duration;

/// What evaluation made of a task for one item.
enum Evaluated {
    Skip(String),
    /// And the task after which it is known whether it runs at all.
    Run(Prepared, Option<After>),
    /// Cannot be evaluated before an earlier task was applied.
    Unknown(After),
}

impl Driver {
    /// The items of the task's loop with the names that each of them sets; one without a loop.
    #[expect(clippy::type_complexity, reason = "an item, and the names it sets or why it cannot be")]
    pub(super) fn items(
        &self,
        task: &Task,
        scope: &Arc<dyn Scope>,
    ) -> Result<(Vec<(Option<Value>, Result<Vec<(String, Value)>, Failure>)>, bool), Failure> {
        let Some(Loop { items, flatten, var, index_var, .. }) = &task.keywords.loop_ else {
            return Ok((vec![(None, Ok(Vec::new()))], false));
        };
        let rendered =
            self.run.templar.render(&items.value, scope).map_err(|e| Failure::from(e.into_input(&items.span)))?;
        let list = match rendered {
            Value::List(list) => list,
            Value::Unknown(after) => vec![Value::Unknown(after)],
            other if *flatten => vec![other],
            other => {
                return Err(Failure::from(InputError::at(
                    &items.span,
                    format!("`loop` needs a list, found {}", other.type_name()),
                )));
            }
        };
        let list: Vec<Value> = match flatten {
            true => list
                .into_iter()
                .flat_map(|item| if let Value::List(inner) = item { inner } else { vec![item] })
                .collect(),
            false => list,
        };
        let names = |(index, item): (usize, Value)| {
            let mut names = vec![(var.clone(), item.clone()), ("ansible_loop_var".to_owned(), var.as_str().into())];
            if let Some(index_var) = index_var {
                names.push((index_var.clone(), index.into()));
            }
            (Some(item), Ok(names))
        };
        Ok((list.into_iter().enumerate().map(names).collect(), true))
    }

    /// Evaluates the task for one item and starts it.
    #[expect(
        clippy::too_many_arguments,
        reason = "one item of one task; a struct would be made and taken apart here only"
    )]
    pub(super) async fn item(
        &mut self,
        task: &Arc<Task>,
        name: StepName,
        base: &TaskScope,
        scope: &Arc<dyn Scope>,
        names: Vec<(String, Value)>,
        group: u32,
        ignore: bool,
        handler: Option<&Handler>,
    ) -> Verdict {
        let mut tries = 1;
        let mut delay = Duration::ZERO;
        if !task.keywords.until.is_empty() {
            let number = |given: &Option<Spanned<Value>>, default: i64| match given {
                None => Ok(default),
                Some(given) => {
                    match self
                        .run
                        .templar
                        .render(&given.value, scope)
                        .map_err(|e| Failure::from(e.into_input(&given.span)))?
                    {
                        Value::Int(n) if n >= 0 => Ok(n),
                        Value::String(s) if s.trim().parse::<u32>().is_ok() => Ok(s.trim().parse().unwrap_or_default()),
                        other => {
                            Err(Failure::from(InputError::at(&given.span, format!("expected a number, found {other}"))))
                        }
                    }
                }
            };
            match (number(&task.keywords.retries, 3), number(&task.keywords.delay, 5)) {
                (Ok(retries), Ok(seconds)) => {
                    tries = retries.max(1);
                    delay = Duration::from_secs(seconds.unsigned_abs());
                }
                (Err(failure), _) | (_, Err(failure)) => return Verdict::Ready(Err(failure)),
            }
        }
        loop {
            tries -= 1;
            let verdict = match self.evaluate(task, scope).await {
                Err(failure) => Verdict::Ready(Err(failure)),
                Ok(Evaluated::Skip(why)) => return Verdict::Skipped(why),
                Ok(Evaluated::Unknown(after)) => return Verdict::Planned(after),
                Ok(Evaluated::Run(prepared, after)) => {
                    let name = StepName { no_log: name.no_log || base.saw_secret(), ..name.clone() };
                    // A try that is not the last may fail without ending the epoch.
                    let lenient = ignore || tries > 0 || task.keywords.failed_when.is_some();
                    match self.start(task, name, prepared, scope, group, lenient, handler).await {
                        Ok(verdict) => verdict.unsure(after),
                        Err(failure) => Verdict::Ready(Err(failure)),
                    }
                }
            };
            if !needs_verdict(task) {
                return verdict;
            }
            let result = match self.judge(task, base, &names, verdict.wait().await) {
                Ok(result) => result,
                Err(verdict) => return *verdict,
            };
            if self.run.planning() || task.keywords.until.is_empty() {
                return Verdict::Ready(result);
            }
            let done = match self.until(task, base, &names, &result) {
                Ok(done) => done,
                // Of a failed task not all may be there that the condition reads.
                Err(failure) => return Verdict::Ready(Err(result.err().unwrap_or(failure))),
            };
            if done {
                return Verdict::Ready(result);
            }
            if tries == 0 || self.stopped() == Flow::Failed {
                let failure =
                    result.err().unwrap_or_else(|| Failure::new("the condition of `until` did not come true"));
                return Verdict::Ready(Err(failure));
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// Applies `changed_when` and `failed_when` to a result.
    fn judge(
        &self,
        task: &Task,
        base: &TaskScope,
        names: &[(String, Value)],
        result: Finished,
    ) -> Result<Result<Outcome, Failure>, Box<Verdict>> {
        let result = match result {
            Finished::Result(result) => result,
            Finished::Other(verdict) => return Err(Box::new(verdict)),
        };
        let unknown = matches!(&result, Ok(outcome) if outcome.result.values().any(|v| v.unknown().is_some()));
        if unknown {
            return Ok(result);
        }
        let scope = self.scope_with_result(task, base, names, &result);
        let all = |conditions: &[Spanned<Value>]| -> Result<bool, Failure> {
            for condition in conditions {
                if !matches!(self.condition(condition, &scope)?, Truth::True) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let judged = || -> Result<Result<Outcome, Failure>, Failure> {
            let mut result = result;
            if let Some(conditions) = &task.keywords.failed_when {
                let failed = all(conditions)?;
                result = match (failed, result) {
                    (true, Ok(outcome)) => {
                        Err(Failure { message: "`failed_when` holds".to_owned(), result: outcome.result })
                    }
                    (true, failed) => failed,
                    (false, Ok(outcome)) => Ok(outcome),
                    (false, Err(failure)) => {
                        Ok(Outcome { changed: true, grade: Grade::Opaque, ..Outcome::unchanged(failure.result) })
                    }
                };
            }
            if let (Some(conditions), Ok(outcome)) = (&task.keywords.changed_when, &mut result) {
                outcome.changed = all(conditions)?;
            }
            Ok(result)
        };
        Ok(judged().unwrap_or_else(Err))
    }

    fn until(
        &self,
        task: &Task,
        base: &TaskScope,
        names: &[(String, Value)],
        result: &Result<Outcome, Failure>,
    ) -> Result<bool, Failure> {
        let scope = self.scope_with_result(task, base, names, result);
        for condition in &task.keywords.until {
            if !matches!(self.condition(condition, &scope)?, Truth::True) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn scope_with_result(
        &self,
        task: &Task,
        base: &TaskScope,
        names: &[(String, Value)],
        result: &Result<Outcome, Failure>,
    ) -> Arc<dyn Scope> {
        let value = match result {
            Ok(outcome) => result_value(outcome.changed, outcome.result.clone()),
            Err(failure) => {
                let mut map = failure.result.clone();
                map.insert("failed".to_owned(), true.into());
                map.insert("msg".to_owned(), failure.message.as_str().into());
                result_value(false, map)
            }
        };
        let register = task.keywords.register.clone().map(|name| (name, Value::Map(value)));
        base.with(names.iter().cloned().chain(register))
    }

    async fn evaluate(&self, task: &Arc<Task>, scope: &Arc<dyn Scope>) -> Result<Evaluated, Failure> {
        let mut unsure = None;
        for condition in &task.keywords.when {
            match self.condition(condition, scope)? {
                Truth::True => {}
                Truth::False => return Ok(Evaluated::Skip(format!("{} is false", condition.value))),
                Truth::Unknown(after) => unsure = Some(after),
            }
        }
        match actions::prepare(&self.run, task, scope).await {
            Ok(prepared) => Ok(Evaluated::Run(prepared, unsure)),
            Err(actions::Unprepared::Unknown(after)) => Ok(Evaluated::Unknown(after)),
            Err(actions::Unprepared::Failed(failure)) => Err(failure),
        }
    }

    pub(super) fn condition(&self, condition: &Spanned<Value>, scope: &Arc<dyn Scope>) -> Result<Truth, Failure> {
        self.run.templar.condition(&condition.value, scope).map_err(|e| Failure::from(e.into_input(&condition.span)))
    }
}

/// Whether the result has to be looked at before the task's verdict is known.
fn needs_verdict(task: &Task) -> bool {
    let dynamic = |conditions: &Option<Vec<Spanned<Value>>>| conditions.is_some() && literal(conditions).is_none();
    !task.keywords.until.is_empty() || dynamic(&task.keywords.failed_when) || dynamic(&task.keywords.changed_when)
}
