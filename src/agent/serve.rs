//! The loop on the node: reads frames, runs tasks in order, one at a time, and answers.
//!
//! One thread reads, one writes, the caller's thread runs tasks, one signs certificates, and each tunnel has its own. When
//! the link drops, the task in hand is finished and nothing else is begun until there is another one. What a task does is
//! `modules`' business, how messages come and go `wire`'s.

use super::facts;
use super::frame;
use super::journal::{self, Journal};
use super::lock::Lock;
use super::needs::{Answer, Answers, TaskNeeds, hex};
use super::pending::Pending;
use super::protocol::{Did, FromAgent, LockRequest, RunEnd, RunHeader, Seq, StepName, Task, TaskResult, ToAgent};
use super::tunnels::Tunnels;
use super::wire::{Output, Reader, Wire};
use crate::modules::{Failure, Resource};
use crate::pki::{self, SigningRequest};
use crate::system::{Mode, System, UnitAction, unit_name};
use crate::value::After;
use sha2::{Digest, Sha256};
use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Serves on this process's stdin and stdout until the controller says goodbye or is gone. `state` is the agent's directory
/// on the node; `skip` names the line up to which stdin is not for the agent.
pub fn run(state: &Path, skip: Option<&str>) -> io::Result<()> {
    let (input, mut output) = streams()?;
    say_hello(&mut output)?;
    let wire = Wire::new(Duration::ZERO);
    wire.attach(input, output);
    serve(&wire, state, skip)
}

/// Takes stdin and stdout. The two are moved out of the way: whatever reads stdin finds nothing, and whatever prints goes to
/// stderr.
pub(super) fn streams() -> io::Result<(File, File)> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok((input, output))
}

/// Says which build this is: before the session begins, on every link.
pub(super) fn say_hello(output: &mut File) -> io::Result<()> {
    let build = hex(&Sha256::digest(std::fs::read("/proc/self/exe")?));
    output.write_all(&frame::encode(&FromAgent::Hello { build })?)
}

/// Serves until the controller has said goodbye, or is gone for longer than the wire waits. On the first link, packets
/// begin after the line `skip`, if there is one.
pub(super) fn serve(wire: &Arc<Wire>, state: &Path, skip: Option<&str>) -> io::Result<()> {
    let output = wire.output();
    let (jobs, queue) = channel();
    let shared = Arc::new(Shared {
        answers: Answers::default(),
        stopping: AtomicBool::default(),
        cancelled: AtomicBool::default(),
        ended: AtomicBool::default(),
        tunnels: Tunnels::new(output.clone()),
        output: output.clone(),
        lock: Lock::new(state, wire.clone()),
    });
    let (signing, requests) = channel();
    let signer = output.clone();
    thread::spawn(move || sign(&requests, &signer));
    let writer = wire.clone();
    thread::spawn(move || writer.write());
    let (reader, taken, skip) = (Reader::new(wire.clone()), shared.clone(), skip.map(str::to_owned));
    let (report, read) = channel();
    thread::spawn(move || {
        let mut reader = reader;
        let _ = report.send(taken.read(&mut reader, skip.as_deref(), jobs, signing));
        reader.listen_out();
    });
    Worker {
        state: state.to_owned(),
        shared,
        wire: wire.clone(),
        output,
        system: System::new(Mode::Plan),
        pending: Pending::new(state, Mode::Plan),
        journal: None,
        clock: 0,
        notified: HashMap::new(),
        started: HashMap::new(),
        failed: HashMap::new(),
    }
    .work(&queue);
    wire.finish();
    read.recv().unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")))
}

/// What is done in order, one at a time.
enum Job {
    Begin(Mode, Option<RunHeader>),
    Lock(LockRequest),
    Facts,
    Task(Box<Task>),
    Did(Box<Did>),
    End(RunEnd),
    Records(Option<String>),
}

/// What the reading thread and the tasks have in common.
struct Shared {
    answers: Answers,
    /// The run is being stopped: no task is begun any more.
    stopping: AtomicBool,
    /// And the one in hand does not wait for anything.
    cancelled: AtomicBool,
    /// The controller has said goodbye or is gone: no task is begun any more. The one in hand is finished.
    ended: AtomicBool,
    tunnels: Tunnels,
    output: Output,
    lock: Arc<Lock>,
}

impl Shared {
    fn stopped(&self) -> bool {
        [&self.stopping, &self.ended].iter().any(|stop| stop.load(Ordering::Relaxed))
    }

