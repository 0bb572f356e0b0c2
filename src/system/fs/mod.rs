//! Files: metadata, content, atomic replacement; with an overlay when planning.
//!
//! Every reading method answers for the node as earlier changes leave it: on a planning system the overlay is asked first,
//! also for the links that a path leads through. Every change goes through one method here, which works out the result
//! (kept or default mode, owner, errors) the same way for both kinds of system, and only then touches the disk or the
//! overlay. A new file gets 0644 and a new directory 0755 unless told otherwise, whatever the umask is.
//!
//! No method follows a link in the last component of a path that it changes: [`Fs::resolve`] first, if that is wanted.

mod disk;
mod overlay;
mod temporary;
#[cfg(test)]
mod tests;

use super::{Mode, Result, SystemError};
use crate::value::After;
use overlay::{Data, Node, Overlay, Shape};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
pub use temporary::file_in as temporary_file;

/// What kind of thing a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(PathBuf),
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

/// What `lstat` says, as far as modules use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes; `None` where it is known after apply.
    pub size: Option<u64>,
    /// What the kernel keeps about a file that is on disk as it is described here; `None` for a planned one.
    pub stamp: Option<Stamp>,
}

impl Meta {
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
    pub fn is_symlink(&self) -> bool {
        matches!(self.kind, Kind::Symlink(_))
    }
}

/// Identity and times of a file on disk: the same stamp, the same content (as far as the kernel's clock can tell).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    /// Nanoseconds since 1970.
    pub atime: i128,
    pub mtime: i128,
    pub ctime: i128,
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
    /// What another file on this node holds now.
    CopyOf(PathBuf),
    /// Planning only: bytes that will be fetched, of which the digest is known.
    Blob {
        sha256: String,
    },
    /// Planning only: known after that task.
    Unknown(After),
}

impl Content {
    /// Known after the task at hand.
    pub fn later() -> Self {
        Self::Unknown(After::default())
    }
}

/// Which times [`Fs::touch`] sets to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    pub access: bool,
    pub modification: bool,
}

/// Is told of a path without links before what is there is replaced or removed (`true`), or before its mode or owner are
/// changed. An error keeps the change from being made.
pub type Keep = Box<dyn FnMut(&Path, bool) -> Result<()> + Send>;

/// The node's files.
pub struct Fs {
    overlay: Option<Overlay>,
    keep: Option<Keep>,
    /// The task that the next changes are of.
    at_hand: After,
}

/// Reading.
impl Fs {
    pub(super) fn new(mode: Mode) -> Self {
        Self { overlay: (mode == Mode::Plan).then(Overlay::default), keep: None, at_hand: After::default() }
    }

    pub(super) fn begin(&mut self, task: After) {
        self.at_hand = task;
    }

    /// From here on, has everything kept that is changed on the disk.
    pub(super) fn keep(&mut self, keep: Keep) {
        self.keep = Some(keep);
    }

    /// Metadata of the path itself (a link is not followed); `None` where nothing is.
    pub fn lstat(&self, path: &Path) -> Result<Option<Meta>> {
        match self.planned() {
            None => disk::lstat(path),
            Some(overlay) => overlay.meta(&self.walk(path, false)?),
        }
    }

    /// Metadata of what the path leads to, through links; `None` where nothing is, as at the end of a dangling link.
    pub fn stat(&self, path: &Path) -> Result<Option<Meta>> {
        match self.planned() {
            None => disk::stat(path),
            Some(overlay) => overlay.meta(&self.walk(path, true)?),
        }
    }

