//! Child processes: what a module may run, in which mode, and for how long.
//!
//! [`Processes::probe`] is for programs that only look (`systemctl show`, `getent`): they run in both modes.
//! [`Processes::run`] is for all others: on a planning system nothing is started. A child gets `/dev/null` or the given
//! bytes as stdin, pipes of its own, and a process group of its own that is killed as a whole when its time is up. There is
//! no shell and no quoting here. Arguments may hold secrets: errors name the program only.

use super::{Mode, Result, SystemError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::{ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// How much of stdout and of stderr is kept, in bytes each.
pub const MAX_OUTPUT: usize = 1 << 20;
/// How long a program that only looks may take before something must be wrong with the node.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a process group has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How often a caller's wish to stop is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Where administrators' programs are: the shell that an SSH session starts often lacks the `sbin` half.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments and surroundings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// The program (looked up in `PATH` if it has no slash) and its arguments; no shell reads them.
    pub argv: Vec<String>,
    /// Set on top of the agent's own environment.
    pub env: Vec<(String, String)>,
    pub cwd: Option<PathBuf>,
    /// `None` is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
    /// `None` waits for ever.
    pub timeout: Option<Duration>,
}

impl Command {
    /// A program of the node's own, made to print what can be parsed: untranslated, without a pager.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: [("LC_ALL", "C"), ("PAGER", "cat"), ("SYSTEMD_PAGER", ""), ("SYSTEMD_COLORS", "0")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// The program without its directory; arguments can be secret.
    fn program(&self) -> String {
        let program = self.argv.first().map_or("", String::as_str);
        Path::new(program).file_name().map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

/// How a program ended and what it printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Exit code; minus the signal's number if a signal ended it (as Python and so Ansible's `rc` say it).
    pub code: i32,
    /// Bytes that are no UTF-8 are replaced. What exceeds [`MAX_OUTPUT`] is left out, and a last line says so.
    pub stdout: String,
    pub stderr: String,
    program: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Makes an error of every code but 0. It carries the last lines of stderr (or of stdout, if that is empty).
    pub fn checked(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        Err(SystemError::Program {
            program: self.program.clone(),
            status: match self.code {
                code @ 0.. => format!("exit code {code}"),
                signal => format!("signal {}", -signal),
            },
            stderr: last_lines(said, 3),
        })
    }
}

/// The last `n` lines that are not blank, joined into one.
pub fn last_lines(text: &str, n: usize) -> String {
    let mut lines: Vec<_> = text.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(n).collect();
    lines.reverse();
    lines.join("; ")
}

/// Starts programs on the node.
pub struct Processes {
    mode: Mode,
    planned: bool,
}

impl Processes {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, planned: false }
    }

    /// Whether a program would have been run.
    pub(super) fn planned(&self) -> bool {
        self.planned
    }

    /// Runs a program that changes nothing, on a planning system too. Every exit code is a result.
    pub fn probe(&self, command: &Command) -> Result<Output> {
        execute(command, None)
    }

    /// Runs a program; `None` on a planning system, where nothing is started.
    pub fn run(&mut self, command: &Command) -> Result<Option<Output>> {
        self.run_unless(command, &|| false)
    }

    /// Runs a program, and ends it once `stop` says so.
    pub fn run_unless(&mut self, command: &Command, stop: &dyn Fn() -> bool) -> Result<Option<Output>> {
        match self.mode {
            Mode::Plan => {
                self.planned = true;
                Ok(None)
            }
            Mode::Apply => execute(command, Some(stop)).map(Some),
        }
    }
}

/// Starts the program and waits for its end. The pipes are not waited for: a daemon that it leaves behind keeps them open.
pub(super) fn execute(command: &Command, stop: Option<&dyn Fn() -> bool>) -> Result<Output> {
    let program = command.program();
    let mut child = spawn(command)?;
    let ended = Pipes::new(&mut child).map_err(Interrupted::Io).and_then(|pipes| pipes.pump(command, stop));
    if ended.is_err() {
        end(&mut child);
    }
    let status = child.wait().map_err(|error| SystemError::Other(format!("cannot wait for `{program}`: {error}")))?;
    let (stdout, stderr) = ended.map_err(|interrupted| {
        let why = match interrupted {
            Interrupted::Timeout(after) => format!("it had not ended after {} s", after.as_secs()),
            Interrupted::Stopped => "the run was stopped".to_owned(),
            Interrupted::Io(error) => error.to_string(),
        };
        SystemError::Other(format!("`{program}` was killed: {why}"))
    })?;
    let code = status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or(-1);
    Ok(Output { code, stdout: stdout.text(), stderr: stderr.text(), program })
}

