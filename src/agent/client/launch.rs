//! Gets the agent to run on a host: one command, one `sudo`, and the binary only where it is not yet.
//!
//! The command says on stdout, a line each, whether it needs the binary (`kprov-need MACHINE`), gives up (`kprov-fail
//! REASON`) or becomes the agent (`kprov-run`); other lines come from the user's start-up files and are skipped. On stdin
//! goes the password, if there is one, and nothing more before the command has spoken: where sudo does not ask, the line
//! is skipped up to [`GO`]; where it asks again, there is nothing else for it to take.

use super::AgentBinary;
use super::stderr::StderrTail;
use crate::agent::frame;
use crate::agent::protocol::FromAgent;
use crate::transport::{Become, BoxFuture, ConnectError, Process, Session};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// The line after which the agent's stdin holds frames.
const GO: &str = "kprov-go";

/// How long the command may take to speak, and the agent to say hello. PAM modules can be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Becomes the other user: `$1` is the user, `$2` the script. (No quotes of this kind inside, no line ends, no `!`: the
/// login shell may be any.)
const ESCALATE: &str = r#"[ "$(id -u)" = "$(id -u -- "$1" 2>/dev/null)" ] && exec sh -c "$2"; command -v sudo >/dev/null 2>&1 || { echo "kprov-fail there is no sudo on this host; install it, or connect as $1"; exit 1; }; LC_ALL=C; export LC_ALL; exec sudo -H SUDO -u "$1" -- sh -c "$2""#;

/// Finds the agent or receives it, and becomes it. Builds that came more than a day ago go when another one comes; a
/// younger one may be another controller's that is just starting it.
const START: &str = r#"fail() { echo "kprov-fail $*"; exit 1; };
trap "" HUP;
s=/var/lib/kprov;
[ "$(id -u)" = 0 ] || s=${XDG_STATE_HOME:-$HOME/.local/state}/kprov;
d=$s/agent/SHA256; a=$d/kprov-agent; g=GO;
[ -z "FORCE" ] && [ -x "$a" ] || { (
umask 077;
command -v sha256sum >/dev/null 2>&1 || fail "there is no sha256sum on this host (package coreutils)";
e=$(mkdir -p "$d" 2>&1) || fail "cannot store the agent: $e";
t=$d/upload.$$;
clean() { rm -f "$t"; };
trap clean EXIT;
echo "kprov-need $(uname -m)";
while IFS= read -r l; do [ "$l" = GO ] && break; done;
e=$( { head -c SIZE >"$t"; } 2>&1) || fail "cannot store the agent: $e";
set -- $(sha256sum <"$t");
[ "$1" = SHA256 ] || fail "the agent did not arrive whole";
sync "$t" 2>/dev/null;
e=$(chmod 700 "$t" 2>&1 && mv -f "$t" "$a" 2>&1) || fail "cannot store the agent: $e";
find "$s/agent" -mindepth 1 -maxdepth 1 -mtime +0 -exec rm -rf {} + 2>/dev/null;
find "$d" -name "upload.*" -mmin +1 -exec rm -f {} + 2>/dev/null;
) || exit 1; g=; };
umask 022;
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH;
echo kprov-run;
exec "$a" "$s" VERB $g"#;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The host is unreachable.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The host is there, but something on it is in the way.
    #[error("{0}")]
    Failed(String),
}

/// An agent that has said hello.
pub(super) struct Launched {
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: StderrTail,
    pub exit: BoxFuture<'static, Result<Option<i32>, ConnectError>>,
}

/// Has the agent run with the arguments `verb`, see `worker`.
pub(super) async fn launch(
    session: &dyn Session,
    escalation: Option<&Become>,
    binary: &AgentBinary,
    verb: &str,
) -> Result<Launched, LaunchError> {
    let ended = match attempt(session, escalation, binary, verb, false).await {
        Err((_, Found::Stale)) => attempt(session, escalation, binary, verb, true).await,
        ended => ended,
    };
    ended.map_err(|(error, _)| error)
}

