//! `openssh`: the system's ssh, one master process per host and a channel per program.
//!
//! ssh reads the user's configuration, so agents, certificates, jump hosts and hardware keys work as in a terminal. What
//! kprov knows of a host comes first, in a generated ssh_config(5) that includes the user's.

use super::ssh_config::SshConfig;
use super::{BoxFuture, ConnectError, HostKeys, Process, Session, Target, Transport, advice};
use openssh::{ControlPersist, Error, KnownHosts, SessionBuilder, Stdio};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;

/// How long a master outlives a controller that was killed, in seconds.
const PERSIST: NonZeroUsize = NonZeroUsize::new(30).unwrap();

/// Connects with the system's ssh.
#[derive(Default)]
pub struct Openssh {
    /// Sockets and generated configurations; private, and short: the path of a socket has at most 108 bytes.
    directory: OnceLock<Arc<TempDir>>,
}

struct OpensshSession {
    session: Arc<openssh::Session>,
    name: String,
    /// Holds the control socket; goes after the last session.
    _directory: Arc<TempDir>,
}

impl Openssh {
    fn directory(&self) -> Result<Arc<TempDir>, ConnectError> {
        if let Some(directory) = self.directory.get() {
            return Ok(directory.clone());
        }
        let made = tempfile::Builder::new().prefix("kprov-").tempdir_in("/tmp").map_err(|error| {
            ConnectError::Other(format!("cannot make a directory for ssh sockets in /tmp: {error}"))
        })?;
        Ok(self.directory.get_or_init(|| Arc::new(made)).clone())
    }
}

impl Transport for Openssh {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async move {
            let directory = self.directory()?;
            let config = SshConfig::write(target)?;
            let mut builder = SessionBuilder::default();
            builder
                .control_directory(directory.path())
                .control_persist(ControlPersist::IdleFor(PERSIST))
                .config_file(config.path())
                .connect_timeout(target.connect_timeout)
                .known_hosts_check(match target.host_keys {
                    HostKeys::Strict => KnownHosts::Strict,
                    HostKeys::AcceptNew => KnownHosts::Add,
                    HostKeys::Ignore => KnownHosts::Accept,
                });
            if let Some(user) = &target.user {
                builder.user(user.clone());
            }
            if let Some(port) = target.port {
                builder.port(port);
            }
            if let Some(key) = &target.private_key {
                builder.keyfile(key);
            }
            // ssh limits the connection itself; authentication has no limit of its own.
            let limit = target.connect_timeout * 3;
            let session = match tokio::time::timeout(limit, builder.connect_mux(&target.address)).await {
                Ok(connected) => connected.map_err(|error| explain(target, &error))?,
                Err(_) => {
                    let text = format!("{}: no session after {} s", target.address, limit.as_secs());
                    return Err(ConnectError::Unreachable(text));
                }
            };
            let session =
                OpensshSession { session: Arc::new(session), name: target.address.clone(), _directory: directory };
            Ok(Box::new(session) as Box<dyn Session>)
        })
    }
}

impl Session for OpensshSession {
    fn spawn<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Process, ConnectError>> {
        Box::pin(async move {
            let mut child = self
                .session
                .clone()
                .arc_raw_command(command)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .await
                .map_err(|error| lost(&self.name, &self.session, &error))?;
            let (Some(stdin), Some(stdout), Some(stderr)) =
                (child.stdin().take(), child.stdout().take(), child.stderr().take())
            else {
                return Err(ConnectError::Other(format!("{}: ssh opened no pipes", self.name)));
            };
            let (session, name) = (self.session.clone(), self.name.clone());
            let exit = Box::pin(async move {
                match child.wait().await {
                    Ok(status) => Ok(status.code()),
                    // The multiplexer's own reading of 127.
                    Err(Error::Remote(_)) => Ok(Some(127)),
                    Err(error) => match session.check().await {
                        Ok(()) => Ok(None),
                        Err(_) => Err(lost(&name, &session, &error)),
                    },
                }
            });
            Ok(Process { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), exit })
        })
    }
}

/// Turns what ssh wrote before it gave up into one line that says what to do.
fn explain(target: &Target, error: &Error) -> ConnectError {
    let text = match error {
        Error::Connect(error) if error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            let text = "there is no ssh on this machine; install it (openssh-client) or use ansible_connection=russh";
            return ConnectError::Other(text.to_owned());
        }
        Error::Connect(error) => error.to_string(),
        Error::Master(error) => return ConnectError::Other(format!("cannot start ssh: {error}")),
        other => other.to_string(),
    };
    classify(target, &text)
}

fn classify(target: &Target, text: &str) -> ConnectError {
    let address = &target.address;
    // The last line that says something; ssh closes its log lines with CR LF.
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("ssh gave no reason");
    let offending = text.lines().find_map(|line| line.trim().strip_prefix("Offending ")?.split_once(" key in "));
    if text.contains("HOST IDENTIFICATION HAS CHANGED") {
        let place = offending.map_or(String::new(), |(_, place)| format!(" (the known one: {place})"));
        return ConnectError::HostKey(advice::changed_key(address, target.port, &place));
    }
    if text.contains("host key is known for") || text.contains("Host key verification failed") {
        return ConnectError::HostKey(advice::unknown_key(address, target.port, ""));
    }
    if let Some(denied) = text.lines().find(|line| line.contains("Permission denied (")) {
        return ConnectError::Authentication(advice::refused(denied.trim().trim_end_matches('.')));
    }
    if last.contains("Too many authentication failures") {
        return ConnectError::Authentication(advice::refused(last));
    }
    if text.contains("Bad configuration option") || text.contains("terminating, ") {
        let line = text.lines().find(|line| line.contains("Bad ")).unwrap_or(last).trim();
        return ConnectError::Other(format!("ssh does not accept its configuration: {line}"));
    }
    if last.contains("UNKNOWN port") {
        // What the ssh on the way said does not come here.
        let text = format!("{address}: the jump host or proxy did not let us through; `ssh {address}` says why");
        return ConnectError::Unreachable(text);
    }
    ConnectError::Unreachable(if last.contains(address.as_str()) {
        last.to_owned()
    } else {
        format!("{address}: {last}")
    })
}

/// Says why a session ended, as far as the master told.
fn lost(name: &str, session: &openssh::Session, error: &Error) -> ConnectError {
    let log = session.control_socket().with_file_name("log");
    let told = std::fs::read_to_string(log).unwrap_or_default();
    let reason = told.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.starts_with("Warning:"));
    ConnectError::Unreachable(format!("{name}: the connection was lost: {}", reason.unwrap_or(&error.to_string())))
}