    fn read(
        &self,
        reader: &mut Reader,
        skip: Option<&str>,
        jobs: Sender<Job>,
        signing: Sender<(u32, SigningRequest)>,
    ) -> io::Result<()> {
        let skipped = skip.map_or(Ok(()), |line| reader.skip(|input| skip_to(input, line)));
        let end = loop {
            let message = match reader.next() {
                Ok(Some(message)) => message,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            match message {
                ToAgent::Begin { mode, run } => drop(jobs.send(Job::Begin(mode, run))),
                ToAgent::Lock(request) => drop(jobs.send(Job::Lock(request))),
                ToAgent::Facts => drop(jobs.send(Job::Facts)),
                ToAgent::Task(task) => drop(jobs.send(Job::Task(task))),
                ToAgent::Chunk { seq, bytes, last } => self.answers.give(seq, Answer::Chunk { bytes, last }),
                ToAgent::Certificate { seq, pem } => self.answers.give(seq, Answer::Certificate(pem)),
                ToAgent::Refused { seq, failure } => self.answers.give(seq, Answer::Refused(failure)),
                ToAgent::Sign { id, .. } if self.lock.replaced().unwrap_or(true) => {
                    let result = Err(Failure::new("the run was replaced by another one"));
                    let _ = self.output.send(&FromAgent::Signed { id, result });
                }
                ToAgent::Sign { id, request } => drop(signing.send((id, request))),
                // The API is changed through a tunnel, so that a run that was replaced has none.
                ToAgent::Connect { id, .. } | ToAgent::Data { id, .. } if self.lock.replaced().unwrap_or(true) => {
                    self.tunnels.refuse(id)
                }
                ToAgent::Connect { id, address } => self.tunnels.connect(id, address),
                ToAgent::Data { id, bytes } => self.tunnels.data(id, bytes),
                ToAgent::Window { id, bytes } => self.tunnels.grant(id, bytes),
                ToAgent::Close { id } => self.tunnels.close(id),
                ToAgent::Reset { id } => self.tunnels.reset(id),
                ToAgent::Did(did) => drop(jobs.send(Job::Did(did))),
                ToAgent::End(end) => drop(jobs.send(Job::End(end))),
                ToAgent::Records { run } => drop(jobs.send(Job::Records(run))),
                ToAgent::Cancel { now } => {
                    self.stopping.store(true, Ordering::Relaxed);
                    self.cancelled.fetch_or(now, Ordering::Relaxed);
                }
            }
        };
        self.ended.store(true, Ordering::Relaxed);
        self.answers.close();
        skipped.and(end)
    }
}

/// Reads up to the end of a line. What stands before may be a password, and is wiped.
pub(super) fn skip_to(input: &mut impl BufRead, line: &str) -> io::Result<()> {
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
    wire: Arc<Wire>,
    output: Output,
    /// The node and its notified handlers; planned until [`ToAgent::Begin`].
    system: System,
    pending: Pending,
    /// The record of the run, where it is one that changes the node.
    journal: Option<Arc<Mutex<Journal>>>,
    /// How many tasks have been run, and after how many a handler was last notified or a unit started.
    clock: u64,
    notified: HashMap<String, u64>,
    started: HashMap<String, u64>,
    /// The epochs in which a task failed, and the task's group.
    failed: HashMap<u32, Seq>,
}

impl Worker {
    /// Ends when the reading thread does; what cannot be sent then is lost.
    fn work(mut self, queue: &Receiver<Job>) {
        for job in queue {
            match job {
                Job::Begin(mode, run) => {
                    let result = self.begin(mode, run);
                    let _ = self.output.send(&FromAgent::Begun { result });
                }
                Job::Lock(request) => {
                    let _ = self.output.send(&FromAgent::Lock(self.shared.lock.answer(&request).map(Box::new)));
                }
                Job::Facts => {
                    // Of the node as it is, whatever has been planned.
                    let gathered = catch_unwind(|| facts::gather(System::new(Mode::Plan).view()));
                    let facts = gathered.unwrap_or_else(|panic| Err(bug(&*panic)));
                    let _ = self.output.send(&FromAgent::Facts(facts));
                }
                Job::Did(did) => {
                    // Done is done; what cannot be recorded here is said at the end of the run.
                    let _ = self.did(&did);
                }
                Job::End(end) => {
                    let ended = self.journal.take().map_or(Ok(()), |journal| locked(&journal).end(end));
                    let _ = self.output.send(&FromAgent::Ended(ended));
                }
                Job::Records(run) => {
                    let sent = journal::send(&self.state, run.as_deref(), |record| self.output.send(&record));
                    let sent = sent.map_err(|error| Failure::new(format!("cannot read the record of runs: {error}")));
                    let _ = self.output.send(&FromAgent::Recorded(sent));
                }
                Job::Task(task) => {
                    let seq = task.seq;
                    let result = self.task(&task);
                    if let Err(error) = self.output.send(&FromAgent::Done { seq, result }) {
                        // Too long for a frame, or the controller is gone; only in the first case will this arrive.
                        let failure = Failure::new(format!("the task ended but its result cannot be sent: {error}"));
                        self.fail(&task);
                        let _ = self.output.send(&FromAgent::Done { seq, result: TaskResult::Failed(failure) });
                    }
                }
            }
        }
    }

