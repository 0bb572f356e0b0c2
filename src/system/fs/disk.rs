//! What [`super::Fs`] does on a real system. Preconditions were checked and defaults filled in by the caller.

use super::{Content, Kind, Meta, MetadataExt, Stamp, Touch, absent, temporary};
use crate::system::{Result, SystemError};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

pub fn lstat(path: &Path) -> Result<Option<Meta>> {
    meta(path, fs::symlink_metadata(path))
}

pub fn stat(path: &Path) -> Result<Option<Meta>> {
    meta(path, fs::metadata(path))
}

fn meta(path: &Path, result: io::Result<fs::Metadata>) -> Result<Option<Meta>> {
    let found = match result {
        Ok(found) => found,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(SystemError::file(path)(error)),
    };
    let kind = match found.file_type() {
        t if t.is_file() => Kind::File,
        t if t.is_dir() => Kind::Directory,
        t if t.is_symlink() => Kind::Symlink(fs::read_link(path).map_err(SystemError::file(path))?),
        t if t.is_block_device() => Kind::BlockDevice,
        t if t.is_char_device() => Kind::CharDevice,
        t if t.is_fifo() => Kind::Fifo,
        _ => Kind::Socket,
    };
    let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Ok(Some(Meta {
        kind,
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        size: Some(found.len()),
        stamp: Some(Stamp {
            dev: found.dev(),
            ino: found.ino(),
            nlink: found.nlink(),
            atime: ns(found.atime(), found.atime_nsec()),
            mtime: ns(found.mtime(), found.mtime_nsec()),
            ctime: ns(found.ctime(), found.ctime_nsec()),
        }),
    }))
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(SystemError::file(path))
}

pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    Ok(Box::new(File::open(path).map_err(SystemError::file(path))?))
}

pub fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut file = File::open(path).map_err(SystemError::file(path))?;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SystemError::file(path)(error)),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn list(path: &Path) -> Result<Vec<OsString>> {
    let mut names = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>())
        .map_err(SystemError::file(path))?;
    names.sort();
    Ok(names)
}

/// Writes a temporary file beside `path` and renames it. The temporary file is gone on every way out but a kill.
pub fn write(path: &Path, content: &Content, mode: u32, uid: u32, gid: u32) -> Result<()> {
    let staged = match content {
        Content::Staged { path: staged, .. } => TempPath::try_from_path(staged),
        _ => Ok(fill(path, content)?),
    };
    let put = |staged: TempPath| -> io::Result<()> {
        let file = File::open(&staged)?;
        own(&file, mode, uid, gid)?;
        file.sync_all()?;
        staged.persist(path)?;
        sync_directory(path)
    };
    staged.and_then(put).map_err(failed(path))
}

pub fn stage(path: &Path, content: &Content) -> Result<PathBuf> {
    fill(path, content)?.keep().map_err(|error| failed(path)(error.error))
}

/// Writes the content to a temporary file beside `path`.
fn fill(path: &Path, content: &Content) -> Result<TempPath> {
    let mut source: Box<dyn Read> = match content {
        Content::Bytes(bytes) => Box::new(bytes.as_slice()),
        Content::CopyOf(from) | Content::Staged { path: from, .. } => {
            Box::new(File::open(from).map_err(SystemError::file(from))?)
        }
        Content::Blob { .. } | Content::Unknown(_) => return Err(SystemError::Unknown),
    };
    let mut write = || -> io::Result<TempPath> {
        let mut file = temporary::file_in(directory(path))?;
        io::copy(&mut source, file.as_file_mut())?;
        Ok(file.into_temp_path())
    };
    write().map_err(failed(path))
}

fn directory(path: &Path) -> &Path {
    super::parent(path).unwrap_or(Path::new("."))
}

/// Owner first: changing it may clear mode bits.
fn own(file: &File, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let found = file.metadata()?;
    if (found.uid(), found.gid()) != (uid, gid) {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Under a temporary name first: a directory that is there is left as it is, so it must not be there with another mode.
pub fn mkdir(path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
    let put = || -> io::Result<()> {
        let made = temporary::directory_in(directory(path))?;
        own(&File::open(made.path())?, mode, uid, gid)?;
        fs::rename(made.path(), path)?;
        // Nothing is left of it under that name.
        let _ = made.keep();
        sync_directory(path)
    };
    put().map_err(failed(path))
}

pub fn symlink(path: &Path, target: &Path) -> Result<()> {
    replace(path, |temporary| std::os::unix::fs::symlink(target, temporary))
}

pub fn hard_link(path: &Path, existing: &Path) -> Result<()> {
    replace(path, |temporary| fs::hard_link(existing, temporary))
}

/// Makes something under a temporary name beside `path` and renames it.
fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    // Dropping the temporary path removes what is still under it: rename(2) does nothing between two names of one file.
    let put = || -> io::Result<()> {
        let made = temporary::make_in(directory(path), &make)?;
        fs::rename(made.path(), path)?;
        sync_directory(path)
    };
    put().map_err(failed(path))
}

pub fn remove(path: &Path, directory: bool) -> Result<()> {
    let removed = if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.and_then(|()| sync_directory(path)).map_err(failed(path))
}

/// Has a name that was made or removed at `path` outlast a loss of power.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// An error where something is mounted in a tree. `at` is `path` without links in it.
pub fn refuse_mounts(path: &Path, at: &Path) -> Result<()> {
    match mounted_below(at)? {
        None => Ok(()),
        Some(mounted) => Err(SystemError::Other(format!(
            "{}: not removed, since something is mounted at {mounted}; unmount it first",
            path.display()
        ))),
    }
}

/// A mount point at or below `path`, from proc_pid_mountinfo(5).
fn mounted_below(path: &Path) -> Result<Option<String>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read_to_string(TABLE).map_err(SystemError::file(TABLE))?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
        .find(|point| Path::new(point).starts_with(path)))
}

/// Through a descriptor of the path itself: chmod(2) would follow a link that was put there in between.
pub fn chmod(path: &Path, mode: u32) -> Result<()> {
    let set = || -> io::Result<()> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode))?)
    };
    set().map_err(failed(path))
}

pub fn chown(path: &Path, uid: u32, gid: u32) -> Result<()> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(rustix::fs::CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed(path)(error.into()))
}

pub fn touch(path: &Path, times: Touch) -> Result<()> {
    let time = |now| Timespec { tv_sec: 0, tv_nsec: if now { UTIME_NOW } else { UTIME_OMIT } };
    let times = Timestamps { last_access: time(times.access), last_modification: time(times.modification) };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed(path)(error.into()))
}

/// Says in words what an operator has to mend.
fn failed(path: &Path) -> impl Fn(io::Error) -> SystemError {
    move |error| {
        let words = match error.kind() {
            io::ErrorKind::StorageFull => "no space left on its file system; free some and run again",
            io::ErrorKind::QuotaExceeded => "disk quota exceeded on its file system",
            io::ErrorKind::ReadOnlyFilesystem => "its file system is mounted read-only",
            io::ErrorKind::ResourceBusy => "is a mount point, which cannot be replaced",
            io::ErrorKind::CrossesDevices => "staged on another file system",
            // An error of `tempfile` names the temporary file, which is of no interest.
            kind if error.raw_os_error().is_none() => return SystemError::file(path)(kind.into()),
            _ => return SystemError::file(path)(error),
        };
        SystemError::file(path)(io::Error::new(error.kind(), words))
    }
}
