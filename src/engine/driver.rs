//! Takes one host through one batch of a play: decides what each task is, sends it ahead, and waits only where it has to.
//!
//! The driver evaluates conditions, loops and arguments and hands tasks to the host's agent without waiting for their
//! results. It waits for the graph (barriers between hosts), for results that the next expression reads (`register`), and
//! where a task says so (`until`, `changed_when`, `failed_when`, the end of a block with a `rescue`). What became of the
//! tasks is collected in order by [`super::collect`].

use super::actions::{self, Prepared};
use super::collect::{Collector, Item, Pending, Verdict};
use super::host::HostState;
use super::link::{Link, Submission};
use super::run::Run;
use super::scope::{TaskScope, result_value};
use crate::agent::protocol::StepName;
use crate::modules::{Failure, Grade, Outcome};
use crate::playbook::{Block, Loop, Step, Task};
use crate::source::{InputError, Spanned};
use crate::template::{Scope, Truth};
use crate::value::Value;
use petgraph::stable_graph::NodeIndex;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether the host goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    /// A task failed; the innermost block with a rescue takes over, or the host is out.
    Failed,
}

/// What evaluation made of a task for one item.
enum Evaluated {
    Skip(String),
    /// And the task after which it is known whether it runs at all.
    Run(Prepared, Option<String>),
    /// Cannot be evaluated before an earlier task was applied.
    Unknown(String),
}

/// Which handler a task is.
struct Handler {
    title: String,
    /// Runs if an earlier run left it behind, too.
    carried: bool,
}

pub struct Driver {
    run: Arc<Run>,
    host: Arc<HostState>,
    play: usize,
    batch: usize,
    link: Arc<Link>,
    collector: Collector,
    epoch: u32,
    /// Names registered by tasks whose results have not been collected.
    outstanding: HashSet<String>,
    /// How many blocks with a rescue are around the current task.
    rescues: usize,
}

impl Driver {
    pub fn new(run: Arc<Run>, host: Arc<HostState>, play: usize, batch: usize, link: Arc<Link>) -> Self {
        let collector = Collector::start(run.clone(), host.clone());
        let epoch = link.new_epoch();
        Self { run, host, play, batch, link, collector, epoch, outstanding: HashSet::new(), rescues: 0 }
    }

    /// Runs the play on this host to its end. Marks every node of the host as done, whatever happens.
    pub async fn play(mut self) {
        let run = self.run.clone();
        let play = &run.playbook.plays[self.play];
        if let Some(start) = run.progress.graph().start(self.play, self.batch) {
            run.progress.ready(start).await;
        }
        let flow = if self.stopped() == Flow::Failed { Flow::Failed } else { self.steps(&play.steps).await };
        if self.collect().await == Flow::Failed || flow == Flow::Failed {
            // A host that is lost between tasks is told here, as no task is.
            if let (Some(lost), false) = (self.link.lost(), self.host.is_dead()) {
                run.lose(&self.host, &lost, &format!("{}.connect", self.play + 1), "Connect");
            }
            self.host.kill();
        }
        for index in 0..play.len {
            if let Some(node) = run.progress.graph().task(self.play, index, &self.host.name) {
                run.progress.done(node);
            }
        }
    }

    fn steps<'a>(&'a mut self, steps: &'a [Step]) -> Pin<Box<dyn Future<Output = Flow> + Send + 'a>> {
        Box::pin(async move {
            for step in steps {
                let flow = match step {
                    Step::Task(task) => self.task(task).await,
                    Step::Block(block) => self.block(block).await,
                    Step::FlushHandlers { index, last } => self.flush_handlers(*index, *last).await,
                    // The next task waits for it.
                    Step::Barrier { .. } => self.stopped(),
                };
                if flow == Flow::Failed {
                    return Flow::Failed;
                }
            }
            Flow::On
        })
    }

    async fn block(&mut self, block: &Block) -> Flow {
        if self.collect().await == Flow::Failed {
            return Flow::Failed;
        }
        if !block.rescue.is_empty() {
            self.rescues += 1;
        }
        let mut flow = self.steps(&block.body).await;
        flow = if self.collect().await == Flow::Failed { Flow::Failed } else { flow };
        if !block.rescue.is_empty() {
            self.rescues -= 1;
            if flow == Flow::Failed && !self.link.is_lost() && !self.run.cancelled() {
                self.new_epoch();
                flow = self.steps(&block.rescue).await;
                flow = if self.collect().await == Flow::Failed { Flow::Failed } else { flow };
            }
        }
        if !block.always.is_empty() && !self.link.is_lost() && !self.run.cancelled() {
            let before = flow;
            if flow == Flow::Failed {
                self.new_epoch();
            }
            flow = self.steps(&block.always).await;
            flow = if before == Flow::Failed || self.collect().await == Flow::Failed { Flow::Failed } else { flow };
        }
        flow
    }

    /// Goes on after a failure: what was sent before has been dropped by the agent.
    fn new_epoch(&mut self) {
        self.epoch = self.link.new_epoch();
        self.collector.forgive();
    }

