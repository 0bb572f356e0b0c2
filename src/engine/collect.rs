//! Collects what became of a host's tasks, in order: registers results, tells the events, marks the graph.
//!
//! One collector runs beside each driver, so that results are seen and barriers open while the driver waits elsewhere.

use super::event::{Event, May, Status, Step, Subject};
use super::host::HostState;
use super::link::Reply;
use super::run::Run;
use super::scope::result_value;
use crate::agent::client::Lost;
use crate::agent::protocol::TaskResult;
use crate::modules::{Diff, Failure, Grade, Outcome, UnitEffect, digest};
use crate::playbook::Task;
use crate::source::Spanned;
use crate::system::{UnitAction, unit_name};
use crate::value::{After, Map, Value};
use petgraph::stable_graph::NodeIndex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What is known of one item when it is queued.
pub enum Verdict {
    /// Sent; the result will come.
    Waiting(oneshot::Receiver<Reply>),
    /// Sent, and would run under a condition that is only known after that task.
    Unsure(Box<Verdict>, After),
    Ready(Result<Outcome, Failure>),
    /// The agent did nothing: an earlier task failed, or a handler was not notified.
    Nothing,
    Lost(Lost),
    Skipped(String),
    /// Plan: known after that task.
    Planned(After),
}

/// A verdict that nothing is awaited for any more.
pub enum Finished {
    Result(Result<Outcome, Failure>),
    Other(Verdict),
}

impl Verdict {
    pub fn unsure(self, after: Option<After>) -> Self {
        match after {
            None => self,
            Some(after) => Self::Unsure(Box::new(self), after),
        }
    }

    /// It happened on another host than the task's own.
    pub fn at(mut self, host: &str) -> Self {
        if let Self::Ready(Ok(outcome)) = &mut self {
            outcome.units.iter_mut().for_each(|effect| effect.host = Some(host.to_owned()));
            outcome.after = outcome.after.take().map(|after| on(host, after));
        }
        self
    }

    /// Waits for the agent, where it has to answer.
    pub async fn settled(self) -> Self {
        match self {
            Self::Waiting(receiver) => match receiver.await {
                Ok(Reply::Result(TaskResult::Done(outcome))) => Self::Ready(Ok(outcome)),
                Ok(Reply::Result(TaskResult::Failed(failure))) => Self::Ready(Err(failure)),
                Ok(Reply::Result(_)) => Self::Nothing,
                Ok(Reply::Lost(why)) => Self::Lost(why),
                Err(_) => Self::Lost(Lost::Agent("the agent has ended".to_owned())),
            },
            Self::Unsure(inner, after) => match Box::pin(inner.settled()).await {
                Self::Ready(Ok(outcome)) => Self::Ready(Ok(Outcome {
                    grade: outcome.grade.max(Grade::KnownAfterApply),
                    after: Some(after),
                    ..outcome
                })),
                other => other,
            },
            other => other,
        }
    }

    pub async fn wait(self) -> Finished {
        match self.settled().await {
            Self::Ready(result) => Finished::Result(result),
            other => Finished::Other(other),
        }
    }
}

/// One item of a task.
pub struct Item {
    pub value: Option<Value>,
    pub verdict: Verdict,
}

/// A task that has been started.
pub struct PendingTask {
    pub task: Arc<Task>,
    pub title: String,
    pub items: Vec<Item>,
    pub looped: bool,
    pub node: Option<NodeIndex>,
    /// Where the result is registered: the host, or all hosts of a `run_once`.
    pub hosts: Vec<Arc<HostState>>,
    /// Nothing of what it did is shown: `no_log`, or it read a secret variable.
    pub hidden: bool,
    /// Which handler it is.
    pub handler: Option<String>,
    /// Handlers that it notifies when it changes something.
    pub notifies: Vec<String>,
    pub rescuable: bool,
    pub ignore: bool,
    pub started: Instant,
}

pub enum Pending {
    Task(Box<PendingTask>),
    /// A node without a task of its own.
    Mark(NodeIndex),
    Flush(oneshot::Sender<()>),
}

