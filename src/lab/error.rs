//! What can go wrong with a lab.

use crate::source::InputError;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Something asked for cannot be: a bad name, a subnet that is taken, an unknown node.
    #[error(transparent)]
    Input(#[from] InputError),
    /// This machine lacks something; the text says what and how to get it.
    #[error("kprov lab needs {}", .0.join("; "))]
    Missing(Vec<String>),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A program that we ran failed; `reason` is what it said, or how it ended.
    #[error("`{command}` failed: {reason}")]
    Command { command: String, reason: String },
    #[error(
        "node {node} did not answer on ssh at {address} within {} s (last: {last}); look at {}, or inside with `kprov lab exec`",
        within.as_secs(), log.display()
    )]
    NotAnswering { node: String, address: std::net::Ipv4Addr, within: Duration, last: String, log: PathBuf },
    /// The node's systemd-nspawn ended while we waited for ssh.
    #[error("node {node} stopped while it booted; the end of {}:\n{tail}", log.display())]
    Stopped { node: String, log: PathBuf, tail: String },
    /// Cleaning up went as far as it could.
    #[error("lab {name}: could not remove {}; run `kprov lab down --name {name}` again", what.join("; "))]
    Left { name: String, what: Vec<String> },
}

impl LabError {
    /// For `map_err` on file operations.
    pub(super) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_owned(), source }
    }
}