    /// Waits for all results so far.
    async fn collect(&mut self) -> Flow {
        self.collector.flush().await;
        self.outstanding.clear();
        self.stopped()
    }

    /// Whether something that is known already stops this host.
    fn stopped(&self) -> Flow {
        if self.collector.failed() || self.host.is_dead() || self.link.is_lost() || self.run.stopped() {
            Flow::Failed
        } else {
            Flow::On
        }
    }

    async fn task(&mut self, task: &Arc<Task>) -> Flow {
        if !self.run.selects(task) {
            return self.stopped();
        }
        let Some(index) = task.index else { return Flow::On };
        let graph = self.run.progress.graph();
        let node = if task.keywords.run_once {
            let Some(once) = graph.once(self.play, index, self.batch) else { return Flow::On };
            // Everybody comes here; the first host that is still in does it for all.
            self.run.progress.ready(once).await;
            if self.collect().await == Flow::Failed {
                return Flow::Failed;
            }
            if !self.run.leads(self.play, self.batch, &self.host.name) {
                return Flow::On;
            }
            once
        } else {
            let Some(node) = graph.task(self.play, index, &self.host.name) else { return Flow::On };
            self.run.progress.ready(node).await;
            node
        };
        if self.stopped() == Flow::Failed {
            self.run.progress.done(node);
            return Flow::Failed;
        }
        self.run_task(task, Some(node), None).await
    }

    async fn flush_handlers(&mut self, index: usize, last: bool) -> Flow {
        let run = self.run.clone();
        for handler in &run.playbook.plays[self.play].handlers {
            if self.stopped() == Flow::Failed {
                return Flow::Failed;
            }
            if self.run_task(handler, None, Some(Handler { title: handler.title(), carried: last })).await
                == Flow::Failed
            {
                return Flow::Failed;
            }
        }
        if let Some(node) = run.progress.graph().task(self.play, index, &self.host.name) {
            self.collector.push(Pending::Mark(node));
        }
        self.stopped()
    }

    /// Evaluates a task, sends what has to be sent, and queues it for collection.
    async fn run_task(&mut self, task: &Arc<Task>, node: Option<NodeIndex>, handler: Option<Handler>) -> Flow {
        let mut base = TaskScope::of_task(&self.run, &self.host.name, self.play, self.batch, task);
        if !self.outstanding.is_empty() && self.reads_outstanding(task, &base.with([])) {
            if self.collect().await == Flow::Failed {
                if let Some(node) = node {
                    self.run.progress.done(node);
                }
                return Flow::Failed;
            }
            base = TaskScope::of_task(&self.run, &self.host.name, self.play, self.batch, task);
        }
        let scope = base.with([]);
        let started = Instant::now();
        let (items, looped) = match self.items(task, &scope) {
            Ok(items) => items,
            Err(failure) => (vec![(None, Err(failure))], false),
        };
        let group = self.link.next_seq();
        let ignore = match &task.keywords.ignore_errors {
            None => false,
            Some(condition) => matches!(self.condition(condition, &scope), Ok(Truth::True)),
        };
        let mut pending_items = Vec::new();
        let title = self.title(task, &scope);
        for (number, (item, names)) in items.into_iter().enumerate() {
            let name = StepName {
                task_id: task.id.clone(),
                role: task.role_name().to_owned(),
                task: title.clone(),
                item: looped.then_some(u32::try_from(number).unwrap_or(u32::MAX)),
                no_log: task.keywords.no_log,
            };
            let verdict = match names {
                Err(failure) => Verdict::Ready(Err(failure)),
                Ok(names) => {
                    let scope = base.with(names.clone());
                    self.item(task, name, &base, &scope, names, group, ignore, handler.as_ref()).await
                }
            };
            let verdict = match verdict {
                Verdict::Ready(Err(failure)) => Verdict::Ready(Err(self.blame(task, &scope, failure))),
                other => other,
            };
            pending_items.push(Item { value: item, verdict });
        }
        if let Some(name) = &task.keywords.register {
            self.outstanding.insert(name.clone());
        }
        // What is known to have failed already stops the host before the next task is sent.
        let failed = !ignore
            && pending_items.iter().any(|item| matches!(item.verdict, Verdict::Ready(Err(_)) | Verdict::Lost(_)));
        self.collector.push(Pending::Task(Box::new(super::collect::PendingTask {
            title,
            task: task.clone(),
            items: pending_items,
            looped,
            node,
            hidden: task.keywords.no_log || base.saw_secret(),
            handler: handler.map(|handler| handler.title),
            notifies: self.run.handlers_of(self.play, task),
            hosts: if task.keywords.run_once {
                self.run.batch_hosts(self.play, self.batch)
            } else {
                vec![self.host.clone()]
            },
            rescuable: self.rescues > 0,
            ignore,
            started,
        })));
        if failed || task.keywords.run_once {
            return self.collect().await;
        }
        self.stopped()
    }

