//! Handlers that have been notified and have not run yet.
//!
//! One file per handler in a directory of the node, written before the change that notifies it: a run that is killed in
//! between leaves it behind, and the next run finishes what was begun. A planning agent remembers on top of the disk.

use super::protocol::Seq;
use crate::modules::Failure;
use crate::system::Mode;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

pub(super) struct Pending {
    directory: PathBuf,
    mode: Mode,
    planned: HashMap<String, bool>,
    /// The handler's loop that is being run, and whether all its items so far succeeded.
    running: Option<(Seq, bool)>,
}

impl Pending {
    pub(super) fn new(state: &Path, mode: Mode) -> Self {
        Self { directory: state.join("pending"), mode, planned: HashMap::new(), running: None }
    }

    /// Remembers handlers; returns those that were not remembered before.
    pub(super) fn mark(&mut self, handlers: &[String]) -> Result<Vec<String>, Failure> {
        let mut new = Vec::new();
        for handler in handlers {
            if self.holds(handler) {
                continue;
            }
            match self.mode {
                Mode::Plan => drop(self.planned.insert(handler.clone(), true)),
                Mode::Apply => self.write(handler).map_err(|error| self.failure(&error))?,
            }
            new.push(handler.clone());
        }
        Ok(new)
    }

    /// Forgets a handler.
    pub(super) fn clear(&mut self, handler: &str) -> Result<(), Failure> {
        match self.mode {
            Mode::Plan => drop(self.planned.insert(handler.to_owned(), false)),
            Mode::Apply => match fs::remove_file(self.path(handler)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(self.failure(&error)),
                _ => {}
            },
        }
        Ok(())
    }

    /// Whether an item of the handler has to run. The items of one loop run together or not at all.
    pub(super) fn begin(&mut self, handler: &str, group: Seq) -> Result<bool, Failure> {
        match self.running {
            Some((running, _)) if running == group => drop(self.mark(&[handler.to_owned()])?),
            _ if self.holds(handler) => self.running = Some((group, true)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Forgets the handler when this item of it and those before have succeeded.
    pub(super) fn end(&mut self, handler: &str, success: bool) -> Result<(), Failure> {
        if let Some((_, all)) = &mut self.running {
            *all &= success;
            if *all {
                return self.clear(handler);
            }
        }
        Ok(())
    }

    fn holds(&self, handler: &str) -> bool {
        self.planned.get(handler).copied().unwrap_or_else(|| self.path(handler).exists())
    }

    /// The name is free text, so the file is named by its digest and holds the name.
    fn path(&self, handler: &str) -> PathBuf {
        let digest = Sha256::digest(handler);
        self.directory.join(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    fn write(&self, handler: &str) -> io::Result<()> {
        if !self.directory.exists() {
            fs::create_dir_all(&self.directory)?;
            fs::File::open(self.directory.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        }
        let mut file = fs::File::create(self.path(handler))?;
        writeln!(file, "{handler}")?;
        file.sync_all()?;
        fs::File::open(&self.directory)?.sync_all()
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::new(format!("cannot remember a notified handler in {}: {error}", self.directory.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_until_it_ran() {
        let state = tempfile::tempdir().unwrap();
        let name = "kubelet : Restart kubelet / now".to_owned();
        let new = Pending::new(state.path(), Mode::Apply).mark(std::slice::from_ref(&name)).unwrap();
        assert_eq!(new.len(), 1);

        let mut next = Pending::new(state.path(), Mode::Apply);
        assert!(next.mark(std::slice::from_ref(&name)).unwrap().is_empty());
        assert!(next.begin(&name, 7).unwrap());
        next.end(&name, false).unwrap();
        assert!(next.begin(&name, 7).unwrap());
        next.end(&name, true).unwrap();
        assert!(next.begin(&name, 8).unwrap(), "one item of the loop failed, so it has to run again");
        next.end(&name, true).unwrap();
        assert!(next.begin(&name, 8).unwrap(), "the second item of a loop runs like the first");
        next.end(&name, true).unwrap();
        assert!(!next.begin(&name, 9).unwrap());
    }

    #[test]
    fn a_plan_writes_nothing() {
        let state = tempfile::tempdir().unwrap();
        Pending::new(state.path(), Mode::Apply).mark(&["old".to_owned()]).unwrap();
        let mut plan = Pending::new(state.path(), Mode::Plan);
        plan.mark(&["new".to_owned()]).unwrap();
        assert!(plan.begin("new", 1).unwrap() && plan.begin("old", 2).unwrap());
        plan.end("old", true).unwrap();
        assert!(!plan.begin("old", 3).unwrap());
        assert_eq!(fs::read_dir(state.path().join("pending")).unwrap().count(), 1);
        assert!(Pending::new(state.path(), Mode::Apply).begin("old", 1).unwrap());
    }
}
