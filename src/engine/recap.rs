//! The play recap: how many tasks ended how, on each host.

use super::event::{Event, Status};
use indexmap::IndexMap;

/// Counts of one host, in the order of the columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ok: usize,
    pub changed: usize,
    pub unreachable: usize,
    pub failed: usize,
    pub skipped: usize,
    pub rescued: usize,
    pub ignored: usize,
}

impl Counts {
    /// Name and number of each column.
    pub fn columns(&self) -> [(&'static str, usize); 7] {
        [
            ("ok", self.ok),
            ("changed", self.changed),
            ("unreachable", self.unreachable),
            ("failed", self.failed),
            ("skipped", self.skipped),
            ("rescued", self.rescued),
            ("ignored", self.ignored),
        ]
    }

    fn add(&mut self, status: Status) {
        match status {
            Status::Ok => self.ok += 1,
            // As Ansible counts: a task that changed something is also ok.
            Status::Changed => {
                self.ok += 1;
                self.changed += 1;
            }
            Status::Skipped => self.skipped += 1,
            Status::Failed => self.failed += 1,
            Status::Unreachable => self.unreachable += 1,
            Status::Rescued => self.rescued += 1,
            Status::Ignored => {
                self.ok += 1;
                self.ignored += 1;
            }
        }
    }
}

/// Counts of all hosts, in the order in which they were first seen.
#[derive(Clone, Debug, Default)]
pub struct Recap {
    pub hosts: IndexMap<String, Counts>,
}

impl Recap {
    /// With a line for each of these hosts even if nothing happens there.
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        Self { hosts: hosts.into_iter().map(|host| (host, Counts::default())).collect() }
    }

    pub fn read(&mut self, event: &Event) {
        if let Event::Task { subject, status, .. } = event {
            self.hosts.entry(subject.host.clone()).or_default().add(*status);
        }
    }

    pub fn total(&self) -> Counts {
        self.hosts.values().fold(Counts::default(), |sum, host| Counts {
            ok: sum.ok + host.ok,
            changed: sum.changed + host.changed,
            unreachable: sum.unreachable + host.unreachable,
            failed: sum.failed + host.failed,
            skipped: sum.skipped + host.skipped,
            rescued: sum.rescued + host.rescued,
            ignored: sum.ignored + host.ignored,
        })
    }
}
