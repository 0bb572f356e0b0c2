//! The agent that survives its SSH session: a worker that does the work, and relays between it and the controller.
//!
//! What SSH starts is a relay: [`start`] starts the worker and connects to it, [`attach`] connects to one that is there. The
//! worker listens on a Unix socket below the agent's directory, `run/ID.sock`; its stderr is `run/ID.log`, and it holds a
//! lock on that file for as long as it lives, so that what a killed one left behind can be told and removed. Used only
//! where hosts are changed: an agent that plans writes nothing, and ends with its link.

use super::serve::{say_hello, serve, skip_to, streams};
use super::wire::Wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long a relay may take to pass on the last that a worker said.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The files of one worker.
struct Files {
    run: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Files {
    /// Where the files of the worker `id` are. The id is the controller's: hexadecimal digits.
    fn of(state: &Path, id: &str) -> io::Result<Self> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("not the id of an agent: {id}")));
        }
        let run = state.join("run");
        Ok(Self { socket: run.join(format!("{id}.sock")), log: run.join(format!("{id}.log")), run })
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.log);
    }
}

/// Starts a worker and relays until either end is gone. `patience` is how many seconds the worker waits for a controller
/// that is gone, `skip` the line up to which stdin is not for the worker.
pub fn start(state: &Path, id: &str, patience: &str, skip: Option<&str>) -> io::Result<()> {
    let files = Files::of(state, id)?;
    let (input, mut output) = streams()?;
    say_hello(&mut output)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&files.run).map_err(at(&files.run))?;
    let directory = File::open(&files.run)?;
    // One at a time: a file whose worker is being started is not yet locked.
    flock(&directory, FlockOperation::LockExclusive)?;
    sweep(&files.run)?;
    let log = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&files.log).map_err(at(&files.log))?;
    flock(&log, FlockOperation::LockExclusive)?;
    let listener = UnixListener::bind(&files.socket).map_err(at(&files.socket))?;
    let worker = Command::new(std::env::current_exe()?)
        .arg(state)
        .args(["work", id, patience])
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    drop(directory);
    relay(input, output, &files, skip, Some(worker))
}

/// Relays to a worker that is there, in place of whoever did so before.
pub fn attach(state: &Path, id: &str, skip: Option<&str>) -> io::Result<()> {
    let files = Files::of(state, id)?;
    let (input, mut output) = streams()?;
    say_hello(&mut output)?;
    relay(input, output, &files, skip, None)
}

/// Works until the controller says goodbye, or was gone for `patience` seconds. stdin is the socket that listens.
pub fn work(state: &Path, id: &str, patience: &str) -> io::Result<()> {
    let files = Files::of(state, id)?;
    let patience = patience.parse().map_err(|_| io::Error::new(ErrorKind::InvalidInput, "not a number of seconds"))?;
    let (listener, _) = streams()?;
    // The end of the login that started it is not for the worker.
    rustix::process::setsid()?;
    leave_login_session(id);
    let wire = Wire::new(Duration::from_secs(patience));
    let taking = wire.clone();
    thread::spawn(move || {
        let listener = UnixListener::from(OwnedFd::from(listener));
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(output) = stream.try_clone() {
                taking.attach(File::from(OwnedFd::from(stream)), File::from(OwnedFd::from(output)));
            }
        }
    });
    serve(&wire, state, None)?;
    files.remove();
    Ok(())
}

/// Removes what workers that were killed have left behind.
fn sweep(run: &Path) -> io::Result<()> {
    for entry in fs::read_dir(run)? {
        let log = entry?.path();
        if log.extension().is_some_and(|extension| extension == "log")
            && let Ok(file) = File::open(&log)
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_file(log.with_extension("sock"));
            let _ = fs::remove_file(&log);
        }
    }
    Ok(())
}

/// Has systemd take the worker out of the scope of the login, which logind may clear when the login ends
/// (`KillUserProcesses` of logind.conf(5)). Where that cannot be, the worker stays in it.
fn leave_login_session(id: &str) {
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if !cgroup.lines().any(|line| line.contains("/session-") && line.ends_with(".scope")) {
        return;
    }
    let manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    let (unit, pid) = (format!("kprov-agent-{id}.scope"), std::process::id().to_string());
    let properties = ["3", "PIDs", "au", "1", &pid, "Slice", "s", "system.slice"];
    let collect = ["CollectMode", "s", "inactive-or-failed", "0"];
    let _ = Command::new("busctl")
        .args(["--quiet", "call"])
        .args(manager)
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", &unit, "fail"])
        .args(properties)
        .args(collect)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Which end of a relay is gone.
enum Gone {
    Controller,
    Worker,
}

/// Carries bytes both ways until either end is gone; says why when the worker ended without a goodbye.
fn relay(input: File, output: File, files: &Files, skip: Option<&str>, worker: Option<Child>) -> io::Result<()> {
    let socket = UnixStream::connect(&files.socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            io::Error::other("the agent that was at work here is gone; it was killed, or the host was restarted")
        }
        _ => at(&files.socket)(error),
    })?;
    let (gone, ended) = channel();
    let (up, down, hangs) = (socket.try_clone()?, socket.try_clone()?, socket);
    let mut input = BufReader::with_capacity(256 << 10, input);
    let (skip, to_tell) = (skip.map(str::to_owned), gone.clone());
    thread::spawn(move || {
        // A worker that does not listen any more may not have been heard out.
        if skip.is_none_or(|line| skip_to(&mut input, &line).is_ok()) && carry(input, &up).is_ok() {
            let _ = to_tell.send(Gone::Controller);
        }
    });
    let to_tell = gone.clone();
    thread::spawn(move || {
        let reader = BufReader::with_capacity(256 << 10, &down);
        let _ = to_tell.send(carry(reader, &output).map_or(Gone::Controller, |()| Gone::Worker));
    });
    // A link that is dead blocks the thread that would notice that the worker has given it up.
    thread::spawn(move || {
        let mut hung_up = [PollFd::new(&hangs, PollFlags::empty())];
        while poll(&mut hung_up, None).is_err() {}
        thread::sleep(LAST_WORDS);
        let _ = gone.send(Gone::Worker);
    });
    match (ended.recv(), worker) {
        (Ok(Gone::Worker), Some(worker)) => report(worker, &files.log),
        _ => Ok(()),
    }
}

/// Passes bytes on as they come, to the end; an error when they cannot be passed on.
fn carry(mut from: impl BufRead, mut to: impl Write) -> io::Result<()> {
    loop {
        let length = match from.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok([]) | Err(_) => return Ok(()),
            Ok(bytes) => {
                to.write_all(bytes)?;
                bytes.len()
            }
        };
        from.consume(length);
    }
}

/// Says how a worker that has closed its socket ended. One that goes on has turned to another relay.
fn report(mut worker: Child, log: &Path) -> io::Result<()> {
    if let Some(pid) = rustix::process::Pid::from_raw(worker.id() as i32)
        && let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
    {
        let limit = Timespec { tv_sec: LAST_WORDS.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit));
    }
    match worker.try_wait()? {
        None => Ok(()),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(io::Error::other(how(status, &fs::read_to_string(log).unwrap_or_default()))),
    }
}

fn how(status: ExitStatus, log: &str) -> String {
    match (status.signal(), log.lines().map(str::trim).rfind(|line| !line.is_empty())) {
        (Some(signal), _) => format!("the agent was killed by signal {signal}"),
        (None, Some(last)) => format!("the agent gave up: {last}"),
        (None, None) => format!("the agent gave up with code {}", status.code().unwrap_or_default()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}