/// What lay on the host under the agent's name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Something that is not the agent: damaged, or cut off when the power went. It has to be replaced.
    Stale,
    /// Nothing, or there was no getting so far.
    Nothing,
}

async fn attempt(
    session: &dyn Session,
    escalation: Option<&Become>,
    binary: &AgentBinary,
    verb: &str,
    force: bool,
) -> Result<Launched, (LaunchError, Found)> {
    let command = command(escalation, binary, verb, force);
    let process = session.spawn(&command).await.map_err(|error| (error.into(), Found::Nothing))?;
    let mut attempt = Attempt::new(process, escalation, binary);
    let stop = match tokio::time::timeout(PATIENCE, attempt.run()).await {
        Ok(Ok(build)) if build == binary.sha256 => return Ok(attempt.launched()),
        Ok(Ok(_)) => Stop::Failed("the agent on the host is not the one that was sent".to_owned()),
        Ok(Err(stop)) => stop,
        Err(_) => {
            Stop::Failed(format!("the agent did not start within {} s{}", PATIENCE.as_secs(), attempt.stderr.last()))
        }
    };
    let found = if attempt.ran && !attempt.sent { Found::Stale } else { Found::Nothing };
    match stop {
        Stop::Failed(reason) => Err((LaunchError::Failed(reason), found)),
        Stop::Ended => match attempt.why().await {
            error @ LaunchError::Connect(_) => Err((error, Found::Nothing)),
            error => Err((error, found)),
        },
    }
}

fn command(escalation: Option<&Become>, binary: &AgentBinary, verb: &str, force: bool) -> String {
    let start = START
        .replace('\n', " ")
        .replace("VERB", verb)
        .replace("SHA256", &binary.sha256)
        .replace("SIZE", &binary.bytes.len().to_string())
        .replace("FORCE", if force { "yes" } else { "" })
        .replace("GO", GO);
    match escalation {
        None => format!("exec sh -c '{start}'"),
        Some(Become { user, password }) => {
            let sudo = if password.is_some() { r#"-S -p """# } else { "-n" };
            let escalate = ESCALATE.replace("SUDO", sudo);
            format!("exec sh -c '{escalate}' kprov '{}' '{start}'", user.replace('\'', ""))
        }
    }
}

/// Why there is no hello.
enum Stop {
    /// The command said so, or there is no sense in waiting.
    Failed(String),
    /// The output ended.
    Ended,
}

impl From<std::io::Error> for Stop {
    /// A pipe that breaks: the reason is in what the command wrote before.
    fn from(_: std::io::Error) -> Self {
        Self::Ended
    }
}

struct Attempt<'a> {
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    stdout: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: StderrTail,
    exit: BoxFuture<'static, Result<Option<i32>, ConnectError>>,
    escalation: Option<&'a Become>,
    binary: &'a AgentBinary,
    /// The command has asked for the binary.
    sent: bool,
    /// The command has said that it becomes the agent.
    ran: bool,
}

impl<'a> Attempt<'a> {
    fn new(process: Process, escalation: Option<&'a Become>, binary: &'a AgentBinary) -> Self {
        Self {
            stdin: process.stdin,
            stdout: BufReader::with_capacity(64 << 10, process.stdout),
            stderr: StderrTail::collect(process.stderr),
            exit: process.exit,
            escalation,
            binary,
            sent: false,
            ran: false,
        }
    }