    fn begin(&mut self, mode: Mode, run: Option<RunHeader>) -> Result<(), Failure> {
        if let Some(run) = &run {
            let shared = self.shared.clone();
            shared.lock.begin(run, || shared.stopped())?;
        }
        let mut system = System::new(mode);
        self.journal = run.map(|run| Arc::new(Mutex::new(Journal::new(&self.state, run))));
        if let Some(journal) = self.journal.clone() {
            system.keep(Box::new(move |at, whole| locked(&journal).before(at, whole)));
        }
        self.system = system;
        self.pending = Pending::new(&self.state, mode);
        self.failed.clear();
        self.clock = 0;
        self.notified.clear();
        self.started.clear();
        Ok(())
    }

    /// Records what the controller has done.
    fn did(&mut self, did: &Did) -> Result<(), Failure> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut journal = locked(journal);
        journal.begin(&did.name)?;
        journal.end_step(&did.name, did.seconds, did.result.as_ref().map(|diff| (true, diff.as_slice())))
    }

    fn task(&mut self, task: &Task) -> TaskResult {
        let dropped = self.failed.get(&task.epoch).is_some_and(|group| *group != task.group);
        if dropped || !self.wire.attached() || self.shared.stopped() {
            return TaskResult::Dropped;
        }
        let shared = self.shared.clone();
        let result = match shared.lock.enter() {
            Ok(Some(_in_hand)) => self.run(task).unwrap_or_else(TaskResult::Failed),
            Ok(None) => return TaskResult::Dropped,
            Err(failure) => TaskResult::Failed(failure),
        };
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
        let (system, pending) = (&mut self.system, &mut self.pending);
        if let Some(handler) = &task.handler {
            let due = task.carried || self.notified.contains_key(handler);
            if !due || !pending.begin(handler, task.group)? {
                return Ok(TaskResult::NotNeeded);
            }
        }
        self.clock += 1;
        if let (Some(handler), Resource::Systemd(systemd)) = (&task.handler, &task.resource)
            && let Some(started) = systemd.restarts().and_then(|unit| self.started.get(&unit_name(unit)))
            && self.notified.get(handler).is_none_or(|notified| notified < started)
        {
            // Started since then, so it runs what the handler is for.
            pending.end(handler, true)?;
            return Ok(TaskResult::NotNeeded);
        }
        // Without the controller there is no need to say so.
        let _ = self.output.send(&FromAgent::Started { seq: task.seq });
        let started = Instant::now();
        let mut needs = TaskNeeds {
            seq: task.seq,
            name: &task.name,
            journal: self.journal.as_ref(),
            expect: task.expect.as_deref(),
            notify: &task.notify,
            pending,
            marked: Vec::new(),
            output: &self.output,
            answers: &self.shared.answers,
            cancelled: &self.shared.cancelled,
            lock: &self.shared.lock,
        };
        system.begin(at_hand(&task.name));
        let result = catch_unwind(AssertUnwindSafe(|| task.resource.converge(system, &mut needs)))
            .unwrap_or_else(|panic| Err(bug(&*panic)));
        let marked = needs.marked;
        // Nobody waits any more; what still comes for this task is dropped.
        self.shared.answers.close();
        let result = match &self.journal {
            Some(journal) => {
                let shown = result.as_ref().map(|outcome| (outcome.changed, outcome.diff.as_slice()));
                locked(journal).end_step(&task.name, started.elapsed().as_secs_f64(), shown).and(result)
            }
            None => result,
        };
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
        if let Some(outcome) = result.as_ref().ok().filter(|outcome| outcome.changed) {
            let started = outcome.units.iter().filter(|effect| effect.action == Some(UnitAction::Start));
            self.started.extend(started.map(|effect| (effect.unit.clone(), self.clock)));
        }
        result.map(TaskResult::Done)
    }
}

/// The task as a plan names what hangs on it. Which host this is, the controller knows.
fn at_hand(name: &StepName) -> After {
    let role = if name.role.is_empty() { String::new() } else { format!("{} : ", name.role) };
    After { task_id: name.task_id.clone(), task: format!("{role}{}", name.task), host: String::new() }
}

fn locked(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic of a module comes to: the task fails, and the agent goes on.
fn bug(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(format!("a bug in kprov: {}", text.unwrap_or("panic")))
}
