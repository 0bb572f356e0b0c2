//! A run: everything that is loaded before a host is touched, and what its drivers share.
//!
//! [`Run::load`] reads inventory, variables and playbook and compiles the graph; it touches no host, and every mistake it
//! can find is found there. [`Run::play`] takes the hosts through the plays.

use super::driver::Driver;
use super::event::{Event, Events, Status, Subject};
use super::host::HostState;
use super::link::Link;
use super::options::Options;
use super::plan::Expectations;
use super::record;
use super::shapes::{shapes, template_of};
use crate::agent::client::Lost;
use crate::agent::protocol::RunHeader;
use crate::graph::{PlayShape, Progress, compile};
use crate::inventory::Inventory;
use crate::modules::{Failure, Grade};
use crate::playbook::{self, Playbook, Task, Tree};
use crate::source::{InputError, InputErrors, Span};
use crate::system::Mode;
use crate::template::{Scope, Templar};
use crate::value::Value;
use crate::vars::{ArgumentSpecs, Findings, Layer, Variables, Vault};
use indexmap::IndexMap;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// A loaded run.
pub struct Run {
    pub mode: Mode,
    /// How nodes record the run; only of one that changes them.
    pub header: Option<RunHeader>,
    pub options: Options,
    pub inventory: Arc<Inventory>,
    pub inventory_dir: PathBuf,
    pub variables: Arc<Variables>,
    /// What the roles declare; of the user's own playbook, those that it names.
    pub specs: Arc<ArgumentSpecs>,
    /// kprov's own `group_vars/all`, below everything else.
    pub defaults: Layer,
    pub tree: Arc<Tree>,
    pub playbook: Arc<Playbook>,
    pub shapes: Arc<Vec<PlayShape>>,
    pub progress: Progress,
    pub templar: Arc<Templar>,
    pub hosts: IndexMap<String, Arc<HostState>>,
    pub events: Events,
    pub artifacts: Arc<super::blobs::Artifacts>,
    pub kube: super::actions::KubeClients,
    pub connector: Arc<super::connect::Connector>,
    pub lock: super::lock::RunLock,
    links: Arc<Mutex<HashMap<String, Arc<Link>>>>,
    /// Whether the run has begun: hosts that are connected to from now on begin it at once.
    begun: AtomicBool,
    /// What it may change, where it has to keep to a plan.
    expectations: OnceLock<Expectations>,
    abort: AtomicBool,
    cancelled: Arc<AtomicBool>,
}

impl Run {
    /// Reads and checks everything that needs no host.
    pub fn load(options: Options, events: Events) -> Result<Arc<Self>, InputErrors> {
        let vault = Vault::from_files(options.vault_password_files.iter().map(PathBuf::as_path))
            .map_err(|error| InputError::new(error.to_string()))?;
        // kprov's own playbooks name groups that an inventory need not declare, and know every variable that they read.
        let built_in = !is_file(&options.playbook);
        let load = if built_in { Inventory::load_cluster } else { Inventory::load };
        let inventory = load(&options.inventories, &vault)?;
        let inventory_dir = absolute(inventory.dirs.first().map_or(Path::new("."), PathBuf::as_path));
        let (playbook_path, playbook_dir) = playbook_path(&options.playbook);
        let tree = Tree::new(playbook_dir.iter().chain([&inventory_dir]).cloned().collect());
        let variables = Variables::load(&inventory, playbook_dir.as_deref(), &options.extra_vars, &vault)?;
        let playbook = playbook::load(&tree, &playbook_path)?;
        let (specs, findings) = check_variables(&tree, &playbook, built_in, &variables)?;
        for warning in variables.warnings.iter().chain(&findings.warnings) {
            events.send(Event::Warning { text: warning.to_string() });
        }
        if !findings.errors.is_empty() {
            return Err(InputErrors(findings.errors));
        }
        let defaults = playbook::group_vars()?;
        let limit = options.limit.as_deref().map(|pattern| inventory.select(pattern)).transpose()?;
        let templar = Templar::new();
        super::lint::templates(&playbook, &templar)?;
        let shapes = shapes(&playbook, &inventory, limit.as_deref(), &options, &templar)?;
        let mut names: Vec<String> = Vec::new();
        for host in shapes.iter().flat_map(|shape| shape.batches.iter().flatten()) {
            if !names.contains(host) {
                names.push(host.clone());
            }
        }
        if names.is_empty() {
            let what = options.limit.as_ref().map_or(String::new(), |limit| format!(" that `-l {limit}` selects"));
            return Err(InputError::new(format!("no host{what} is in any play of `{}`", options.playbook)).into());
        }
        let progress = Progress::new(compile(&shapes));
        Ok(Arc::new(Self {
            mode: options.mode,
            header: (options.mode == Mode::Apply).then(|| record::header(&options, &names)),
            artifacts: Arc::default(),
            kube: super::actions::KubeClients::default(),
            connector: Arc::default(),
            lock: super::lock::RunLock::default(),
            options,
            inventory_dir,
            inventory: Arc::new(inventory),
            variables: Arc::new(variables),
            specs: Arc::new(specs),
            defaults,
            tree,
            playbook: Arc::new(playbook),
            shapes: Arc::new(shapes),
            progress,
            templar: Arc::new(templar),
            hosts: names.into_iter().map(|name| (name.clone(), Arc::new(HostState::new(&name)))).collect(),
            events,
            links: Arc::default(),
            begun: AtomicBool::new(false),
            expectations: OnceLock::new(),
            abort: AtomicBool::new(false),
            cancelled: Arc::default(),
        }))
    }

