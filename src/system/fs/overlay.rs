//! Planned files, on top of those on disk. Nothing here writes.
//!
//! Keys are absolute paths without links (`Fs::walk` has followed them). What is on disk shines through except below a
//! path that is planned to be absent, to be no directory, or to be a directory made anew.

use super::{Kind, Meta, disk, errno};
use crate::system::{Result, SystemError};
use crate::value::After;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Default)]
pub struct Overlay {
    /// `None`: planned to be absent.
    entries: BTreeMap<PathBuf, Option<Node>>,
    made: u64,
}

/// A file of whatever kind, planned or on disk.
#[derive(Clone)]
pub struct Node {
    pub shape: Shape,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device and inode on disk. Planned ones are on device 0, which no file system has.
    pub id: (u64, u64),
}

#[derive(Clone)]
pub enum Shape {
    File(Data),
    /// An opaque one hides what is below it on disk.
    Directory {
        opaque: bool,
    },
    Symlink(PathBuf),
    Special(Kind),
}

#[derive(Clone)]
pub enum Data {
    /// As the file at this path holds it on disk, which a plan does not change.
    OnDisk(PathBuf),
    Bytes(Arc<[u8]>),
    Sha256(String),
    /// Known after that task.
    Unknown(After),
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn node(&self, at: &Path) -> Result<Option<Node>> {
        if let Some(entry) = self.entries.get(at) {
            return Ok(entry.clone());
        }
        Ok(if self.hides(at) { None } else { disk::lstat(at)?.map(|meta| on_disk(at, meta)) })
    }

    pub fn meta(&self, at: &Path) -> Result<Option<Meta>> {
        let Some(entry) = self.entries.get(at) else {
            return if self.hides(at) { Ok(None) } else { disk::lstat(at) };
        };
        let Some(node) = entry else { return Ok(None) };
        let (kind, size) = match &node.shape {
            Shape::File(Data::Bytes(bytes)) => (Kind::File, Some(bytes.len() as u64)),
            Shape::File(Data::OnDisk(path)) => (Kind::File, disk::stat(path)?.and_then(|meta| meta.size)),
            Shape::File(Data::Sha256(_) | Data::Unknown(_)) => (Kind::File, None),
            Shape::Directory { .. } => (Kind::Directory, None),
            Shape::Symlink(target) => (Kind::Symlink(target.clone()), Some(target.as_os_str().len() as u64)),
            Shape::Special(kind) => (kind.clone(), None),
        };
        Ok(Some(Meta { kind, mode: node.mode, uid: node.uid, gid: node.gid, size, stamp: None }))
    }

    /// What the file at `at` holds; errors are about `path`, as it was asked for.
    pub fn data(&self, at: &Path, path: &Path) -> Result<Data> {
        match self.node(at)?.ok_or_else(|| errno(path, Errno::NOENT))?.shape {
            Shape::File(data) => Ok(data),
            Shape::Directory { .. } => Err(errno(path, Errno::ISDIR)),
            // To be read as it is: /dev/null.
            Shape::Symlink(_) | Shape::Special(_) => Ok(Data::OnDisk(at.to_owned())),
        }
    }

    pub fn read(&self, at: &Path, path: &Path) -> Result<Vec<u8>> {
        match self.data(at, path)? {
            Data::OnDisk(path) => disk::read(&path),
            Data::Bytes(bytes) => Ok(bytes.to_vec()),
            Data::Sha256(_) | Data::Unknown(_) => Err(SystemError::Unknown),
        }
    }

    pub fn open(&self, at: &Path, path: &Path) -> Result<Box<dyn Read>> {
        match self.data(at, path)? {
            Data::OnDisk(path) => disk::open(&path),
            Data::Bytes(bytes) => Ok(Box::new(Cursor::new(bytes))),
            Data::Sha256(_) | Data::Unknown(_) => Err(SystemError::Unknown),
        }
    }

    pub fn sha256(&self, at: &Path, path: &Path) -> Result<String> {
        match self.data(at, path)? {
            Data::OnDisk(path) => disk::sha256(&path),
            Data::Bytes(bytes) => Ok(disk::hex(&Sha256::digest(&bytes))),
            Data::Sha256(digest) => Ok(digest),
            Data::Unknown(_) => Err(SystemError::Unknown),
        }
    }

    pub fn list(&self, at: &Path, path: &Path) -> Result<Vec<OsString>> {
        let mut names = match self.node(at)?.ok_or_else(|| errno(path, Errno::NOENT))?.shape {
            Shape::Directory { opaque: true } => BTreeSet::new(),
            Shape::Directory { opaque: false } => disk::list(at)?.into_iter().collect(),
            _ => return Err(errno(path, Errno::NOTDIR)),
        };
        for (entry, node) in self.below(at).filter(|(entry, _)| entry.parent() == Some(at)) {
            let Some(name) = entry.file_name() else { continue };
            match node {
                Some(_) => names.insert(name.to_owned()),
                None => names.remove(name),
            };
        }
        Ok(names.into_iter().collect())
    }

    pub fn put(&mut self, at: PathBuf, shape: Shape, mode: u32, uid: u32, gid: u32) {
        self.made += 1;
        self.entries.insert(at, Some(Node { shape, mode, uid, gid, id: (0, self.made) }));
    }

    /// Changes a node that is there, under all its names that are known here.
    pub fn change(&mut self, at: &Path, change: impl Fn(&mut Node)) -> Result<()> {
        let Some(node) = self.node(at)? else { return Err(errno(at, Errno::NOENT)) };
        let id = node.id;
        self.entries.insert(at.to_owned(), Some(node));
        self.entries.values_mut().flatten().filter(|node| node.id == id).for_each(change);
        Ok(())
    }

    pub fn link(&mut self, from: &Path, to: PathBuf) -> Result<()> {
        let Some(node) = self.node(from)? else { return Err(errno(from, Errno::NOENT)) };
        self.entries.insert(from.to_owned(), Some(node.clone()));
        self.entries.insert(to, Some(node));
        Ok(())
    }

    pub fn remove(&mut self, at: PathBuf) {
        let below: Vec<_> = self.below(&at).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.entries.remove(&path);
        }
        self.entries.insert(at, None);
    }

    /// Entries strictly below a directory.
    fn below<'a>(&'a self, at: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Option<Node>)> {
        self.entries
            .range(at.to_owned()..)
            .skip_while(move |(path, _)| *path == at)
            .take_while(move |(path, _)| path.starts_with(at))
    }

    /// Whether an ancestor is planned to be something that has nothing of the disk below it.
    fn hides(&self, at: &Path) -> bool {
        at.ancestors()
            .skip(1)
            .find_map(|ancestor| self.entries.get(ancestor))
            .is_some_and(|nearest| !matches!(nearest, Some(Node { shape: Shape::Directory { opaque: false }, .. })))
    }
}

fn on_disk(at: &Path, meta: Meta) -> Node {
    let shape = match meta.kind {
        Kind::File => Shape::File(Data::OnDisk(at.to_owned())),
        Kind::Directory => Shape::Directory { opaque: false },
        Kind::Symlink(target) => Shape::Symlink(target),
        special => Shape::Special(special),
    };
    let id = meta.stamp.map_or((0, 0), |stamp| (stamp.dev, stamp.ino));
    Node { shape, mode: meta.mode, uid: meta.uid, gid: meta.gid, id }
}
