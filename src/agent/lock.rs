//! The lock of a cluster on one node, and the fence against runs that were replaced.
//!
//! Three files in the agent's directory. `lock` says who has the cluster: the agent of that run holds a kernel lock on it as
//! long as it has a link to its controller. `fence` names the newest run that has begun here; its token is larger than
//! those of all runs before it, and an agent of another run refuses to go on. On `work` every agent holds a kernel lock
//! while it has a task in hand, and a newer run begins when those of older runs are free.
//!
//! The kernel's record locks (fcntl(2)) end with the process that holds them, and the kernel says which process that is. No
//! clock decides anything. What follows from a refusal is the controller's business.

use super::protocol::{FromAgent, Holder, LockRequest, LockState, REPLACED, RunHeader};
use super::wire::Wire;
use crate::modules::Failure;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::{Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How often an agent that holds the lock looks whether it still may.
const TICK: Duration = Duration::from_millis(500);
/// How long a run waits for the task in hand of an older one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long agents may take to let go when a lock is broken, and to end when they are told to.
const GRACE: Duration = Duration::from_secs(5);

/// The part of one agent in it.
pub(super) struct Lock {
    state: PathBuf,
    wire: Arc<Wire>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The run that this agent works for. Without a token nothing is fenced.
    run: Option<RunHeader>,
    /// The lock was granted to the run, and it has not given it back.
    granted: bool,
    /// Open as long as the lock is held.
    held: Option<File>,
    work: Option<File>,
    replaced: bool,
}

/// A task is in hand until this is dropped.
pub(super) struct InHand(Option<Arc<Lock>>);

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(work) = self.0.as_ref().and_then(|lock| lock.inner().work.take()) {
            drop(work);
        }
    }
}

impl Lock {
    pub(super) fn new(state: &Path, wire: Arc<Wire>) -> Arc<Self> {
        Arc::new(Self { state: state.to_owned(), wire, inner: Mutex::default() })
    }

    pub(super) fn answer(self: &Arc<Self>, request: &LockRequest) -> Result<LockState, Failure> {
        let mut ended = Vec::new();
        match request {
            LockRequest::Show => {}
            LockRequest::Take(run) => self.take(run)?,
            LockRequest::LetGo => {
                let mut inner = self.inner();
                (inner.granted, inner.held) = (false, None);
            }
            LockRequest::Fence(run) => {
                self.raise(run)?;
                self.inner().run = Some(run.clone());
            }
            LockRequest::Break(run) => {
                self.raise(run)?;
                ended = self.free()?;
            }
        }
        let inner = self.inner();
        let busy = self.process_on("work", &inner)?;
        Ok(LockState { newest: self.newest()?, holder: self.holder(&inner)?, busy, ended })
    }

