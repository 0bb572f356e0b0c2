//! How a host is reached: `openssh` (the system's ssh), `russh` (pure Rust), `local`.
//!
//! A [`Transport`] connects to a [`Target`] and starts programs there with pipes. Authentication, host keys and jump hosts
//! are its business; agents, tasks and sudo are not (`agent::client` puts sudo into the command line it starts).

mod local;
mod openssh;
mod russh;
mod ssh_config;
mod target;

pub use local::Local;
pub use openssh::Openssh;
pub use russh::Russh;
pub use target::{ConnectionFlags, TargetError};

use crate::vars::Secret;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where a host is and how to get in, from the connection variables and flags.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name in the inventory.
    pub host: String,
    pub connection: Connection,
    /// `ansible_host`, or the inventory name.
    pub address: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub private_key: Option<PathBuf>,
    /// Files of known host keys; empty: the user's own.
    pub known_hosts: Vec<PathBuf>,
    pub host_keys: HostKeys,
    /// An ssh_config to read instead of the user's.
    pub ssh_config: Option<PathBuf>,
    /// Further options of ssh_config(5), stronger than those of the files.
    pub options: Vec<(String, String)>,
    pub connect_timeout: Duration,
    pub escalation: Option<Become>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Openssh,
    Russh,
    Local,
}

/// What is done with the key that a host shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeys {
    /// It must be known.
    Strict,
    /// A host that was never seen is added to the known ones; a changed key is refused.
    AcceptNew,
    /// Any key is taken. Has to be said: `ansible_host_key_checking=false`.
    Ignore,
}

/// Another user to become, through sudo.
#[derive(Clone, Debug)]
pub struct Become {
    pub user: String,
    pub password: Option<Secret>,
}

/// Why a host could not be reached. One line each; the message says what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("host key: {0}")]
    HostKey(String),
    #[error("authentication: {0}")]
    Authentication(String),
    #[error("{0}")]
    Other(String),
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A way to reach hosts.
pub trait Transport: Send + Sync {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, ConnectError>>;
}

/// A connection to one host. It ends when it is dropped and none of its programs runs.
pub trait Session: Send + Sync {
    /// Starts `command` with the remote user's shell.
    fn spawn<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Process, ConnectError>>;
}

/// A program that runs on the other end.
pub struct Process {
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Resolves to the exit code when the program ends, `None` when a signal ended it; an error when the connection
    /// ended first.
    pub exit: BoxFuture<'static, Result<Option<i32>, ConnectError>>,
}

/// All the ways, each made when it is first needed.
#[derive(Default)]
pub struct Transports {
    openssh: std::sync::OnceLock<Openssh>,
}

impl Transport for Transports {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, ConnectError>> {
        match target.connection {
            Connection::Openssh => self.openssh.get_or_init(Openssh::default).connect(target),
            Connection::Russh => Russh.connect(target),
            Connection::Local => Local.connect(target),
        }
    }
}

/// How ssh writes a host in known_hosts.
fn known_name(address: &str, port: Option<u16>) -> String {
    match port {
        None | Some(22) => address.to_owned(),
        Some(port) => format!("[{address}]:{port}"),
    }
}

fn changed_key(address: &str, port: Option<u16>, place: &str) -> String {
    let name = known_name(address, port);
    format!(
        "the key of {name} has changed{place}; if the host was rebuilt, forget the old one with `ssh-keygen -R '{name}'`, \
         else somebody may be listening in"
    )
}

fn unknown_key(address: &str, port: Option<u16>, fingerprint: &str) -> String {
    let name = known_name(address, port);
    format!(
        "the key of {name} is not known{fingerprint}; connect once with ssh and compare its fingerprint, \
         or say ansible_host_key_checking=false"
    )
}

fn refused(reason: &str) -> String {
    format!("{reason}; check ansible_user (-u), the key (--private-key, ssh-add -l) and authorized_keys on the host")
}