    /// What is missing of another host may be so because that host has failed: says which have.
    fn blame(&self, task: &Task, scope: &Arc<dyn Scope>, mut failure: Failure) -> Failure {
        let failed: Vec<&str> = self.run.hosts.values().filter(|host| host.is_dead()).map(|host| &*host.name).collect();
        let undefined = failure.message.contains("is undefined") && !failed.is_empty();
        if undefined && self.run.reads(task, scope).contains("hostvars") {
            failure.message.push_str(&format!(" (failed before: {})", failed.join(", ")));
        }
        failure
    }

    /// The name of the task with its templates rendered, where that is possible already.
    fn title(&self, task: &Task, scope: &Arc<dyn Scope>) -> String {
        if !task.name.contains("{{") {
            return task.name.clone();
        }
        match self.run.templar.render_str(&task.name, scope) {
            Ok(Value::String(name)) => name,
            _ => task.name.clone(),
        }
    }

    fn reads_outstanding(&self, task: &Task, scope: &Arc<dyn Scope>) -> bool {
        actions::needs_results(task)
            || self.run.reads(task, scope).iter().any(|name| name == "vars" || self.outstanding.contains(name))
    }

    /// The items of the task's loop with the names that each of them sets; one without a loop.
    #[expect(clippy::type_complexity, reason = "an item, and the names it sets or why it cannot be")]
    fn items(
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
    async fn item(
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
                Err(failure) => return Verdict::Ready(Err(failure)),
            };
            if done {
                return Verdict::Ready(result);
            }
            if tries == 0 || self.run.cancelled() {
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
        result: super::collect::Finished,
    ) -> Result<Result<Outcome, Failure>, Box<Verdict>> {
        let result = match result {
            super::collect::Finished::Result(result) => result,
            super::collect::Finished::Other(verdict) => return Err(Box::new(verdict)),
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

    fn condition(&self, condition: &Spanned<Value>, scope: &Arc<dyn Scope>) -> Result<Truth, Failure> {
        self.run.templar.condition(&condition.value, scope).map_err(|e| Failure::from(e.into_input(&condition.span)))
    }

    /// Sends a node task to the agent of the host (or of the one it is delegated to), or runs a controller's own action.
    #[expect(clippy::too_many_arguments, reason = "what a submission is made of")]
    async fn start(
        &mut self,
        task: &Arc<Task>,
        name: StepName,
        prepared: Prepared,
        scope: &Arc<dyn Scope>,
        group: u32,
        lenient: bool,
        handler: Option<&Handler>,
    ) -> Result<Verdict, Failure> {
        let delegate = match &task.keywords.delegate_to {
            None => None,
            Some(name) => {
                match self
                    .run
                    .templar
                    .render_str(&name.value, scope)
                    .map_err(|e| Failure::from(e.into_input(&name.span)))?
                {
                    Value::String(host) if host != self.host.name => Some(self.run.link_of(&host).await?),
                    _ => None,
                }
            }
        };
        match prepared {
            Prepared::Node(resource) => {
                let (link, epoch) = match &delegate {
                    // On another host's agent the task stands alone: it comes after what this host has done so far.
                    Some(link) => {
                        self.collector.flush().await;
                        (link, link.new_epoch())
                    }
                    None => (&self.link, self.epoch),
                };
                let expect = self.run.expected(&self.host.name, &name.task_id);
                let submission = Submission {
                    name,
                    epoch,
                    group,
                    ignore_errors: lenient,
                    notify: self.run.handlers_of(self.play, task),
                    handler: handler.map(|handler| handler.title.clone()),
                    carried: handler.is_some_and(|handler| handler.carried),
                    expect,
                    resource,
                };
                let receiver = link.submit(submission).await;
                if let Some(link) = &delegate {
                    return Ok(Verdict::Waiting(receiver).settled().await.at(&link.host));
                }
                Ok(Verdict::Waiting(receiver))
            }
            Prepared::Local(action) => {
                if action.touches_world() {
                    self.collector.flush().await;
                    if self.stopped() == Flow::Failed {
                        return Ok(Verdict::Nothing);
                    }
                }
                let link = delegate.unwrap_or_else(|| self.link.clone());
                let (recorded, started) = (action.touches_world(), Instant::now());
                let expect = self.run.expected(&self.host.name, &name.task_id);
                let result = action.run(&self.run, &self.host, &link, name.no_log, expect.as_deref()).await;
                if recorded {
                    super::record::did(&self.run, &link, name, started.elapsed(), &result).await;
                }
                Ok(Verdict::Ready(result))
            }
        }
    }
}

/// Whether the result has to be looked at before the task's verdict is known.
fn needs_verdict(task: &Task) -> bool {
    let dynamic = |conditions: &Option<Vec<Spanned<Value>>>| {
        conditions.is_some() && super::collect::literal(conditions).is_none()
    };
    !task.keywords.until.is_empty() || dynamic(&task.keywords.failed_when) || dynamic(&task.keywords.changed_when)
}
