//! What is known about a lab between two commands: one directory, one file.
//!
//! `/var/lib/kprov-lab/NAME/lab.json` is written before anything else is made, so that `down` knows what a killed `up` may
//! have left. What runs is not written down: the kernel is asked ([`super::status`]).

use super::{LabError, LabName, Progress, Size, cgroup::Hierarchy};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// All labs of this machine, and what they changed outside their own directories.
pub const ROOT: &str = "/var/lib/kprov-lab";

/// A lab as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    pub name: LabName,
    /// The bridge has the first address.
    pub subnet: Ipv4Net,
    /// The inventory directory, absolute.
    pub inventory: PathBuf,
    /// The lower layer of all nodes' disks, in the cache.
    pub rootfs: PathBuf,
    pub nodes: Vec<NodeSpec>,
    /// The lab's directory in each cgroup hierarchy.
    pub(super) cgroups: Vec<Hierarchy>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    pub name: String,
    pub address: Ipv4Addr,
    pub memory: Size,
    /// How much the node can store; `None`: as much as the machine has room for.
    pub disk: Option<Size>,
}

impl Lab {
    /// The recorded lab, or `None` when there is none of that name.
    pub fn load(name: &LabName) -> Result<Option<Self>, LabError> {
        let path = directory(name).join("lab.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(LabError::io(&path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| LabError::io(&path)(error.into()))
    }

    /// The recorded lab; its absence is an error that names the labs there are.
    pub fn get(name: &LabName) -> Result<Self, LabError> {
        Self::load(name)?.ok_or_else(|| {
            let names: Vec<_> = names().iter().map(ToString::to_string).collect();
            let there =
                if names.is_empty() { "there is none".to_owned() } else { format!("there is: {}", names.join(", ")) };
            crate::source::InputError::new(format!("no lab `{name}`; {there}")).help("`kprov lab up` makes one").into()
        })
    }

    /// All recorded labs, by name.
    pub fn all() -> Result<Vec<Self>, LabError> {
        names().iter().filter_map(|name| Self::load(name).transpose()).collect()
    }

    /// The inventory that `up` writes.
    pub fn inventory_file(&self) -> PathBuf {
        super::inventory::file(self)
    }

    pub fn node(&self, name: &str) -> Result<&NodeSpec, LabError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let names: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            crate::source::InputError::new(format!("no node `{name}` in lab {}", self.name))
                .help(format!("its nodes are {}", names.join(", ")))
                .into()
        })
    }

    pub(super) fn save(&self) -> Result<(), LabError> {
        let path = directory(&self.name).join("lab.json");
        let text = serde_json::to_string_pretty(self).map_err(|error| LabError::io(&path)(error.into()))?;
        write_atomically(&path, text.as_bytes())
    }
}

pub fn directory(name: &LabName) -> PathBuf {
    Path::new(ROOT).join(name.as_str())
}

/// The labs that have a directory, sorted; also half-made ones.
pub fn names() -> Vec<LabName> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<LabName> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    names
}

/// Holds `dir` (made when absent) for this process alone until dropped; waits for the one that holds it.
///
/// The directory itself is the lock, so that none is left behind; when `down` removed it while we waited, we try anew.
pub fn lock(dir: &Path, progress: Progress) -> Result<File, LabError> {
    loop {
        fs::create_dir_all(dir).map_err(LabError::io(dir))?;
        let Ok(file) = File::open(dir) else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress(&format!("waiting for another `kprov lab` that works on {}", dir.display()));
                file.lock().map_err(LabError::io(dir))?;
            }
            Err(TryLockError::Error(error)) => return Err(LabError::io(dir)(error)),
        }
        let held = file.metadata().map_err(LabError::io(dir))?;
        if fs::metadata(dir).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}

/// Replaces a file in one step, so that a reader sees the old or the new one.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<(), LabError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, contents).map_err(LabError::io(&new))?;
    fs::rename(&new, path).map_err(LabError::io(path))
}