fn spawn(command: &Command) -> Result<Child> {
    let program = command.argv.first().ok_or_else(|| SystemError::Other("there is no program to run".to_owned()))?;
    if let Some(cwd) = &command.cwd {
        // A missing directory and a missing program are one and the same error of exec.
        std::fs::metadata(cwd).map_err(SystemError::file(cwd))?;
    }
    let mut std = std::process::Command::new(program);
    std.args(&command.argv[1..])
        .env("PATH", search_path(std::env::var("PATH").ok().as_deref()))
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(if command.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(cwd) = &command.cwd {
        std.current_dir(cwd);
    }
    std.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => SystemError::Other(format!("`{}` is not installed on this host", command.program())),
        _ => SystemError::Other(format!("cannot start `{}`: {error}", command.program())),
    })
}

/// The agent's `PATH` with the directories that it lacks.
fn search_path(inherited: Option<&str>) -> String {
    let mut dirs: Vec<&str> = inherited.unwrap_or_default().split(':').filter(|dir| !dir.is_empty()).collect();
    for dir in PATH.split(':') {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs.join(":")
}

/// Ends what is left of the child's process group: SIGTERM, and SIGKILL for what has not ended then.
fn end(child: &mut Child) {
    // Until the child was waited for, its number cannot be that of another process.
    let group = Pid::from_child(child);
    let deadline = Instant::now() + GRACE;
    let _ = kill_process_group(group, Signal::TERM);
    while Instant::now() < deadline && !exited(group) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = kill_process_group(group, Signal::KILL);
}

/// Whether the process has ended; it can still be waited for.
fn exited(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

enum Interrupted {
    Timeout(Duration),
    Stopped,
    Io(std::io::Error),
}

/// What can become ready while a child runs.
#[derive(Clone, Copy)]
enum Event {
    Ended,
    Stdout,
    Stderr,
    Stdin,
}

/// Our ends of a child's pipes, and one that closes when the child has ended. `None` is closed.
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    ended: Option<PipeReader>,
}

impl Pipes {
    fn new(child: &mut Child) -> std::io::Result<Self> {
        let (ended, writer) = std::io::pipe()?;
        let pid = Pid::from_child(child);
        // Not a pidfd: kernels before 5.3 (RHEL 8) have none.
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            drop(writer);
        })?;
        Ok(Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            ended: Some(ended),
        })
    }

    /// Feeds stdin and collects the output until the child has ended and its pipes hold nothing more.
    fn pump(mut self, command: &Command, stop: Option<&dyn Fn() -> bool>) -> Result<(Capture, Capture), Interrupted> {
        let started = Instant::now();
        let mut input = command.stdin.as_deref().unwrap_or_default();
        let (mut stdout, mut stderr) = (Capture::default(), Capture::default());
        loop {
            if input.is_empty() {
                self.stdin = None;
            }
            let wait = if self.ended.is_none() {
                Some(Duration::ZERO)
            } else if stop.is_some_and(|stop| stop()) {
                return Err(Interrupted::Stopped);
            } else {
                let left = match command.timeout.map(|timeout| (timeout, timeout.checked_sub(started.elapsed()))) {
                    Some((timeout, None)) => return Err(Interrupted::Timeout(timeout)),
                    Some((_, left)) => left,
                    None => None,
                };
                stop.map_or(left, |_| Some(left.map_or(TICK, |left| left.min(TICK))))
            };
            let ready = self.ready(wait).map_err(Interrupted::Io)?;
            if ready.is_empty() && self.ended.is_none() {
                return Ok((stdout, stderr));
            }
            for event in ready {
                match event {
                    Event::Ended => self.ended = None,
                    Event::Stdout => stdout.read(&mut self.stdout),
                    Event::Stderr => stderr.read(&mut self.stderr),
                    Event::Stdin => {
                        // A pipe that is ready takes at least this much without blocking (PIPE_BUF).
                        let chunk = &input[..input.len().min(4096)];
                        match self.stdin.as_mut().map(|stdin| stdin.write(chunk)) {
                            Some(Ok(n)) => input = &input[n..],
                            // The child reads no more of it. What that means, its exit code says.
                            _ => input = &[],
                        }
                    }
                }
            }
        }
    }

    /// Waits until something can be done, at most so long.
    fn ready(&self, wait: Option<Duration>) -> std::io::Result<Vec<Event>> {
        let watched = [
            self.ended.as_ref().map(|fd| (Event::Ended, fd.as_fd(), PollFlags::IN)),
            self.stdout.as_ref().map(|fd| (Event::Stdout, fd.as_fd(), PollFlags::IN)),
            self.stderr.as_ref().map(|fd| (Event::Stderr, fd.as_fd(), PollFlags::IN)),
            self.stdin.as_ref().map(|fd| (Event::Stdin, fd.as_fd(), PollFlags::OUT)),
        ];
        let mut fds: Vec<_> =
            watched.iter().flatten().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let wait = wait.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() });
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let events = watched.iter().flatten().zip(&fds);
        Ok(events.filter(|(_, fd)| !fd.revents().is_empty()).map(|((event, ..), _)| *event).collect())
    }
}

