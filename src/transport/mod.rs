//! How a host is reached: `openssh` (the system's ssh), `russh` (pure Rust), `local`.
//!
//! A [`Transport`] connects to a [`Target`] and starts programs there with pipes. Authentication, host keys and jump hosts
//! are its business; agents, tasks and sudo are not (`agent::client` puts sudo into the command line it starts).

mod advice;
mod local;
mod openssh;
mod russh;
mod ssh_config;
mod target;

pub use local::Local;
pub use openssh::Openssh;
pub use russh::Russh;
pub use target::{Become, Connection, ConnectionFlags, HostKeys, Target, TargetError};

use std::future::Future;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

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

/// All the ways.
#[derive(Default)]
pub struct Transports {
    openssh: Openssh,
}

impl Transport for Transports {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, ConnectError>> {
        match target.connection {
            Connection::Openssh => self.openssh.connect(target),
            Connection::Russh => Russh.connect(target),
            Connection::Local => Local.connect(target),
        }
    }
}
