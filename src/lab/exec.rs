//! `kprov lab exec`: a command inside a node, past ssh.

use super::node::Node;
use super::{Lab, LabError, cgroup};
use crate::source::InputError;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Replaces this process by `command`, run as root in all namespaces and cgroups of the node; returns only an error.
pub fn exec(lab: &Lab, node: &str, command: &[OsString]) -> LabError {
    match prepare(lab, node) {
        Err(error) => error,
        Ok(init) => {
            let term = std::env::var_os("TERM").unwrap_or_else(|| "dumb".into());
            let mut nsenter = Command::new("nsenter");
            nsenter
                .args(["--target", &init.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"])
                .args(command)
                .env_clear()
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .env("HOME", "/root")
                .env("TERM", term);
            LabError::io("nsenter")(nsenter.exec())
        }
    }
}

/// Puts this process into the node's cgroups, where its memory counts as the node's, and returns the node's PID 1.
fn prepare(lab: &Lab, node: &str) -> Result<i32, LabError> {
    let spec = lab.node(node)?;
    let init = Node::new(lab, spec).init().ok_or_else(|| {
        InputError::new(format!("node {node} does not run")).help(format!("kprov lab start --name {} {node}", lab.name))
    })?;
    for dir in cgroup::loop_dirs(&lab.cgroups, node) {
        let procs = dir.join("cgroup.procs");
        fs::write(&procs, "0").map_err(LabError::io(&procs))?;
    }
    Ok(init)
}
