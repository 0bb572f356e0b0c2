//! Runs the machine's own tools, and checks that they are there.

use super::LabError;
use std::process::{Command, Stdio};

/// Runs `program` and returns its standard output; its standard error becomes the error's reason.
pub fn run<S: AsRef<std::ffi::OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String, LabError> {
    output(Command::new(program).args(args))
}

/// As [`run`], for a command that needs more than arguments.
pub fn output(command: &mut Command) -> Result<String, LabError> {
    let output = command.stdin(Stdio::null()).output();
    let failed = |reason: String| LabError::Command { command: line(command), reason };
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(failed(if stderr.trim().is_empty() { output.status.to_string() } else { stderr.trim().to_owned() }))
}

/// The command as one line, for errors.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a lab runs, and the Debian package that has it. `mount`, `nsenter`, `setsid` (util-linux) and `find` are essential.
const TOOLS: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("iptables-restore", "iptables"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("mkfs.ext4", "e2fsprogs"),
    ("useradd", "passwd"),
    ("apt-get", "apt"),
];

/// Fails with everything that this machine lacks, all at once.
pub fn check_requirements() -> Result<(), LabError> {
    let mut missing = Vec::new();
    if !cfg!(target_os = "linux") {
        missing.push("Linux".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        missing.push("root (run it with sudo)".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let absent: Vec<_> = TOOLS.iter().filter(|(tool, _)| !found(tool)).collect();
    if !absent.is_empty() {
        let tools: Vec<_> = absent.iter().map(|(tool, _)| *tool).collect();
        let mut packages: Vec<_> = absent.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        missing.push(format!("{} (apt-get install -y {})", tools.join(", "), packages.join(" ")));
    }
    if missing.is_empty() { Ok(()) } else { Err(LabError::Missing(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = run("sh", ["-c", "echo no such thing >&2; exit 3"]).unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo no such thing >&2; exit 3` failed: no such thing");
        let error = run("sh", ["-c", "exit 3"]).unwrap_err().to_string();
        assert!(error.ends_with("exit status: 3"), "{error}");
    }
}
