//! The loop on the node: reads frames, runs tasks in order, one at a time, and answers.
//!
//! One thread reads, the caller's thread runs tasks, one signs certificates, and each tunnel has its own. When the link
//! drops, the task in hand is finished and nothing else is begun. What a task does is `modules`' business.

use super::facts;
use super::frame;
use super::needs::{Answer, Answers, TaskNeeds, hex};
use super::pending::Pending;
use super::protocol::{FromAgent, Seq, Task, TaskResult, ToAgent};
use super::tunnels::Tunnels;
use crate::modules::{Failure, Resource};
use crate::pki::{self, SigningRequest};
use crate::system::{Mode, System};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use zeroize::Zeroizing;

/// Serves on this process's stdin and stdout until stdin ends. `state` is the agent's directory on the node; `skip` names
/// the line up to which stdin is not for the agent.
///
/// The two are moved out of the way first: whatever reads stdin finds nothing, and whatever prints goes to stderr.
pub fn run(state: &Path, skip: Option<&str>) -> io::Result<()> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    let build = hex(&Sha256::digest(std::fs::read("/proc/self/exe")?));
    serve(BufReader::with_capacity(64 << 10, input), output, state, build, skip.map(str::to_owned))
}

/// Says hello as `build` and serves until `input` ends; frames begin there after the line `skip`, if there is one.
pub fn serve(
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
    state: &Path,
    build: String,
    skip: Option<String>,
) -> io::Result<()> {
    let output = Output::new(output);
    output.send(&FromAgent::Hello { build })?;
    let (jobs, queue) = channel();
    let shared = Arc::new(Shared {
        answers: Answers::default(),
        cancelled: AtomicBool::default(),
        ended: AtomicBool::default(),
        tunnels: Tunnels::new(output.clone()),
    });
    let (signing, requests) = channel();
    let signer = output.clone();
    thread::spawn(move || sign(&requests, &signer));
    let reader = shared.clone();
    let reading = thread::spawn(move || reader.read(input, skip.as_deref(), &jobs, &signing));
    Worker {
        state: state.to_owned(),
        shared,
        output,
        system: None,
        clock: 0,
        notified: HashMap::new(),
        started: HashMap::new(),
        failed: HashMap::new(),
    }
    .work(&queue);
    reading.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")))
}

/// Where frames go; shared by everything that answers.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<dyn Write + Send>>);

impl Output {
    pub(super) fn new(output: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(output)))
    }

    pub(super) fn send(&self, message: &FromAgent) -> io::Result<()> {
        let frame = frame::encode(message)?;
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&frame)?;
        output.flush()
    }
}

/// What is done in order, one at a time.
enum Job {
    Begin(Mode),
    Facts,
    Task(Box<Task>),
}

/// What the reading thread and the tasks have in common.
struct Shared {
    answers: Answers,
    /// The run is being stopped: no task is begun any more, and the one in hand does not wait for anything.
    cancelled: AtomicBool,
    /// The link has dropped: no task is begun any more. The one in hand is finished.
    ended: AtomicBool,
    tunnels: Tunnels,
}

impl Shared {
    fn read(
        &self,
        mut input: impl BufRead,
        skip: Option<&str>,
        jobs: &Sender<Job>,
        signing: &Sender<(u32, SigningRequest)>,
    ) -> io::Result<()> {
        let skipped = skip.map_or(Ok(()), |line| skip_to(&mut input, line));
        let end = loop {
            let message = match frame::read(&mut input) {
                Ok(Some(message)) => message,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            match message {
                ToAgent::Begin { mode, run: _ } => drop(jobs.send(Job::Begin(mode))),
                ToAgent::Facts => drop(jobs.send(Job::Facts)),
                ToAgent::Task(task) => drop(jobs.send(Job::Task(task))),
                ToAgent::Chunk { seq, bytes, last } => self.answers.give(seq, Answer::Chunk { bytes, last }),
                ToAgent::Certificate { seq, pem } => self.answers.give(seq, Answer::Certificate(pem)),
                ToAgent::Refused { seq, failure } => self.answers.give(seq, Answer::Refused(failure)),
                ToAgent::Sign { id, request } => drop(signing.send((id, request))),
                ToAgent::Connect { id, address } => self.tunnels.connect(id, address),
                ToAgent::Data { id, bytes } => self.tunnels.data(id, bytes),
                ToAgent::Window { id, bytes } => self.tunnels.grant(id, bytes),
                ToAgent::Close { id } => self.tunnels.close(id),
                ToAgent::Reset { id } => self.tunnels.reset(id),
                ToAgent::Cancel => self.cancelled.store(true, Ordering::Relaxed),
            }
        };
        self.ended.store(true, Ordering::Relaxed);
        self.answers.close();
        skipped.and(end)
    }
}

/// Reads up to the end of a line. What stands before may be a password, and is wiped.
fn skip_to(input: &mut impl BufRead, line: &str) -> io::Result<()> {
    loop {
        let mut read = Zeroizing::new(Vec::with_capacity(256));
        if input.read_until(b'\n', &mut read)? == 0 || read.strip_suffix(b"\n") == Some(line.as_bytes()) {
            return Ok(());
        }
    }
}

/// Signs for other hosts with a CA key of this one, beside the tasks.
fn sign(requests: &Receiver<(u32, SigningRequest)>, output: &Output) {
    for (id, request) in requests {
        let result = pki::sign(&request);
        let _ = output.send(&FromAgent::Signed { id, result });
    }
}

/// Runs the jobs.
struct Worker {
    state: PathBuf,
    shared: Arc<Shared>,
    output: Output,
    /// The node and its notified handlers, from [`ToAgent::Begin`] on.
    system: Option<(System, Pending)>,
    /// How many tasks have been run, and after how many a handler was last notified or a unit started.
    clock: u64,
    notified: HashMap<String, u64>,
    started: HashMap<String, u64>,
    /// The epochs in which a task failed, and the task's group.
    failed: HashMap<u32, Seq>,
}

impl Worker {
    /// Ends when the reading thread does. A link that drops is noticed there; what cannot be written is lost with it.
    fn work(mut self, queue: &Receiver<Job>) {
        for job in queue {
            match job {
                Job::Begin(mode) => {
                    self.system = Some((System::new(mode), Pending::new(&self.state, mode)));
                    self.failed.clear();
                    self.clock = 0;
                    self.notified.clear();
                    self.started.clear();
                }
                Job::Facts => {
                    // Of the node as it is, whatever has been planned.
                    let gathered = catch_unwind(|| facts::gather(System::new(Mode::Plan).view()));
                    let facts = gathered.unwrap_or_else(|panic| Err(bug(&*panic)));
                    let _ = self.output.send(&FromAgent::Facts(facts));
                }
                Job::Task(task) => {
                    let seq = task.seq;
                    let result = self.task(&task);
                    if let Err(error) = self.output.send(&FromAgent::Done { seq, result }) {
                        // Too long for a frame, or the link is gone; only in the first case will this arrive.
                        let failure = Failure::new(format!("the task ended but its result cannot be sent: {error}"));
                        self.fail(&task);
                        let _ = self.output.send(&FromAgent::Done { seq, result: TaskResult::Failed(failure) });
                    }
                }
            }
        }
    }