    /// Whether the path leads to something.
    pub fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.stat(path)?.is_some())
    }

    /// The absolute path without links that this one leads to. Its last components need not exist.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        self.walk(path, true)
    }

    /// The whole content. [`SystemError::Unknown`] where it is only planned and not known yet.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        match self.planned() {
            None => disk::read(path),
            Some(overlay) => overlay.read(&self.walk(path, true)?, path),
        }
    }

    /// As [`Fs::read`]; `None` where nothing is.
    pub fn read_opt(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match self.read(path) {
            Err(SystemError::File { source, .. }) if absent(&source) => Ok(None),
            other => other.map(Some),
        }
    }

    /// As [`Fs::read`]; an error where the content is not UTF-8.
    pub fn read_to_string(&self, path: &Path) -> Result<String> {
        String::from_utf8(self.read(path)?)
            .map_err(|_| SystemError::file(path)(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text")))
    }

    /// The content, for files too long to be held. Errors as [`Fs::read`].
    pub fn open(&self, path: &Path) -> Result<Box<dyn io::Read>> {
        match self.planned() {
            None => disk::open(path),
            Some(overlay) => overlay.open(&self.walk(path, true)?, path),
        }
    }

    /// The file itself, for one that is read in places. [`SystemError::Unknown`] where its content is only planned.
    pub fn file(&self, path: &Path) -> Result<std::fs::File> {
        let at = match self.planned() {
            None => path.to_owned(),
            Some(overlay) => match overlay.data(&self.walk(path, true)?, path)? {
                Data::OnDisk(at) => at,
                _ => return Err(SystemError::Unknown),
            },
        };
        std::fs::File::open(at).map_err(SystemError::file(path))
    }

    /// SHA-256 of the content, in hex. Known for some planned files of which the content is not.
    pub fn sha256(&self, path: &Path) -> Result<String> {
        match self.planned() {
            None => disk::sha256(path),
            Some(overlay) => overlay.sha256(&self.walk(path, true)?, path),
        }
    }

    /// The task after which the content is known; `None` where it is known already, or nothing is there.
    pub fn after(&self, path: &Path) -> Result<Option<After>> {
        let Some(overlay) = self.planned() else { return Ok(None) };
        Ok(match overlay.node(&self.walk(path, true)?)? {
            Some(Node { shape: Shape::File(Data::Unknown(after)), .. }) => Some(after),
            _ => None,
        })
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: &Path) -> Result<Vec<OsString>> {
        match self.planned() {
            None => disk::list(path),
            Some(overlay) => overlay.list(&self.walk(path, true)?, path),
        }
    }

    /// Whether both paths are there and name one file (hard links of each other). Links are not followed.
    pub fn same_file(&self, a: &Path, b: &Path) -> Result<bool> {
        Ok(match self.planned() {
            None => match (disk::lstat(a)?, disk::lstat(b)?) {
                (Some(Meta { stamp: Some(a), .. }), Some(Meta { stamp: Some(b), .. })) => {
                    (a.dev, a.ino) == (b.dev, b.ino)
                }
                _ => false,
            },
            Some(overlay) => match (overlay.node(&self.walk(a, false)?)?, overlay.node(&self.walk(b, false)?)?) {
                (Some(a), Some(b)) => a.id == b.id,
                _ => false,
            },
        })
    }

    /// The overlay, if there is anything in it.
    fn planned(&self) -> Option<&Overlay> {
        self.overlay.as_ref().filter(|overlay| !overlay.is_empty())
    }

    /// Whether there is a directory at a path without links.
    fn is_directory(&self, at: &Path) -> Result<bool> {
        let meta = match self.planned() {
            None => disk::lstat(at),
            Some(overlay) => overlay.meta(at),
        };
        Ok(meta?.is_some_and(|meta| meta.is_dir()))
    }

    /// Follows the links in `path`, the last component's only if `last`, as path_resolution(7) has it.
    fn walk(&self, path: &Path, last: bool) -> Result<PathBuf> {
        const MAX_LINKS: usize = 40;
        let absolute = std::path::absolute(path).map_err(SystemError::file(path))?;
        let mut rest: VecDeque<OsString> = names(&absolute).collect();
        let mut out = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." && self.is_directory(&out)? {
                out.pop();
                continue;
            }
            out.push(&name);
            if rest.is_empty() && !last {
                break;
            }
            let target = match self.planned() {
                None => match disk::lstat(&out)? {
                    Some(Meta { kind: Kind::Symlink(target), .. }) => target,
                    _ => continue,
                },
                Some(overlay) => match overlay.node(&out)? {
                    Some(Node { shape: Shape::Symlink(target), .. }) => target,
                    _ => continue,
                },
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(errno(path, Errno::LOOP));
            }
            out.pop();
            if target.is_absolute() {
                out = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(out)
    }
}

/// Changing.
impl Fs {
    /// Puts a file in place, atomically: readers see the old content or the new, and so does who comes after a crash. Mode
    /// and owner are those given, else those of the file that is replaced. A link there is replaced, not followed.
    pub fn write(&mut self, path: &Path, content: Content, mode: Option<u32>, owner: Owner) -> Result<()> {
        let existing = self.lstat(path)?;
        let fresh = self.fresh(path, 0o644)?;
        let (default_mode, default_owner) = match existing {
            None | Some(Meta { kind: Kind::Symlink(_), .. }) => fresh,
            Some(Meta { kind: Kind::File, mode, uid, gid, .. }) => (mode, (uid, gid)),
            Some(Meta { kind: Kind::Directory, .. }) => return Err(errno(path, Errno::ISDIR)),
            Some(_) => return Err(SystemError::Other(format!("{}: not a regular file", path.display()))),
        };
        let mode = mode.unwrap_or(default_mode);
        let (uid, gid) = (owner.uid.unwrap_or(default_owner.0), owner.gid.unwrap_or(default_owner.1));
        let at = self.walk(path, false)?;
        self.before(&at, true)?;
        let planned = match &self.overlay {
            None => return disk::write(path, &content, mode, uid, gid),
            Some(overlay) => match content {
                Content::Bytes(bytes) => Data::Bytes(bytes.into()),
                Content::Staged { sha256, .. } | Content::Blob { sha256 } => Data::Sha256(sha256),
                Content::CopyOf(from) => overlay.data(&self.walk(&from, true)?, &from)?,
                Content::Unknown(after) if after.is_at_hand() => Data::Unknown(self.at_hand.clone()),
                Content::Unknown(after) => Data::Unknown(after),
            },
        };
        self.plan(at, Shape::File(planned), mode, (uid, gid));
        Ok(())
    }

    /// Writes the content to a new, private file beside `path`, to be looked at before it is put in place with
    /// [`Fs::write`]. When planning, the content is returned as it is.
    pub fn stage(&mut self, path: &Path, content: Content) -> Result<Content> {
        if self.overlay.is_some() || matches!(content, Content::Staged { .. }) {
            return Ok(content);
        }
        self.fresh(path, 0)?;
        let staged = disk::stage(path, &content)?;
        Ok(Content::Staged { sha256: disk::sha256(&staged)?, path: staged })
    }

    /// Makes a directory and the ones above it that are missing, all with this mode and owner. One that is there already
    /// is left as it is.
    pub fn mkdir_all(&mut self, path: &Path, mode: Option<u32>, owner: Owner) -> Result<()> {
        match self.stat(path)? {
            Some(meta) if meta.is_dir() => return Ok(()),
            Some(_) => return Err(errno(path, Errno::NOTDIR)),
            None if self.lstat(path)?.is_some() => return Err(errno(path, Errno::EXIST)),
            None => {}
        }
        if let Some(parent) = parent(path) {
            self.mkdir_all(parent, mode, owner)?;
        }
        let (default_mode, default_owner) = self.fresh(path, 0o755)?;
        let mode = mode.unwrap_or(default_mode);
        let (uid, gid) = (owner.uid.unwrap_or(default_owner.0), owner.gid.unwrap_or(default_owner.1));
        let at = self.walk(path, false)?;
        self.before(&at, true)?;
        if self.plan(at, Shape::Directory { opaque: true }, mode, (uid, gid)) {
            return Ok(());
        }
        disk::mkdir(path, mode, uid, gid)
    }

    /// Puts a symbolic link in place, atomically, also where a file or another link is.
    pub fn symlink(&mut self, path: &Path, target: &Path) -> Result<()> {
        if self.lstat(path)?.is_some_and(|meta| meta.is_dir()) {
            return Err(errno(path, Errno::ISDIR));
        }
        let (_, owner) = self.fresh(path, 0)?;
        let at = self.walk(path, false)?;
        self.before(&at, true)?;
        if self.plan(at, Shape::Symlink(target.to_owned()), 0o777, owner) {
            return Ok(());
        }
        disk::symlink(path, target)
    }

    /// Puts a second name of the file `existing` in place, atomically, also where another file is.
    pub fn hard_link(&mut self, path: &Path, existing: &Path) -> Result<()> {
        match self.lstat(existing)? {
            None => return Err(errno(existing, Errno::NOENT)),
            Some(meta) if meta.is_dir() => return Err(errno(existing, Errno::PERM)),
            Some(_) => {}
        }
        if self.lstat(path)?.is_some_and(|meta| meta.is_dir()) {
            return Err(errno(path, Errno::ISDIR));
        }
        self.fresh(path, 0)?;
        let (from, to) = (self.walk(existing, false)?, self.walk(path, false)?);
        self.before(&to, true)?;
        match &mut self.overlay {
            None => disk::hard_link(path, existing),
            Some(overlay) => overlay.link(&from, to),
        }
    }

    /// Removes a file, a link, or a directory with all that is in it; nothing there is fine. Refuses a tree in which
    /// something is mounted.
    pub fn remove(&mut self, path: &Path) -> Result<()> {
        let Some(meta) = self.lstat(path)? else { return Ok(()) };
        let at = self.walk(path, false)?;
        if at == Path::new("/") {
            return Err(errno(path, Errno::BUSY));
        }
        if self.overlay.is_none() && meta.is_dir() {
            disk::refuse_mounts(path, &at)?;
        }
        self.before(&at, true)?;
        match &mut self.overlay {
            None => disk::remove(path, meta.is_dir()),
            Some(overlay) => {
                overlay.remove(at);
                Ok(())
            }
        }
    }

    /// Sets the permission bits. A link has none to set.
    pub fn chmod(&mut self, path: &Path, mode: u32) -> Result<()> {
        match self.lstat(path)? {
            None => return Err(errno(path, Errno::NOENT)),
            Some(meta) if meta.is_symlink() => return Err(errno(path, Errno::OPNOTSUPP)),
            Some(_) => {}
        }
        let at = self.walk(path, false)?;
        self.before(&at, false)?;
        match &mut self.overlay {
            None => disk::chmod(path, mode),
            Some(overlay) => overlay.change(&at, |node| node.mode = mode),
        }
    }

    /// Sets owner and group, of a link itself. As in chown(2), an executable file loses its set-user-ID and set-group-ID
    /// bits, so set the mode afterwards.
    pub fn chown(&mut self, path: &Path, owner: Owner) -> Result<()> {
        let Some(meta) = self.lstat(path)? else { return Err(errno(path, Errno::NOENT)) };
        let (uid, gid) = (owner.uid.unwrap_or(meta.uid), owner.gid.unwrap_or(meta.gid));
        if (uid, gid) == (meta.uid, meta.gid) {
            return Ok(());
        }
        let at = self.walk(path, false)?;
        self.before(&at, false)?;
        match &mut self.overlay {
            None => disk::chown(path, uid, gid),
            Some(overlay) => overlay.change(&at, |node| {
                (node.uid, node.gid) = (uid, gid);
                if matches!(node.shape, Shape::File(_)) {
                    node.mode &= if node.mode & 0o010 == 0 { !0o4000 } else { !0o6000 };
                }
            }),
        }
    }

    /// Sets the times of a path to now (not of what a link leads to); makes an empty file where nothing is.
    pub fn touch(&mut self, path: &Path, times: Touch) -> Result<()> {
        if self.lstat(path)?.is_none() {
            return self.write(path, Content::Bytes(Vec::new()), None, Owner::default());
        }
        let at = self.walk(path, false)?;
        match &mut self.overlay {
            None => disk::touch(path, times),
            Some(overlay) => overlay.change(&at, |_| {}),
        }
    }

    /// Has what is at a path kept. Files that are not complete yet were never anybody's.
    fn before(&mut self, at: &Path, whole: bool) -> Result<()> {
        let temporary = at.file_name().is_some_and(temporary::is_temporary);
        match &mut self.keep {
            Some(keep) if !temporary => keep(at, whole),
            _ => Ok(()),
        }
    }

    /// Remembers a new entry, when planning.
    fn plan(&mut self, at: PathBuf, shape: Shape, mode: u32, (uid, gid): (u32, u32)) -> bool {
        self.overlay.as_mut().map(|overlay| overlay.put(at, shape, mode, uid, gid)).is_some()
    }

    /// Mode and owner that a new entry at `path` gets from its directory; an error if that is missing.
    fn fresh(&self, path: &Path, mode: u32) -> Result<(u32, (u32, u32))> {
        const SETGID: u32 = 0o2000;
        if path.file_name().is_none() {
            return Err(errno(path, Errno::ISDIR));
        }
        let directory = parent(path).unwrap_or(Path::new("."));
        let meta = self.stat(directory)?.ok_or_else(|| errno(directory, Errno::NOENT))?;
        if !meta.is_dir() {
            return Err(errno(directory, Errno::NOTDIR));
        }
        let uid = rustix::process::geteuid().as_raw();
        Ok(if meta.mode & SETGID == 0 {
            (mode, (uid, rustix::process::getegid().as_raw()))
        } else {
            (if mode & 0o111 == 0 { mode } else { mode | SETGID }, (uid, meta.gid))
        })
    }
}

/// The directory that a path is in; `None` for `/` and for a bare name.
fn parent(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn errno(path: &Path, errno: Errno) -> SystemError {
    SystemError::file(path)(errno.into())
}

/// Nothing is at a path, or it leads through something that is no directory.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