/// The queue of one host.
pub struct Collector {
    sender: mpsc::UnboundedSender<Pending>,
    failed: Arc<AtomicBool>,
}

impl Collector {
    pub fn start(run: Arc<Run>, host: Arc<HostState>) -> Self {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let failed = Arc::new(AtomicBool::new(false));
        let flag = failed.clone();
        tokio::spawn(async move {
            // Handlers that a task would notify of which only apply knows what it does, and that task.
            let mut maybe = HashMap::new();
            while let Some(pending) = receiver.recv().await {
                match pending {
                    Pending::Task(task) => {
                        let node = task.node;
                        finish(&run, &host, *task, &flag, &mut maybe).await;
                        if let Some(node) = node {
                            run.progress.done(node);
                        }
                    }
                    Pending::Mark(node) => run.progress.done(node),
                    Pending::Flush(sender) => {
                        let _ = sender.send(());
                    }
                }
            }
        });
        Self { sender, failed }
    }

    pub fn push(&self, pending: Pending) {
        // The receiver lives as long as this sender.
        let _ = self.sender.send(pending);
    }

    /// Returns when everything queued so far has been collected.
    pub async fn flush(&self) {
        let (sender, receiver) = oneshot::channel();
        self.push(Pending::Flush(sender));
        let _ = receiver.await;
    }

    /// Whether a task has failed since the last [`Collector::forgive`].
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    pub fn forgive(&self) {
        self.failed.store(false, Ordering::SeqCst);
    }
}

/// What the items of a task add up to.
#[derive(Default)]
struct Sum {
    results: Vec<Value>,
    diff: Vec<Diff>,
    grade: Grade,
    after: Option<After>,
    changed: bool,
    failed: Option<String>,
    skipped: usize,
    skip_reason: Option<String>,
    lost: Option<Lost>,
    silent: usize,
}