/// The beginning of an output, and how much more there was.
#[derive(Default)]
struct Capture {
    kept: Vec<u8>,
    dropped: usize,
}

impl Capture {
    /// Reads what is there; closes the pipe at its end.
    fn read(&mut self, pipe: &mut Option<impl Read>) {
        let mut buffer = [0; 16 << 10];
        match pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
            Some(Ok(n)) if n > 0 => {
                let room = n.min(MAX_OUTPUT - self.kept.len());
                self.kept.extend_from_slice(&buffer[..room]);
                self.dropped += n - room;
            }
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
            _ => *pipe = None,
        }
    }

    fn text(self) -> String {
        let mut text =
            String::from_utf8(self.kept).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        if self.dropped > 0 {
            text.push_str(&format!("\n[{} more bytes were left out]\n", self.dropped));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command::new(["/bin/sh", "-c", script])
    }

    fn run(command: &Command) -> Result<Output> {
        Processes::new(Mode::Apply).run(command).map(|output| output.expect("not planning"))
    }

    #[test]
    fn collects_output_and_code() {
        let output = run(&sh("echo out; echo err >&2; exit 3")).unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
        let error = output.checked().unwrap_err().to_string();
        assert_eq!(error, "`sh` failed with exit code 3: err");
        assert_eq!(run(&sh("kill -9 $$")).unwrap().code, -9);
    }

    #[test]
    fn plans_start_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let command = sh(&format!("touch {}", marker.display()));
        assert_eq!(Processes::new(Mode::Plan).run(&command).unwrap(), None);
        assert!(!marker.exists());
        assert!(run(&command).unwrap().success() && marker.exists());
    }

    #[test]
    fn feeds_more_than_a_pipe_holds() {
        let input = vec![b'x'; 300_000];
        let output = run(&sh("wc -c").stdin(input)).unwrap();
        assert_eq!(output.stdout.trim(), "300000");
        assert!(run(&sh("exec <&-; sleep 0.05; exit 0").stdin(vec![0; 300_000])).unwrap().success());
    }

    #[test]
    fn keeps_a_megabyte_and_says_so() {
        let output = run(&sh("head -c 3000000 /dev/zero | tr '\\0' x")).unwrap();
        let (kept, note) = output.stdout.split_at(MAX_OUTPUT);
        assert!(kept.bytes().all(|b| b == b'x'));
        assert_eq!(note, format!("\n[{} more bytes were left out]\n", 3_000_000 - MAX_OUTPUT));
    }

    #[test]
    fn a_timeout_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        // The grandchild ignores SIGTERM and would outlive a kill of the shell alone.
        let script = format!("(trap '' TERM; echo $$ > {}; sleep 300) & sleep 300", pid.display());
        let started = Instant::now();
        let error = run(&sh(&script).timeout(Duration::from_millis(300))).unwrap_err().to_string();
        assert!(error.contains("had not ended after"), "{error}");
        assert!(started.elapsed() < GRACE + Duration::from_secs(3));
        let group: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while rustix::process::test_kill_process_group(Pid::from_raw(group).unwrap()).is_ok() {
            assert!(Instant::now() < deadline, "the process group lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn stops_when_told() {
        let started = Instant::now();
        let stop = || started.elapsed() > Duration::from_millis(200);
        let error = Processes::new(Mode::Apply).run_unless(&sh("sleep 300"), &stop).unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    #[test]
    fn does_not_wait_for_what_is_left_behind() {
        let started = Instant::now();
        let output = run(&sh("sleep 3 & echo done")).unwrap();
        assert_eq!(output.stdout, "done\n");
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn says_what_is_missing_and_no_arguments() {
        let error = run(&Command::new(["/nowhere/tool", "--password=hunter2"])).unwrap_err().to_string();
        assert_eq!(error, "`tool` is not installed on this host");
        let mut command = sh("true");
        command.cwd = Some("/nowhere".into());
        assert!(run(&command).unwrap_err().to_string().starts_with("/nowhere: "));
    }

    #[test]
    fn completes_the_search_path() {
        assert_eq!(
            search_path(Some("/opt/bin:/usr/bin:")),
            "/opt/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
        );
        assert_eq!(search_path(None), PATH);
    }
}