    /// Speaks with the command until the agent says hello; returns its build.
    async fn run(&mut self) -> Result<String, Stop> {
        if let Some(password) = self.escalation.and_then(|escalation| escalation.password.as_ref()) {
            self.stdin.write_all(password.expose().as_bytes()).await?;
            self.stdin.write_all(b"\n").await?;
            self.stdin.flush().await?;
        }
        let mut said = self.line().await?;
        if let Said::Fail(reason) = said {
            return Err(Stop::Failed(reason));
        }
        self.ran = matches!(said, Said::Run);
        self.stdin.write_all(format!("{GO}\n").as_bytes()).await?;
        if let Said::Need(machine) = said {
            if let Some(ours) = self.binary.machine
                && ours != machine
            {
                return Err(Stop::Failed(format!(
                    "the host is {machine}, but {} is for {ours}",
                    self.binary.path.display()
                )));
            }
            self.sent = true;
            said = self.upload().await?;
        }
        match said {
            Said::Run => {}
            Said::Fail(reason) => return Err(Stop::Failed(reason)),
            Said::Need(_) => return Err(Stop::Failed("the host asked twice for the agent".to_owned())),
        }
        self.ran = true;
        self.stdin.flush().await?;
        match super::link::read(&mut self.stdout).await {
            Ok(Some(packet)) => match frame::decode(&packet.body) {
                Ok(FromAgent::Hello { build }) => Ok(build),
                _ => Err(Stop::Failed("the agent on the host speaks of something else first".to_owned())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(Stop::Failed(format!("what runs on the host is not the agent: {error}")))
            }
            Ok(None) | Err(_) => Err(Stop::Ended),
        }
    }

    /// Sends the binary; the answer may come before all of it has gone.
    async fn upload(&mut self) -> Result<Said, Stop> {
        let sending = async {
            let sent = async {
                self.stdin.write_all(&self.binary.bytes).await?;
                self.stdin.flush().await
            };
            // When the other end has stopped reading, it has said why.
            let _: std::io::Result<()> = sent.await;
            std::future::pending().await
        };
        tokio::select! {
            said = said(&mut self.stdout) => said,
            () = sending => Err(Stop::Ended),
        }
    }

    /// Waits for what the command says, or for sudo to complain.
    async fn line(&mut self) -> Result<Said, Stop> {
        tokio::select! {
            said = said(&mut self.stdout) => said,
            complaint = self.stderr.refused() => Err(Stop::Failed(complaint)),
        }
    }

    /// Says why the output ended.
    async fn why(self) -> LaunchError {
        let code = match tokio::time::timeout(super::END, self.exit).await {
            Ok(Err(error)) => return error.into(),
            Ok(Ok(code)) => code,
            Err(_) => None,
        };
        self.stderr.finished().await;
        if self.ran && code == Some(126) {
            let text = "cannot run the agent there; is its file system mounted noexec?";
            return LaunchError::Failed(format!("{text}{}", self.stderr.last()));
        }
        match self.stderr.complaint() {
            Some(complaint) => LaunchError::Failed(complaint),
            None => LaunchError::Failed(self.stderr.explain("the agent did not start", code).await),
        }
    }

    fn launched(self) -> Launched {
        Launched { stdin: self.stdin, stdout: self.stdout, stderr: self.stderr, exit: self.exit }
    }
}

enum Said {
    Need(String),
    Run,
    Fail(String),
}

/// Reads up to the command's next word. Start-up files may have printed something before it on its line.
async fn said(stdout: &mut BufReader<Box<dyn AsyncRead + Send + Unpin>>) -> Result<Said, Stop> {
    loop {
        let mut line = Vec::new();
        if stdout.read_until(b'\n', &mut line).await? == 0 {
            return Err(Stop::Ended);
        }
        let line = String::from_utf8_lossy(&line);
        if let Some((_, reason)) = line.split_once("kprov-fail ") {
            let mut rest = String::new();
            let _ = stdout.take(4096).read_to_string(&mut rest).await;
            let words: Vec<_> = reason.split_whitespace().chain(rest.split_whitespace()).collect();
            return Ok(Said::Fail(words.join(" ")));
        }
        if let Some((_, machine)) = line.split_once("kprov-need ") {
            return Ok(Said::Need(machine.trim().to_owned()));
        }
        if line.trim_end().ends_with("kprov-run") {
            return Ok(Said::Run);
        }
    }
}
