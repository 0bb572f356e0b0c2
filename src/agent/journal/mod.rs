//! What a node remembers of runs: a journal of each, and what its steps replaced.
//!
//! `runs/RUN-ID/` in the agent's directory is for root only. `journal` in it holds one JSON object a line ([`Entry`]; the
//! format is docs/record.md): a step before it changes something, what it replaces, how it ended. What is written is on
//! the disk before the change that it is about is made. The directory appears with the first change, or at once where
//! [`RunHeader::always`] says so; tasks that change nothing write nothing. While an agent of the run is there, it holds a
//! lock on the journal, which goes with its process.
//!
//! `before` keeps what is replaced and `read` answers the controller. Nothing here undoes anything.

mod before;
mod entry;
mod read;

pub use entry::{Before, Entry, Kind, Status, VERSION};
pub(super) use read::send;

use super::protocol::{RunEnd, RunHeader, StepName};
use crate::modules::{Diff, Failure};
use crate::system::SystemError;
use before::Images;
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where journals are, below the agent's directory.
const RUNS: &str = "runs";
/// The journal in a run's directory.
const JOURNAL: &str = "journal";
/// A diff that is longer in JSON is not recorded.
const MAX_DIFF: usize = 1 << 20;

/// The record of one run on this node, as the agent writes it.
pub(super) struct Journal {
    header: RunHeader,
    directory: PathBuf,
    open: Option<Open>,
    /// The step that has begun and not ended.
    current: Option<u32>,
}

/// A journal that is there.
struct Open {
    file: File,
    /// The last step's number.
    step: u32,
    images: Images,
}

impl Journal {
    /// Writes the header where it has to be there in any case; that it cannot be written is said by the first step, or at
    /// the end.
    pub(super) fn new(state: &Path, header: RunHeader) -> Self {
        let directory = state.join(RUNS).join(&header.id);
        let mut this = Self { header, directory, open: None, current: None };
        if this.header.always {
            let _ = this.opened();
        }
        this
    }

    /// Records that a step is about to change something.
    pub(super) fn begin(&mut self, name: &StepName) -> Result<(), Failure> {
        let number = self.opened()? + 1;
        self.write(&[Entry::Step { step: number, at: now(), name: name.clone() }])?;
        if let Some(open) = &mut self.open {
            open.step = number;
            open.images.next_step();
        }
        self.current = Some(number);
        Ok(())
    }

    /// Records how the step ended that has begun; one that failed before it changed anything only in a journal that is
    /// there already.
    pub(super) fn end_step(
        &mut self,
        name: &StepName,
        seconds: f64,
        result: Result<(bool, &[Diff]), &Failure>,
    ) -> Result<(), Failure> {
        if self.current.is_none() && result.is_err() && self.open.is_some() {
            self.begin(name)?;
        }
        let Some(step) = self.current.take() else { return Ok(()) };
        let mut entries = Vec::new();
        let (status, message) = match result {
            Ok((true, diff)) => {
                if !name.no_log && !diff.is_empty() {
                    entries.push(Entry::Diff { step, diff: shortened(diff) });
                }
                (Status::Changed, None)
            }
            Ok((false, _)) => (Status::Unchanged, None),
            Err(_) if name.no_log => (Status::Failed, Some("(hidden: no_log)".to_owned())),
            Err(failure) => (Status::Failed, Some(failure.message.clone())),
        };
        entries.push(Entry::Done { step, status, seconds, message });
        self.write(&entries)
    }

    /// Records what is at a path, before the step in hand replaces it (`whole`) or its mode and owner.
    pub(super) fn before(&mut self, at: &Path, whole: bool) -> Result<(), SystemError> {
        let (Some(step), Some(open)) = (self.current, &mut self.open) else { return Ok(()) };
        let found = open.images.keep(step, at, whole).map_err(SystemError::file(&self.directory))?;
        let entries: Vec<_> = found.into_iter().map(Entry::Before).collect();
        self.write(&entries).map_err(|failure| SystemError::Other(failure.message))
    }

