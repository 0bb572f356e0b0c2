//! Answers what the node remembers of runs. Writes nothing.

use super::{JOURNAL, RUNS, entry};
use crate::agent::protocol::{CHUNK, FromAgent};
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::Path;

/// Sends the journal of `run`, or of every run without what it replaced and how it looked.
pub(in crate::agent) fn send(
    state: &Path,
    run: Option<&str>,
    mut send: impl FnMut(FromAgent) -> io::Result<()>,
) -> io::Result<()> {
    let runs = state.join(RUNS);
    for id in ids(&runs)?.into_iter().filter(|id| run.is_none_or(|run| run == id)) {
        let directory = runs.join(&id);
        // A run that is being forgotten, or made, has none.
        let Ok(file) = File::open(directory.join(JOURNAL)) else { continue };
        let running = is_running(&directory);
        let mut part = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            if run.is_none() && [entry::DIFF, entry::BEFORE].iter().any(|kind| line.starts_with(kind)) {
                continue;
            }
            part.extend(line);
            part.push(b'\n');
            if part.len() > CHUNK {
                send(FromAgent::Record { run: id.clone(), running, bytes: std::mem::take(&mut part) })?;
            }
        }
        send(FromAgent::Record { run: id, running, bytes: part })?;
    }
    Ok(())
}

/// The runs that are remembered, oldest first.
pub(super) fn ids(runs: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(runs) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(entry?.file_name().into_string().ok());
    }
    ids.sort();
    Ok(ids)
}

/// Whether the run ended without a change on any host.
pub(super) fn is_idle(run: &Path) -> bool {
    let Ok(file) = File::open(run.join(JOURNAL)) else { return false };
    let second = BufReader::new(file).split(b'\n').nth(1);
    second.is_some_and(|line| line.is_ok_and(|line| line.starts_with(entry::IDLE)))
}

/// Whether an agent of the run is there. Its lock is shared: it lets go of this one's at once.
pub(super) fn is_running(run: &Path) -> bool {
    let Ok(file) = File::open(run.join(JOURNAL)) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}