async fn finish(
    run: &Arc<Run>,
    host: &HostState,
    pending: PendingTask,
    failed: &AtomicBool,
    maybe: &mut HashMap<String, After>,
) {
    let PendingTask {
        task, title, items, looped, hosts, hidden, handler, notifies, rescuable, ignore, started, ..
    } = pending;
    // The handlers of a host come after all tasks that may notify them.
    let due = handler.and_then(|handler| maybe.remove(&handler));
    let subject =
        Subject { host: host.name.clone(), task_id: task.id.clone(), role: task.role_name().to_owned(), task: title };
    let label = After { task_id: task.id.clone(), task: task.title(), host: host.name.clone() };
    let count = items.len();
    let mut sum = Sum::default();
    for (number, item) in items.into_iter().enumerate() {
        let verdict = match (item.verdict.settled().await, &due) {
            (Verdict::Nothing, Some(after)) => Verdict::Planned(after.clone()),
            (Verdict::Ready(Ok(outcome)), _) => Verdict::Ready(Ok(traced(outcome, &label))),
            (verdict, _) => verdict,
        };
        if let (true, Verdict::Ready(Ok(outcome))) = (run.planning(), &verdict) {
            run.kube.note(&outcome.units, &label);
        }
        let mut step = run.planning().then(|| step(&subject, looped.then_some(number), hidden, &verdict)).flatten();
        if let (Some(step), Some(_)) = (&mut step, &due) {
            step.units.extend(restarted(&task));
        }
        let mut map = match verdict {
            Verdict::Ready(result) => match overrule(&task, result) {
                Ok(mut outcome) => {
                    if let Some(step) = &mut step {
                        step.changed = outcome.changed;
                        step.after = outcome.after.clone().filter(|_| outcome.changed);
                    }
                    sum.changed |= outcome.changed;
                    if outcome.changed {
                        sum.grade = sum.grade.max(outcome.grade);
                        sum.after = sum.after.take().or(outcome.after);
                        sum.diff.append(&mut outcome.diff);
                    }
                    result_value(outcome.changed, labelled(outcome.result, &label))
                }
                Err(failure) => {
                    let text = match (&item.value, looped) {
                        (Some(value), true) => format!("item {value}: {}", failure.message),
                        _ => failure.message.clone(),
                    };
                    sum.failed.get_or_insert(text);
                    let mut map = failure.result;
                    map.insert("msg".to_owned(), failure.message.into());
                    map.insert("failed".to_owned(), true.into());
                    result_value(false, map)
                }
            },
            Verdict::Skipped(why) => {
                sum.skipped += 1;
                sum.skip_reason.get_or_insert(why.clone());
                let mut map = Map::new();
                map.insert("skipped".to_owned(), true.into());
                map.insert("skip_reason".to_owned(), why.into());
                result_value(false, map)
            }
            Verdict::Planned(after) => {
                maybe.extend(notifies.iter().map(|handler| (handler.clone(), label.clone())));
                sum.changed = true;
                sum.grade = sum.grade.max(Grade::KnownAfterApply);
                sum.diff.push(known_after(&after));
                sum.after.get_or_insert(after);
                [("changed".to_owned(), Value::Unknown(label.clone()))].into_iter().collect()
            }
            Verdict::Lost(why) => {
                sum.lost.get_or_insert(why);
                Map::new()
            }
            Verdict::Nothing | Verdict::Waiting(_) | Verdict::Unsure(..) => {
                sum.silent += 1;
                Map::new()
            }
        };
        if let Some(step) = step {
            run.events.send(Event::Step(Box::new(step)));
        }
        if let (Some(value), true) = (item.value, looped) {
            map.insert("item".to_owned(), value);
        }
        sum.results.push(Value::Map(map));
    }
    // Of a host that is lost, that is told once.
    if (sum.silent == count && count > 0) || (sum.lost.is_some() && host.is_dead()) {
        return;
    }
    let status = match &sum {
        Sum { lost: Some(lost), .. } => Status::of(lost),
        Sum { failed: Some(_), .. } if ignore => Status::Ignored,
        Sum { failed: Some(_), .. } if rescuable => Status::Rescued,
        Sum { failed: Some(_), .. } => Status::Failed,
        _ if sum.skipped == count => Status::Skipped,
        _ if sum.changed => Status::Changed,
        _ => Status::Ok,
    };
    if let Some(name) = &task.keywords.register {
        let value = registered(&mut sum, looped);
        for state in &hosts {
            state.set_result(name, value.clone(), hidden);
        }
    }
    let message = match status {
        Status::Skipped => sum.skip_reason,
        _ => sum.lost.map(|lost| lost.to_string()).or(sum.failed).or_else(|| said(&sum.results)),
    };
    let shown = |text: String| match (hidden, task.keywords.no_log) {
        (false, _) => text,
        (true, true) => "(hidden: no_log)".to_owned(),
        (true, false) => "(hidden: the task reads a secret variable)".to_owned(),
    };
    run.events.send(Event::Task {
        subject,
        status,
        message: message.map(shown),
        diff: if hidden { Vec::new() } else { sum.diff },
        grade: sum.grade,
        after: sum.after,
        took: started.elapsed(),
    });
    if matches!(status, Status::Failed | Status::Rescued | Status::Unreachable) {
        failed.store(true, Ordering::SeqCst);
    }
    if matches!(status, Status::Failed | Status::Unreachable) {
        run.failed(&task, host, &hosts);
    }
}

/// What a plan keeps of a verdict.
fn step(subject: &Subject, item: Option<usize>, hidden: bool, verdict: &Verdict) -> Option<Step> {
    let step = Step {
        subject: subject.clone(),
        item: item.map(|item| u32::try_from(item).unwrap_or(u32::MAX)),
        changed: true,
        grade: Grade::KnownAfterApply,
        after: None,
        may: May::Anything,
        hidden,
        diff: Vec::new(),
        units: Vec::new(),
    };
    match verdict {
        Verdict::Ready(Ok(outcome)) => {
            let may = match (outcome.diff.is_empty(), outcome.grade) {
                (true, _) if !outcome.changed => May::Nothing,
                (true, _) | (_, Grade::KnownAfterApply) => May::Anything,
                (false, _) => May::Change(digest(&outcome.diff)),
            };
            (may != May::Nothing || !outcome.units.is_empty()).then(|| Step {
                grade: outcome.grade,
                may,
                diff: if hidden { Vec::new() } else { outcome.diff.clone() },
                units: outcome.units.clone(),
                ..step
            })
        }
        // Where the plan fails and the run goes on, nothing is known of what apply will do.
        Verdict::Ready(Err(_)) => Some(Step { changed: false, grade: Grade::Opaque, ..step }),
        Verdict::Planned(after) => {
            let diff = if hidden { Vec::new() } else { vec![known_after(after)] };
            Some(Step { after: Some(after.clone()), diff, ..step })
        }
        _ => None,
    }
}