    /// Records the end of the run, where anything of it is recorded. Nothing can be recorded afterwards.
    pub(super) fn end(&mut self, end: RunEnd) -> Result<(), Failure> {
        if self.header.always {
            self.opened()?;
        }
        if self.open.is_none() {
            return Ok(());
        }
        let changed = end.hosts.values().filter_map(|columns| columns.get("changed")).sum();
        self.write(&[Entry::End { changed, at: now(), end }])?;
        self.open = None;
        Ok(())
    }

    /// Opens the journal; returns the number of the last step.
    fn opened(&mut self) -> Result<u32, Failure> {
        if self.open.is_none() {
            self.open = Some(self.create().map_err(|error| self.failure(&error))?);
        }
        Ok(self.open.as_ref().map_or(0, |open| open.step))
    }

    /// Makes the run's directory, or goes on with what an earlier agent of the run has begun.
    fn create(&self) -> io::Result<Open> {
        if !self.header.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') || self.header.id.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not the name of a run"));
        }
        let runs = self.directory.parent().unwrap_or(&self.directory);
        let private = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            made => made.map(|()| true),
        };
        private(runs)?;
        let new = private(&self.directory)?;
        private(&self.directory.join(before::IMAGES))?;
        let path = self.directory.join(JOURNAL);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        // Readers try for the whole lock, and let go of it at once.
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        let mut written = Vec::new();
        file.read_to_end(&mut written)?;
        let steps = written.split(|byte| *byte == b'\n').filter(|line| line.starts_with(entry::STEP)).count();
        if written.is_empty() {
            append(&mut file, &[Entry::Run { version: VERSION, run: self.header.clone() }])?;
        } else if !written.ends_with(b"\n") {
            // An earlier agent was cut off within a line.
            file.write_all(b"\n")?;
        }
        for directory in [&self.directory, runs, runs.parent().unwrap_or(runs)] {
            File::open(directory)?.sync_all()?;
        }
        if new {
            prune(runs, self.header.keep.runs.max(1) as usize)?;
        }
        let images = Images::new(&self.directory, self.header.keep)?;
        Ok(Open { file, step: u32::try_from(steps).unwrap_or(u32::MAX), images })
    }

    fn write(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        let Some(open) = &mut self.open else { return Ok(()) };
        append(&mut open.file, entries).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::new(format!("cannot record the run in {}: {error}", self.directory.display()))
    }
}

/// Writes lines, and returns when they are on the disk. What was cut off before is left behind in a line of its own.
fn append(file: &mut File, entries: &[Entry]) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    let length = file.seek(SeekFrom::End(0))?;
    if let Err(error) = file.write_all(&lines) {
        // Half a line on a full disk.
        let _ = file.set_len(length);
        return Err(error);
    }
    file.sync_data()
}

fn shortened(diff: &[Diff]) -> Vec<Diff> {
    let length: usize = diff
        .iter()
        .map(|diff| match diff {
            Diff::Text { before, after, .. } => {
                before.as_ref().map_or(0, String::len) + after.as_ref().map_or(0, String::len)
            }
            Diff::Fields { .. } | Diff::Note(_) => 0,
        })
        .sum();
    match length {
        0..=MAX_DIFF => diff.to_vec(),
        _ => vec![Diff::Note(format!("a diff of {length} bytes, which is not recorded"))],
    }
}

/// Removes the oldest runs beyond `keep` that changed something, and beyond `keep` that did not.
fn prune(runs: &Path, keep: usize) -> io::Result<()> {
    let (mut changed, mut idle) = (0, 0);
    for id in read::ids(runs)?.iter().rev() {
        let directory = runs.join(id);
        let count = if read::is_idle(&directory) { &mut idle } else { &mut changed };
        *count += 1;
        if *count > keep && !read::is_running(&directory) {
            fs::remove_dir_all(directory)?;
        }
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests;