    /// The same run once more, only planned: on the same connections and facts, and with nothing done in it yet.
    pub fn rehearsal(&self, events: Events) -> Arc<Self> {
        Arc::new(Self {
            mode: Mode::Plan,
            header: None,
            artifacts: self.artifacts.clone(),
            kube: super::actions::KubeClients::default(),
            connector: self.connector.clone(),
            lock: super::lock::RunLock::default(),
            options: self.options.clone(),
            inventory_dir: self.inventory_dir.clone(),
            inventory: self.inventory.clone(),
            variables: self.variables.clone(),
            specs: self.specs.clone(),
            defaults: self.defaults.clone(),
            tree: self.tree.clone(),
            playbook: self.playbook.clone(),
            shapes: self.shapes.clone(),
            progress: Progress::new(compile(&self.shapes)),
            templar: self.templar.clone(),
            hosts: self.hosts.iter().map(|(name, host)| (name.clone(), Arc::new(host.fresh()))).collect(),
            events,
            links: self.links.clone(),
            begun: AtomicBool::new(false),
            expectations: OnceLock::new(),
            abort: AtomicBool::new(false),
            cancelled: self.cancelled.clone(),
        })
    }

    /// From here on the run changes nothing but this.
    pub fn keep_to(&self, expectations: Expectations) {
        // A run is planned once.
        let _ = self.expectations.set(expectations);
    }

    /// Digests of what a task may change on a host; `None`: anything.
    pub fn expected(&self, host: &str, task_id: &str) -> Option<Vec<String>> {
        self.expectations.get()?.of(host, task_id)
    }

    pub fn planning(&self) -> bool {
        self.mode == Mode::Plan
    }

    /// Whether this is one of kprov's own playbooks, to which the preconditions belong.
    pub fn checks_preconditions(&self) -> bool {
        !is_file(&self.options.playbook)
    }

