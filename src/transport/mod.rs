//! How a host is reached: `openssh` (the system's ssh), `russh` (pure Rust), `local`.
//!
//! A [`Transport`] connects to a [`Target`] and starts programs there with pipes. Authentication, host keys and jump hosts
//! are its business; agents, tasks and sudo are not (`agent::client` puts sudo into the command line it starts).

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
    pub host_key_checking: bool,
    /// An ssh_config to read instead of the user's.
    pub ssh_config: Option<PathBuf>,
    pub connect_timeout: Duration,
    pub escalation: Option<Become>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Openssh,
    Russh,
    Local,
}

/// Another user to become, through sudo.
#[derive(Clone, Debug)]
pub struct Become {
    pub user: String,
    pub password: Option<Secret>,
}

/// Why a host could not be reached. One line each; the message says what to do.
#[derive(Debug, thiserror::Error)]
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

/// A connection to one host.
pub trait Session: Send + Sync {
    /// Starts `command` with the remote user's shell.
    fn spawn<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Process, ConnectError>>;
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A program that runs on the other end.
pub struct Process {
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Resolves to the exit code when the program ends; an error when the connection ended first.
    pub exit: BoxFuture<'static, Result<i32, ConnectError>>,
}
