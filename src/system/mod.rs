//! The node as modules see it: files, systemd units, accounts, packages, kernel settings and processes.
//!
//! A module queries through a [`View`], which cannot write, and changes through a [`Writer`]. A [`System`] is one of two
//! kinds. A *real* one is the node. A *planning* one is the node with an overlay on top: a write is remembered and seen by
//! later queries, and nothing on the node is touched. So the code that applies a change is also the code that tells the
//! plan what the change would leave behind; there is no `check` flag that a module could forget.
//!
//! Each part keeps its own overlay and lives in a file of its own. Nothing here knows tasks, templates or the network.

mod accounts;
mod fs;
mod kernel;
mod packages;
mod process;
#[cfg(test)]
pub mod testing;
mod units;

pub use accounts::{Accounts, Group, GroupSpec, User, UserSpec};
pub use fs::{Content, Fs, Keep, Kind, Meta, Owner, Stamp, Touch, temporary_file};
pub use kernel::{Kernel, ModuleState};
pub use packages::{Manager, PackageOptions, Packages};
pub use process::{Command, Output, Processes};
pub use units::{Unit, UnitAction, Units, unit_name};

use crate::value::After;
use std::path::PathBuf;

/// What went wrong on the node while it was queried or changed. The text is one line and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// A program ended with a code other than 0; `stderr` is its last lines.
    #[error("`{program}` failed with {status}: {stderr}")]
    Program { program: String, status: String, stderr: String },
    /// The value depends on a change that has only been planned.
    #[error("known after apply")]
    Unknown,
    #[error("{0}")]
    Other(String),
}

impl SystemError {
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

pub type Result<T, E = SystemError> = std::result::Result<T, E>;

/// Whether changes are made or only remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    Apply,
    Plan,
}

/// A node, real or with planned changes on top.
pub struct System {
    mode: Mode,
    fs: Fs,
    units: Units,
    accounts: Accounts,
    packages: Packages,
    kernel: Kernel,
    processes: Processes,
    at_hand: After,
    /// The task after which what is missing may be there.
    appears: Option<After>,
}

impl System {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            fs: Fs::new(mode),
            units: Units::new(mode),
            accounts: Accounts::new(mode),
            packages: Packages::new(mode),
            kernel: Kernel::new(mode),
            processes: Processes::new(mode),
            at_hand: After::default(),
            appears: None,
        }
    }

    /// From here on, has everything kept that is changed in the file system.
    pub fn keep(&mut self, keep: Keep) {
        self.fs.keep(keep);
    }

    /// Says which task comes next, so that what is unknown because of it can be traced to it.
    pub fn begin(&mut self, task: After) {
        if self.appears.is_none() && (self.view().anything_may_appear() || self.kernel.sysctls_may_appear()) {
            self.appears = Some(std::mem::take(&mut self.at_hand));
        }
        self.fs.begin(task.clone());
        self.at_hand = task;
    }

    pub fn view(&self) -> View<'_> {
        View(self)
    }

    pub fn writer(&mut self) -> Writer<'_> {
        self.units.forget();
        Writer(self)
    }
}

/// Reads the node; has no way to change it.
#[derive(Clone, Copy)]
pub struct View<'a>(&'a System);

impl<'a> View<'a> {
    pub fn fs(&self) -> &'a Fs {
        &self.0.fs
    }
    pub fn units(&self) -> &'a Units {
        &self.0.units
    }
    pub fn accounts(&self) -> &'a Accounts {
        &self.0.accounts
    }
    pub fn packages(&self) -> &'a Packages {
        &self.0.packages
    }
    pub fn kernel(&self) -> &'a Kernel {
        &self.0.kernel
    }
    pub fn processes(&self) -> &'a Processes {
        &self.0.processes
    }
    /// Whether what is missing now can be there after apply: commands or packages were planned, and what they leave
    /// behind is not known.
    pub fn anything_may_appear(&self) -> bool {
        self.0.processes.planned() || self.0.packages.planned()
    }

    /// Since which task that is so.
    pub fn appears_after(&self) -> After {
        self.0.appears.clone().unwrap_or_default()
    }
}

/// Changes the node, or in a planning system remembers the change.
pub struct Writer<'a>(&'a mut System);

impl Writer<'_> {
    /// Whether writes are only remembered. For the few changes whose outcome has to be projected by hand.
    pub fn planning(&self) -> bool {
        self.0.mode == Mode::Plan
    }
    pub fn view(&self) -> View<'_> {
        View(self.0)
    }
    pub fn fs(&mut self) -> &mut Fs {
        &mut self.0.fs
    }
    /// The units, and the files that define them.
    pub fn units(&mut self) -> (&mut Units, &Fs) {
        (&mut self.0.units, &self.0.fs)
    }
    pub fn accounts(&mut self) -> &mut Accounts {
        &mut self.0.accounts
    }
    pub fn packages(&mut self) -> &mut Packages {
        &mut self.0.packages
    }
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.0.kernel
    }
    pub fn processes(&mut self) -> &mut Processes {
        &mut self.0.processes
    }
}
