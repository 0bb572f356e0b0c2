//! Takes one host through one batch of a play: decides what each task is, sends it ahead, and waits only where it has to.
//!
//! The driver evaluates conditions, loops and arguments and hands tasks to the host's agent without waiting for their
//! results. It waits for the graph (barriers between hosts), for results that the next expression reads (`register`), and
//! where a task says so (`until`, `changed_when`, `failed_when`, the end of a block with a `rescue`). What became of the
//! tasks is collected in order by [`super::collect`].

mod items;

use super::actions::{self, Prepared};
use super::collect::{Collector, Item, Pending, Verdict};
use super::host::HostState;
use super::link::Link;
use super::run::Run;
use super::scope::TaskScope;
use crate::agent::protocol::{self, StepName};
use crate::modules::Failure;
use crate::playbook::{Block, Step, Task};
use crate::template::{Scope, Truth};
use crate::value::Value;
use petgraph::stable_graph::NodeIndex;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// Whether the host goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    /// A task failed; the innermost block with a rescue takes over, or the host is out.
    Failed,
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
                run.lose(&self.host, &lost, self.play + 1);
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
                let submitted = protocol::Task {
                    seq: link.next_seq(),
                    name,
                    epoch,
                    group,
                    ignore_errors: lenient,
                    notify: self.run.handlers_of(self.play, task),
                    handler: handler.map(|handler| handler.title.clone()),
                    carried: handler.is_some_and(|handler| handler.carried),
                    expect,
                    resource: *resource,
                };
                let receiver = link.submit(submitted).await;
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
