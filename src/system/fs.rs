//! Files: metadata, content, atomic replacement; with an overlay when planning.

use super::{Mode, Result};
use std::path::{Path, PathBuf};

/// What kind of thing a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(PathBuf),
    Other,
}

/// What `lstat` says, as far as modules use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// Who owns a file; `None` leaves it as it is (or as a new file gets it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// What a file shall hold.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    /// A complete file already on this node, to be moved into place (same file system). Its digest is known.
    Staged {
        path: PathBuf,
        sha256: String,
    },
    /// Planning only: bytes that will be fetched, of which the digest is known.
    Blob {
        sha256: String,
        size: u64,
    },
    /// Planning only: known after apply.
    Unknown,
}

/// The node's files.
pub struct Fs {
    mode: Mode,
}

impl Fs {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode }
    }

    /// Metadata of the path itself (a link is not followed); `None` where nothing is.
    pub fn lstat(&self, _path: &Path) -> Result<Option<Meta>> {
        let _ = self.mode;
        unimplemented!()
    }
}