    /// Whether the user stopped the run.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Finishes what is in flight and starts nothing more.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.drop_queues(false);
    }

    /// Ends what is in flight.
    pub fn cancel_now(&self) {
        self.drop_queues(true);
    }

    /// Ends the run on all hosts, for a reason that is none of theirs.
    pub fn stop(self: &Arc<Self>, why: &str) {
        let hosts: Vec<_> = self.hosts.values().filter(|host| !host.is_dead()).collect();
        if self.abort.swap(true, Ordering::SeqCst) || hosts.is_empty() {
            return;
        }
        self.events.send(Event::Finding { host: None, text: format!("cluster : lock : {why}"), fatal: true });
        for host in hosts {
            self.outcome(&host.name, 0, "Lock", Status::Failed, Some("the run was stopped".to_owned()));
        }
        self.drop_queues(false);
    }

    /// Has every agent drop what it has not begun; `now`: and end what it has.
    fn drop_queues(&self, now: bool) {
        // One whose link has dropped takes it later, and holds up no other.
        for link in self.all_links() {
            tokio::spawn(async move { link.cancel(now).await });
        }
    }

    /// Whether no host goes on: cancelled, or a failure that is fatal to all.
    pub fn stopped(&self) -> bool {
        self.cancelled() || self.abort.load(Ordering::SeqCst)
    }

    pub fn selects(&self, task: &Task) -> bool {
        self.options.selects(&task.keywords.tags)
    }

    /// Notes that a task failed for good on these hosts.
    pub fn failed(&self, task: &Task, host: &HostState, hosts: &[Arc<HostState>]) {
        host.kill();
        for host in hosts {
            host.kill();
        }
        let play = task
            .id
            .split('.')
            .next()
            .and_then(|number| number.parse::<usize>().ok())
            .and_then(|n| self.playbook.plays.get(n - 1));
        if task.keywords.any_errors_fatal || play.is_some_and(|play| play.any_errors_fatal) {
            self.abort.store(true, Ordering::SeqCst);
        }
    }

    /// The hosts of a batch that take part.
    pub fn batch_hosts(&self, play: usize, batch: usize) -> Vec<Arc<HostState>> {
        let hosts = self.shapes.get(play).and_then(|shape| shape.batches.get(batch));
        hosts.into_iter().flatten().filter_map(|host| self.hosts.get(host).cloned()).collect()
    }

    /// Whether `host` is the one that runs what a batch runs once.
    pub fn leads(&self, play: usize, batch: usize, host: &str) -> bool {
        self.batch_hosts(play, batch).iter().find(|state| !state.is_dead()).is_some_and(|state| state.name == host)
    }

    /// A variable rendered, and where it was written; `None` where it is undefined or known only after apply.
    pub fn variable(&self, scope: &Arc<dyn Scope>, name: &str) -> Result<Option<(Value, Option<Span>)>, InputError> {
        let Some(var) = scope.lookup(name) else { return Ok(None) };
        let rendered = self.templar.render(&var.value, scope).map_err(|error| match &var.origin {
            Some(origin) => error.into_input(origin),
            None => InputError::new(format!("{name}: {error}")),
        })?;
        Ok((rendered.unknown().is_none()).then_some((rendered, var.origin)))
    }

    /// Names that the task reads, through other variables too.
    pub fn reads(&self, task: &Task, scope: &Arc<dyn Scope>) -> BTreeSet<String> {
        let keywords = &task.keywords;
        let mut reads = self.templar.reads_deep(&task.args, scope);
        if let Some(text) = &task.free_form {
            reads.extend(self.templar.reads_deep(&Value::String(text.clone()), scope));
        }
        if let Some(source) = template_of(task) {
            reads.extend(self.templar.reads_deep(&Value::String(source.text.clone()), scope));
        }
        let expressions = keywords
            .when
            .iter()
            .chain(&keywords.until)
            .chain(keywords.changed_when.iter().flatten())
            .chain(keywords.failed_when.iter().flatten());
        let assertions = task.args.get("that").map(|that| match that {
            Value::List(list) => list.clone(),
            one => vec![one.clone()],
        });
        for value in expressions.map(|e| &e.value).chain(assertions.iter().flatten()) {
            if let Value::String(text) = value {
                reads.extend(self.templar.reads_deep(&Value::String(format!("{{{{ {text} }}}}")), scope));
            }
        }
        if let ("debug", Some(name)) = (task.module.as_str(), task.args.get("var")) {
            reads.extend(self.templar.reads_deep(&Value::String(format!("{{{{ {name} }}}}")), scope));
        }
        let templates =
            keywords.loop_.iter().map(|l| &l.items.value).chain(keywords.environment.iter().map(|e| &e.value));
        for value in templates.chain(keywords.vars.iter().flat_map(|layer| layer.values().map(|var| &*var.value))) {
            reads.extend(self.templar.reads_deep(value, scope));
        }
        if let Some(host) = &keywords.delegate_to {
            reads.extend(self.templar.reads_deep(&Value::String(host.value.clone()), scope));
        }
        reads
    }

    /// The handlers that a task notifies, by title: those of its own role before others of the same name.
    pub fn handlers_of(&self, play: usize, task: &Task) -> Vec<String> {
        let handlers = &self.playbook.plays[play].handlers;
        let mut titles = Vec::new();
        for name in &task.keywords.notify {
            let matching: Vec<_> =
                handlers.iter().filter(|h| h.name == *name || h.keywords.listen.contains(name)).collect();
            let own: Vec<_> = matching.iter().filter(|h| h.role_name() == task.role_name()).copied().collect();
            titles.extend((if own.is_empty() { matching } else { own }).into_iter().map(|handler| handler.title()));
        }
        titles
    }

    pub fn add_link(&self, host: &str, link: Arc<Link>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), link);
    }

    pub fn all_links(&self) -> Vec<Arc<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn existing_link(&self, host: &str) -> Option<Arc<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// The connection to a host, made now if there is none.
    pub async fn link_of(self: &Arc<Self>, host: &str) -> Result<Arc<Link>, Failure> {
        if let Some(link) = self.existing_link(host) {
            return match link.lost() {
                None => self.begun(link).await,
                Some(why) => Err(Failure::new(format!("{host} is needed here, and lost: {why}"))),
            };
        }
        if self.hosts.get(host).is_some_and(|state| state.is_dead()) {
            return Err(Failure::new(format!("{host} is needed here, and has failed")));
        }
        let link = super::connect::connect(self, host)
            .await
            .map_err(|error| Failure::new(format!("{host} is needed here: {error}")))?;
        self.add_link(host, link.clone());
        self.begun(link).await
    }

    /// Begins the run on all hosts: from here on tasks change them.
    pub async fn begin(self: &Arc<Self>) {
        self.begun.store(true, Ordering::SeqCst);
        super::lock::begin(self).await;
    }

    async fn begun(self: &Arc<Self>, link: Arc<Link>) -> Result<Arc<Link>, Failure> {
        if self.begun.load(Ordering::SeqCst) {
            link.begin(self).await?;
        }
        Ok(link)
    }

    /// Takes all hosts through all plays.
    pub async fn play(self: &Arc<Self>) {
        let mut drivers = JoinSet::new();
        for (number, shape) in self.shapes.iter().enumerate() {
            let hosts: usize = shape.batches.iter().map(Vec::len).sum();
            if hosts == 0 {
                continue;
            }
            for (batch, hosts) in shape.batches.iter().enumerate() {
                for name in hosts {
                    let Some(host) = self.hosts.get(name).cloned() else { continue };
                    let run = self.clone();
                    match self.existing_link(name) {
                        Some(link) => {
                            drivers.spawn(async move { Driver::new(run, host, number, batch, link).play().await });
                        }
                        None => {
                            host.kill();
                            self.abandon(number, name);
                        }
                    }
                }
            }
        }
        while drivers.join_next().await.is_some() {}
    }

    /// Marks everything that an unreachable host would have done in a play as never to be done.
    fn abandon(&self, play: usize, host: &str) {
        for index in 0..self.playbook.plays[play].len {
            if let Some(node) = self.progress.graph().task(play, index, host) {
                self.progress.done(node);
            }
        }
    }

    /// Tells that a host is lost, and what was to be done there.
    pub fn lose(&self, host: &HostState, lost: &Lost, play: usize) {
        self.outcome(&host.name, play, "Connect", Status::of(lost), Some(lost.to_string()));
    }

    /// Tells how a stage that is no task went on a host; `play` counts from 1, 0 is before all plays. A host on which it
    /// failed, or that could not be reached, is out.
    pub fn outcome(&self, host: &str, play: usize, stage: &str, status: Status, message: Option<String>) {
        if let (Status::Failed | Status::Unreachable, Some(state)) = (status, self.hosts.get(host)) {
            state.kill();
        }
        self.events.send(Event::Task {
            subject: Subject {
                host: host.to_owned(),
                task_id: format!("{play}.{}", stage.to_lowercase()),
                role: String::new(),
                task: stage.to_owned(),
            },
            status,
            message,
            diff: Vec::new(),
            grade: Grade::Exact,
            after: None,
            took: Duration::ZERO,
        });
    }
}