    fn task(&mut self, task: &Task) -> TaskResult {
        let dropped = self.failed.get(&task.epoch).is_some_and(|group| *group != task.group);
        if dropped || [&self.shared.cancelled, &self.shared.ended].iter().any(|stop| stop.load(Ordering::Relaxed)) {
            return TaskResult::Dropped;
        }
        let result = self.run(task).unwrap_or_else(TaskResult::Failed);
        if matches!(result, TaskResult::Failed(_)) {
            self.fail(task);
        }
        result
    }

    fn fail(&mut self, task: &Task) {
        if !task.ignore_errors {
            self.failed.insert(task.epoch, task.group);
        }
    }

    fn run(&mut self, task: &Task) -> Result<TaskResult, Failure> {
        let (system, pending) =
            self.system.as_mut().ok_or_else(|| Failure::new("a task came before the work began (a bug in kprov)"))?;
        if let Some(handler) = &task.handler {
            let due = task.carried || self.notified.contains_key(handler);
            if !due || !pending.begin(handler, task.group)? {
                return Ok(TaskResult::NotNeeded);
            }
        }
        self.clock += 1;
        if let (Some(handler), Resource::Systemd(systemd)) = (&task.handler, &task.resource)
            && let Some(started) = systemd.restarts().and_then(|unit| self.started.get(unit))
            && self.notified.get(handler).is_none_or(|notified| notified < started)
        {
            // Started since then, so it runs what the handler is for.
            pending.end(handler, true)?;
            return Ok(TaskResult::NotNeeded);
        }
        // Without the link there is no need to say so.
        let _ = self.output.send(&FromAgent::Started { seq: task.seq });
        let mut needs = TaskNeeds {
            seq: task.seq,
            expect: task.expect.as_deref(),
            notify: &task.notify,
            pending,
            marked: Vec::new(),
            output: &self.output,
            answers: &self.shared.answers,
            cancelled: &self.shared.cancelled,
        };
        let result = catch_unwind(AssertUnwindSafe(|| task.resource.converge(system, &mut needs)))
            .unwrap_or_else(|panic| Err(bug(&*panic)));
        let marked = needs.marked;
        // Nobody waits any more; what still comes for this task is dropped.
        self.shared.answers.close();
        if result.as_ref().is_ok_and(|outcome| !outcome.changed) {
            for handler in &marked {
                pending.clear(handler)?;
            }
        }
        if let Some(handler) = &task.handler {
            pending.end(handler, result.is_ok())?;
        }
        if result.as_ref().map_or(true, |outcome| outcome.changed) {
            self.notified.extend(task.notify.iter().map(|handler| (handler.clone(), self.clock)));
        }
        if let (Resource::Systemd(systemd), Ok(outcome)) = (&task.resource, &result)
            && let Some(unit) = systemd.started(outcome)
        {
            self.started.insert(unit.to_owned(), self.clock);
        }
        result.map(TaskResult::Done)
    }
}

/// What a panic of a module comes to: the task fails, and the agent goes on.
fn bug(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(format!("a bug in kprov: {}", text.unwrap_or("panic")))
}