/// The unit that a handler restarts, where nobody has asked the agent: taken to run, unless another task knows better.
fn restarted(handler: &Task) -> Option<UnitEffect> {
    let restarts = matches!(handler.module.as_str(), "systemd" | "systemd_service" | "service")
        && handler.args.get("state").and_then(Value::as_str) == Some("restarted");
    let name = handler.args.get("name")?.as_str().filter(|name| restarts && !name.contains("{{"))?;
    Some(UnitEffect { unit: unit_name(name), action: Some(UnitAction::Restart), was_active: true, host: None })
}

fn known_after(task: &After) -> Diff {
    Diff::Note(format!("known after {task}"))
}

/// What `debug` says.
fn said(results: &[Value]) -> Option<String> {
    let texts: Vec<&str> = results.iter().filter_map(|result| result.get("kprov_message")?.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

fn registered(sum: &mut Sum, looped: bool) -> Value {
    let mut results = std::mem::take(&mut sum.results);
    let value = if looped {
        let mut map = Map::new();
        map.insert("skipped".to_owned(), (sum.skipped == results.len()).into());
        map.insert("failed".to_owned(), sum.failed.is_some().into());
        map.insert("results".to_owned(), Value::List(results.clone()));
        Value::Map(result_value(sum.changed, map))
    } else {
        results.first().cloned().unwrap_or_default()
    };
    std::mem::swap(&mut sum.results, &mut results);
    value
}

/// `changed_when` and `failed_when` that are plain booleans need no expression, and nobody waits for them.
fn overrule(task: &Task, result: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    let result = match (literal(&task.keywords.failed_when), result) {
        (Some(false), Err(failure)) => {
            Ok(Outcome { changed: true, grade: Grade::Opaque, ..Outcome::unchanged(failure.result) })
        }
        (Some(true), Ok(outcome)) => Err(Failure { message: "`failed_when` holds".to_owned(), result: outcome.result }),
        (_, result) => result,
    };
    result.map(|outcome| match literal(&task.keywords.changed_when) {
        Some(changed) => Outcome { changed, ..outcome },
        None => outcome,
    })
}

/// The value of conditions that hold no expression.
pub fn literal(conditions: &Option<Vec<Spanned<Value>>>) -> Option<bool> {
    conditions.as_ref()?.iter().try_fold(true, |all, condition| condition.value.as_bool().map(|one| all && one))
}

/// Fills in what the agent does not know of the task after which a change is known.
fn traced(outcome: Outcome, at_hand: &After) -> Outcome {
    let after = match outcome.after {
        _ if outcome.grade != Grade::KnownAfterApply => None,
        Some(after) if !after.is_at_hand() => Some(on(&at_hand.host, after)),
        _ => Some(at_hand.clone()),
    };
    Outcome { after, ..outcome }
}

/// An agent does not know the name of its host.
fn on(host: &str, mut after: After) -> After {
    if after.host.is_empty() && !after.is_at_hand() {
        host.clone_into(&mut after.host);
    }
    after
}

/// Modules do not know which task they are: what is unknown without one is so because of this one.
fn labelled(map: Map, label: &After) -> Map {
    fn fill(value: Value, label: &After) -> Value {
        match value {
            Value::Unknown(after) if after.is_at_hand() => Value::Unknown(label.clone()),
            Value::List(items) => Value::List(items.into_iter().map(|v| fill(v, label)).collect()),
            Value::Map(map) => Value::Map(map.into_iter().map(|(k, v)| (k, fill(v, label))).collect()),
            other => other,
        }
    }
    map.into_iter().map(|(k, v)| (k, fill(v, label))).collect()
}
