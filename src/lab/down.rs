//! `kprov lab down`: removes what `up` made, however far it came.

use super::command::check_requirements;
use super::node::Node;
use super::{Lab, LabError, LabName, Progress, cgroup, inventory, mounts, network, state, sysctl};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Removes the lab; `false` when there was nothing. The cached root file system stays.
///
/// Goes on past what cannot be removed and names all of it at the end; the record of the lab goes last.
pub fn down(name: &LabName, progress: Progress) -> Result<bool, LabError> {
    check_requirements()?;
    let dir = state::directory(name);
    let existed = dir.exists();
    let mut failed = Vec::new();
    if existed {
        let _lock = state::lock(&dir, progress)?;
        let lab = Lab::load(name)?;
        if let Some(lab) = &lab {
            for spec in &lab.nodes {
                note(&mut failed, Node::new(lab, spec).kill());
            }
        }
        network::remove(name, &mut failed);
        note(&mut failed, mounts::unmount_below(&dir));
        if let Some(lab) = &lab {
            note(&mut failed, cgroup::remove(&lab.cgroups));
            note(&mut failed, inventory::remove(lab));
        }
        // Never into a disk that is still mounted.
        if failed.is_empty() {
            note(&mut failed, remove_state(&dir));
        }
    } else {
        network::remove(name, &mut failed);
    }
    if failed.is_empty() {
        note(&mut failed, leave_machine(progress));
    }
    if failed.is_empty() { Ok(existed) } else { Err(LabError::Left { name: name.to_string(), what: failed }) }
}

fn note(failed: &mut Vec<String>, result: Result<(), LabError>) {
    failed.extend(result.err().map(|error| error.to_string()));
}

/// `lab.json` goes last, so that a killed `down` can be run again.
fn remove_state(dir: &Path) -> Result<(), LabError> {
    let nodes = dir.join("nodes");
    match fs::remove_dir_all(&nodes) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(LabError::io(&nodes)(error)),
        _ => {}
    }
    fs::remove_dir_all(dir).map_err(LabError::io(dir))
}

/// After the last lab: the machine's settings as they were.
fn leave_machine(progress: Progress) -> Result<(), LabError> {
    let root = Path::new(state::ROOT);
    if !root.exists() {
        return Ok(());
    }
    let _lock = state::lock(root, progress)?;
    if state::names().is_empty() {
        sysctl::restore()?;
        fs::remove_dir(root).map_err(LabError::io(root))?;
    }
    Ok(())
}