/// What the roles of a playbook declare, and whether the variables that were written fit. kprov's own playbooks know every
/// variable that they read; one of the user's may read any.
pub(super) fn check_variables(
    tree: &Tree,
    playbook: &Playbook,
    built_in: bool,
    variables: &Variables,
) -> Result<(ArgumentSpecs, Findings), InputErrors> {
    if built_in {
        let specs = playbook::declared(tree)?.specs;
        let findings = crate::vars::check(&specs, variables);
        return Ok((specs, findings));
    }
    let specs = playbook::specs_of(tree, playbook)?;
    let errors = crate::vars::check_values(&specs, variables);
    Ok((specs, Findings { errors, warnings: Vec::new() }))
}

/// Where the playbook is, and its directory where it is a file and not a built-in one.
pub(super) fn playbook_path(name: &str) -> (PathBuf, Option<PathBuf>) {
    if is_file(name) {
        let absolute = absolute(Path::new(name));
        let dir = absolute.parent().map(Path::to_owned);
        return (absolute, dir);
    }
    (Path::new("playbooks").join(format!("{name}.yml")), None)
}

/// Built-in playbooks have plain names.
pub(super) fn is_file(playbook: &str) -> bool {
    playbook.contains('/') || Path::new(playbook).extension().is_some()
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
