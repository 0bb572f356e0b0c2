//! Settings of the machine itself: the two that labs need, and those that nodes change; put back when the last lab goes.

use super::{LabError, Progress, state};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Routing between the nodes' bridge and the outside.
const FORWARD: &str = "net/ipv4/ip_forward";
/// All nodes share one count of inotify instances for root; the kernel's default of 128 is used up by two of them.
const INOTIFY: (&str, u32) = ("fs/inotify/max_user_instances", 8192);

/// What a Kubernetes node sets. Only `net.*` is a node's own: these are the machine's, through the nodes' /proc/sys.
const SET_BY_NODES: [&str; 7] = [
    "fs/inotify/max_user_watches",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// The values that were there before the first lab: key -> value.
type Before = BTreeMap<String, String>;

pub fn raise(progress: Progress) -> Result<(), LabError> {
    let _lock = state::lock(Path::new(state::ROOT), progress)?;
    if !record().exists() {
        let keys = SET_BY_NODES.iter().chain([&FORWARD, &INOTIFY.0]).filter(|key| path(key).exists());
        let before = keys.map(|key| Ok(((*key).to_owned(), read(key)?))).collect::<Result<Before, LabError>>()?;
        let text = serde_json::to_vec(&before).map_err(|error| LabError::io(record())(error.into()))?;
        state::write_atomically(&record(), &text)?;
    }
    if read(FORWARD)? == "0" {
        write(FORWARD, "1")?;
    }
    if read(INOTIFY.0)?.parse().is_ok_and(|now: u32| now < INOTIFY.1) {
        write(INOTIFY.0, &INOTIFY.1.to_string())?;
    }
    Ok(())
}

/// Puts the recorded values back; for the caller that has just removed the last lab and holds the lock on the root.
pub fn restore() -> Result<(), LabError> {
    for (key, value) in recorded()? {
        if read(&key)? != value {
            write(&key, &value)?;
        }
    }
    match fs::remove_file(record()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LabError::io(record())(error)),
        _ => Ok(()),
    }
}

fn record() -> PathBuf {
    Path::new(state::ROOT).join("sysctl.json")
}

fn recorded() -> Result<Before, LabError> {
    match fs::read(record()) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| LabError::io(record())(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Before::new()),
        Err(error) => Err(LabError::io(record())(error)),
    }
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn read(key: &str) -> Result<String, LabError> {
    fs::read_to_string(path(key)).map(|text| text.trim().to_owned()).map_err(LabError::io(path(key)))
}

fn write(key: &str, value: &str) -> Result<(), LabError> {
    fs::write(path(key), value).map_err(LabError::io(path(key)))
}
