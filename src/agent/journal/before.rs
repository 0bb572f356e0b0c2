//! Before-images: what a step replaces or removes, kept until the run is forgotten.
//!
//! An image is a copy, private whatever the mode of the file was; the journal has mode and owner. It is on the disk when
//! [`Images::keep`] returns. What is larger than the limits is not kept, but has its size and digest recorded.

use super::entry::{Before, Kind};
use crate::agent::protocol::Keep;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where images are, below the run's directory.
pub(super) const IMAGES: &str = "before";
/// How many entries of a removed tree are recorded one by one.
const MAX_TREE: usize = 1000;

pub(super) struct Images {
    directory: PathBuf,
    /// The largest file that is kept, in bytes.
    file: u64,
    /// How many bytes may still be kept.
    left: u64,
    /// How many bytes of what is not kept are still worth reading for a digest.
    digests: u64,
    limits: Keep,
    count: u32,
    /// What the step in hand has recorded already, and whether as a whole.
    seen: HashMap<PathBuf, bool>,
}

impl Images {
    pub(super) fn new(run: &Path, limits: Keep) -> io::Result<Self> {
        let directory = run.join(IMAGES);
        let mut kept = 0;
        for entry in fs::read_dir(&directory)? {
            kept += entry?.metadata()?.len();
        }
        let bytes = |mb: u32| u64::from(mb) << 20;
        Ok(Self {
            directory,
            file: bytes(limits.file_mb),
            left: bytes(limits.run_mb).saturating_sub(kept),
            digests: bytes(limits.run_mb),
            limits,
            count: 0,
            seen: HashMap::new(),
        })
    }

    pub(super) fn next_step(&mut self) {
        self.count = 0;
        self.seen.clear();
        self.digests = u64::from(self.limits.run_mb) << 20;
    }

    /// What is at a path, once a step: what it made or replaced itself is of no interest.
    pub(super) fn keep(&mut self, step: u32, at: &Path, whole: bool) -> io::Result<Vec<Before>> {
        if self.seen.get(at).is_some_and(|seen| *seen || !whole) {
            return Ok(Vec::new());
        }
        let found = match fs::symlink_metadata(at) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.seen.insert(at.to_owned(), true);
                return Ok(vec![Before { step, path: name(at), ..Before::default() }]);
            }
            Err(error) => return Err(error),
        };
        self.seen.insert(at.to_owned(), whole);
        let images = self.count;
        let mut records = vec![self.one(step, at, &found, whole, true)?];
        if whole && found.is_dir() {
            self.tree(step, at, &mut records)?;
        }
        if self.count > images {
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(records)
    }

    /// What is in a directory, parents first.
    fn tree(&mut self, step: u32, root: &Path, records: &mut Vec<Before>) -> io::Result<()> {
        let mut directories = vec![root.to_owned()];
        let (mut more, mut size) = (0_u64, 0);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                let found = fs::symlink_metadata(&path)?;
                if found.is_dir() {
                    directories.push(path.clone());
                }
                if records.len() > MAX_TREE {
                    more += 1;
                    size += if found.is_file() { found.len() } else { 0 };
                } else {
                    records.push(self.one(step, &path, &found, true, false)?);
                }
            }
        }
        if more > 0 {
            let not_kept = Some(format!("more than {MAX_TREE} entries in the tree; {more} are left out"));
            let path = name(root);
            records.push(Before { step, path, kind: Kind::Rest, size: Some(size), not_kept, ..Before::default() });
        }
        Ok(())
    }

    /// One entry of a file system; of a directory not what is in it. The digest of what is not kept costs reading it, which
    /// has its limit where many files go at once.
    fn one(&mut self, step: u32, at: &Path, found: &fs::Metadata, whole: bool, alone: bool) -> io::Result<Before> {
        let kind = match found.file_type() {
            t if t.is_file() => Kind::File,
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Link,
            _ => Kind::Special,
        };
        let mut record = Before {
            step,
            path: name(at),
            kind,
            attributes: !whole,
            mode: Some(format!("{:04o}", found.mode() & 0o7777)),
            uid: Some(found.uid()),
            gid: Some(found.gid()),
            ..Before::default()
        };
        match kind {
            Kind::Link => record.target = Some(name(&fs::read_link(at)?)),
            Kind::File if whole => {
                let size = found.len();
                record.size = Some(size);
                if size > self.file || size > self.left {
                    let (limit, variable) = match size > self.file {
                        true => (self.limits.file_mb, "kprov_record_file_mb"),
                        false => (self.limits.run_mb, "kprov_record_mb"),
                    };
                    record.not_kept = Some(format!("larger than {variable} ({limit}) allows"));
                    if alone || size <= self.digests {
                        self.digests = self.digests.saturating_sub(size);
                        record.sha256 = Some(copy(at, &mut io::sink())?.1);
                    }
                } else {
                    let (image, copied, sha256) = self.image(step, at)?;
                    self.left = self.left.saturating_sub(copied);
                    (record.image, record.sha256) = (Some(format!("{IMAGES}/{image}")), Some(sha256));
                }
            }
            _ => {}
        }
        Ok(record)
    }

    /// Copies a file; returns the image's name, its length and its SHA-256.
    fn image(&mut self, step: u32, at: &Path) -> io::Result<(String, u64, String)> {
        loop {
            self.count += 1;
            let name = format!("{step}.{}", self.count);
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.directory.join(&name));
            let mut file = match made {
                // Of an agent of this run that was cut off before it could record it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            };
            let (length, sha256) = copy(at, &mut file)?;
            file.sync_all()?;
            return Ok((name, length, sha256));
        }
    }
}

fn copy(from: &Path, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut source = File::open(from)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut length = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok((length, crate::agent::needs::hex(&digest.finalize()))),
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                digest.update(&buffer[..n]);
                length += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