    /// Begins a run's work here: older runs are refused from now on, and what they have in hand is waited for unless
    /// `stop` says that nobody waits any more.
    pub(super) fn begin(&self, run: &RunHeader, stop: impl Fn() -> bool) -> Result<(), Failure> {
        if run.token == 0 {
            return Ok(());
        }
        self.raise(run)?;
        self.inner().run = Some(run.clone());
        let started = Instant::now();
        while let Some(pid) = self.process_on("work", &self.inner())? {
            if stop() {
                return Err(Failure::new("the run was stopped"));
            }
            if started.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "an earlier run still has a task in hand here (process {pid}); wait for it, or end it with `kprov lock break`"
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Is called before each task; `None`: another run has replaced this one, and nothing may be changed any more.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Option<InHand>, Failure> {
        let fenced = self.inner().run.as_ref().is_some_and(|run| run.token > 0);
        if !fenced {
            return Ok(Some(InHand(None)));
        }
        // In this order: a run that raises the fence after it was read sees that a task is in hand.
        let work = self.open("work")?;
        fcntl_lock(&work, FlockOperation::NonBlockingLockShared).map_err(|e| self.failure("work", &e.into()))?;
        self.inner().work = Some(work);
        let in_hand = InHand(Some(self.clone()));
        Ok((!self.replaced()?).then_some(in_hand))
    }

    /// Whether another run has replaced the one that this agent works for. Tells the controller the first time.
    pub(super) fn replaced(&self) -> Result<bool, Failure> {
        let mut inner = self.inner();
        let Some(run) = inner.run.as_ref().filter(|run| run.token > 0 && !inner.replaced) else {
            return Ok(inner.replaced);
        };
        let Some(newest) = self.newest()?.filter(|newest| is_newer(newest, run)) else { return Ok(false) };
        inner.replaced = true;
        (inner.granted, inner.held) = (false, None);
        drop(inner);
        let _ = self.wire.output().send(&FromAgent::Replaced { reason: replaced_by(&newest) });
        Ok(true)
    }

    /// Takes the lock unless another process holds it.
    fn take(self: &Arc<Self>, run: &RunHeader) -> Result<(), Failure> {
        let mut inner = self.inner();
        if inner.granted {
            return Ok(());
        }
        // Until it is held by this process or is seen to be held by another.
        while inner.held.is_none() && self.process_on("lock", &inner)?.is_none() {
            self.seize(&mut inner, run)?;
        }
        if inner.held.is_some() {
            inner.granted = true;
            inner.run = Some(run.clone());
            let this = Arc::downgrade(self);
            thread::spawn(move || watch(&this));
        }
        Ok(())
    }

    fn seize(&self, inner: &mut Inner, run: &RunHeader) -> Result<(), Failure> {
        let file = self.open("lock")?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(self.failure("lock", &error.into())),
        }
        let text = format!("pid {}\n{}", std::process::id(), to_text(run));
        let written = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
        written.map_err(|error| self.failure("lock", &error))?;
        inner.held = Some(file);
        Ok(())
    }

    /// Makes `run` the newest of this node. Refused when there is a newer one.
    fn raise(&self, run: &RunHeader) -> Result<(), Failure> {
        let failed = |error: io::Error| self.failure("fence", &error);
        self.make_directory().map_err(failed)?;
        let directory = File::open(&self.state).map_err(failed)?;
        // Held for the moment in which the file is replaced.
        flock(&directory, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        match self.newest()? {
            Some(newest) if is_newer(&newest, run) => {
                let result = [(REPLACED.to_owned(), true.into())].into_iter().collect();
                return Err(Failure { message: replaced_by(&newest), result });
            }
            Some(newest) if newest.token == run.token => return Ok(()),
            _ => {}
        }
        let mut file = crate::system::temporary_file(&self.state).map_err(failed)?;
        file.write_all(to_text(run).as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(self.path("fence")).map_err(|error| failed(error.error))?;
        directory.sync_all().map_err(failed)
    }

    /// The newest run that has begun here.
    fn newest(&self) -> Result<Option<RunHeader>, Failure> {
        match fs::read_to_string(self.path("fence")) {
            Ok(text) => from_text(&text).map(Some).ok_or_else(|| {
                let path = self.path("fence");
                Failure::new(format!("{} is damaged; remove it when no run is under way", path.display()))
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failure("fence", &error)),
        }
    }

    /// Who holds the lock.
    fn holder(&self, inner: &Inner) -> Result<Option<Holder>, Failure> {
        // To close another descriptor of the file would free the lock of this process.
        if let Inner { held: Some(file), run: Some(run), .. } = inner {
            return Ok(Some(Holder { run: run.clone(), pid: std::process::id(), seconds: age(file) }));
        }
        // A holder that has not written yet does so at once; the last one's text is not its own.
        let started = Instant::now();
        loop {
            let Some(pid) = self.process_on("lock", inner)? else { return Ok(None) };
            let file = File::open(self.path("lock")).map_err(|error| self.failure("lock", &error))?;
            let text = io::read_to_string(&file).map_err(|error| self.failure("lock", &error))?;
            let (first, rest) = text.split_once('\n').unwrap_or_default();
            let whole = first.strip_prefix("pid ") == Some(pid.to_string().as_str());
            match from_text(rest).filter(|_| whole) {
                Some(run) => return Ok(Some(Holder { run, pid, seconds: age(&file) })),
                None if started.elapsed() > Duration::from_secs(1) => {
                    let operator = "somebody who does not say so".to_owned();
                    let run = RunHeader { operator, ..RunHeader::default() };
                    return Ok(Some(Holder { run, pid, seconds: age(&file) }));
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The other process that has a kernel lock on a file here; 0 where it cannot be seen from here.
    fn process_on(&self, name: &str, inner: &Inner) -> Result<Option<u32>, Failure> {
        let own = if name == "lock" { &inner.held } else { &inner.work };
        let opened = match own {
            Some(_) => None,
            None => match File::open(self.path(name)) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(self.failure(name, &error)),
            },
        };
        let Some(file) = own.as_ref().or(opened.as_ref()) else { return Ok(None) };
        let found = fcntl_getlk(file, &Flock::from(FlockType::WriteLock));
        let found = found.map_err(|error| self.failure(name, &error.into()))?;
        Ok(found.map(|lock| lock.pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())))
    }

    /// Waits until nobody holds the lock or has a task in hand, and ends the agents that do not let go; returns them.
    fn free(&self) -> Result<Vec<u32>, Failure> {
        let started = Instant::now();
        let mut ended = Vec::new();
        loop {
            let inner = self.inner();
            let Some(pid) = self.process_on("lock", &inner)?.or(self.process_on("work", &inner)?) else {
                return Ok(ended);
            };
            drop(inner);
            if started.elapsed() < GRACE {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            end(pid)?;
            ended.push(pid);
        }
    }

    fn open(&self, name: &str) -> Result<File, Failure> {
        let open = || {
            self.make_directory()?;
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(self.path(name))
        };
        open().map_err(|error| self.failure(name, &error))
    }

    fn make_directory(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.state)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    fn failure(&self, name: &str, error: &io::Error) -> Failure {
        Failure::new(format!("{}: {error}", self.path(name).display()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after a lock that was granted until it is given back: lets go of it when the run was replaced or the link to the
/// controller drops, and takes it again when there is another link.
fn watch(lock: &Weak<Lock>) {
    loop {
        thread::sleep(TICK);
        let Some(lock) = lock.upgrade() else { return };
        // What cannot be read now can be later; tasks fail with the reason.
        let replaced = lock.replaced().unwrap_or(false);
        let mut inner = lock.inner();
        if replaced || !inner.granted {
            return;
        }
        if !lock.wire.connected() {
            inner.held = None;
        } else if inner.held.is_none()
            && let Some(run) = inner.run.clone()
        {
            let _ = lock.seize(&mut inner, &run);
        }
    }
}

/// Ends an agent that does not let go.
fn end(pid: u32) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("cannot end process {pid}: {error}"));
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| Failure::new("a process that cannot be seen from here does not let go"))?;
    let process = match pidfd_open(id, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
    };
    let program = fs::read_link(format!("/proc/{pid}/exe")).map_err(failed)?;
    if !program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kprov-agent")) {
        let text = format!("process {pid} holds the lock and is {}, not an agent; look at it", program.display());
        return Err(Failure::new(text));
    }
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(failed(error.into())),
        }
        let timeout = Timespec { tv_sec: GRACE.as_secs().cast_signed(), tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
        if ended.map_err(|error| failed(error.into()))? > 0 {
            return Ok(());
        }
    }
    Err(Failure::new(format!("process {pid} does not end")))
}

/// Whether `other` has replaced `run`.
fn is_newer(other: &RunHeader, run: &RunHeader) -> bool {
    other.token > run.token || (other.token == run.token && other.id != run.id)
}

fn replaced_by(newest: &RunHeader) -> String {
    format!("this run was replaced by run {} of {} (kprov {})", newest.id, newest.operator, newest.command)
}

fn age(file: &File) -> u64 {
    let written = file.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    SystemTime::now().duration_since(written).unwrap_or_default().as_secs()
}

fn to_text(run: &RunHeader) -> String {
    let RunHeader { id, operator, started, command, token, .. } = run;
    let line = |text: &str| text.replace(['\n', '\r'], " ");
    let (id, operator, command) = (line(id), line(operator), line(command));
    format!("token {token}\nrun {id}\noperator {operator}\nstarted {started}\ncommand {command}\n")
}

fn from_text(text: &str) -> Option<RunHeader> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Some(RunHeader {
        id: field("run")?.to_owned(),
        operator: field("operator")?.to_owned(),
        started: field("started")?.parse().ok()?,
        command: field("command")?.to_owned(),
        token: field("token")?.parse().ok()?,
        ..RunHeader::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, token: u64) -> RunHeader {
        RunHeader { id: id.to_owned(), operator: "alice@box".to_owned(), token, ..RunHeader::default() }
    }

    fn lock(state: &Path) -> Arc<Lock> {
        Lock::new(state, Wire::new(Duration::ZERO))
    }

    #[test]
    fn older_runs_are_refused() {
        let state = tempfile::tempdir().unwrap();
        let (old, new) = (lock(state.path()), lock(state.path()));
        old.begin(&run("a", 4), || false).unwrap();
        old.begin(&run("a", 4), || false).unwrap();
        assert!(old.enter().unwrap().is_some());

        let refused = new.begin(&run("b", 3), || false).unwrap_err();
        assert!(refused.message.contains("replaced by run a of alice@box"), "{refused}");
        assert!(new.begin(&run("b", 4), || false).is_err(), "another run with the same token");
        new.begin(&run("b", 5), || false).unwrap();
        assert!(old.enter().unwrap().is_none());
        assert!(new.enter().unwrap().is_some());
        let again = lock(state.path()).begin(&run("a", 4), || false);
        assert!(again.is_err(), "what is written stays");
    }

    #[test]
    fn what_was_replaced_is_told_once() {
        let (state, wire) = (tempfile::tempdir().unwrap(), Wire::new(Duration::ZERO));
        let old = Lock::new(state.path(), wire.clone());
        old.begin(&run("a", 1), || false).unwrap();
        lock(state.path()).begin(&run("b", 2), || false).unwrap();
        assert!(old.enter().unwrap().is_none() && old.enter().unwrap().is_none() && old.replaced().unwrap());
        let said = wire.queued();
        let [FromAgent::Replaced { reason }] = said.as_slice() else { panic!("{said:?}") };
        assert!(reason.contains("run b"), "{reason}");
    }

    #[test]
    fn a_file_that_nobody_holds_locks_nothing() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("lock"), format!("pid 1\n{}", to_text(&run("dead", 7)))).unwrap();
        let lock = lock(state.path());
        assert_eq!(lock.answer(&LockRequest::Show).unwrap(), LockState::default());
        let holder = lock.answer(&LockRequest::Take(run("new", 0))).unwrap().holder.unwrap();
        assert_eq!((holder.run.id.as_str(), holder.pid), ("new", std::process::id()));
        assert_eq!(lock.answer(&LockRequest::LetGo).unwrap().holder, None);
    }

    #[test]
    fn to_look_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("kprov");
        assert_eq!(lock(&state).answer(&LockRequest::Show).unwrap(), LockState::default());
        assert!(!state.exists());
    }

    #[test]
    fn without_a_token_nothing_is_fenced() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("kprov");
        let lock = lock(&state);
        lock.begin(&run("a", 0), || false).unwrap();
        assert!(lock.enter().unwrap().is_some());
        assert!(!state.exists());
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let whole = RunHeader {
            started: 1_795_000_000,
            command: "apply -i a b".to_owned(),
            ..run("20261125T031928Z-4f2a91", 9)
        };
        assert_eq!(from_text(&to_text(&whole)), Some(whole.clone()));
        let torn = RunHeader { command: "apply\ntoken 99".to_owned(), ..whole };
        assert_eq!(from_text(&to_text(&torn)).unwrap().token, 9);
        assert_eq!(from_text("token 3\n"), None);
    }

    #[test]
    fn a_damaged_fence_lets_nobody_through() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("fence"), "").unwrap();
        let refused = lock(state.path()).begin(&run("a", 1), || false).unwrap_err();
        assert!(refused.message.contains("is damaged"), "{refused}");
    }
}
