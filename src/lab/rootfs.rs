//! The disk that all nodes share as lower layer: a minimal system of this machine's own release, made once and cached.
//!
//! It is made by debootstrap(8) from the mirror that the machine's apt uses, in a directory named after the digest of the
//! recipe below, and renamed into place when complete. A node's own files (host keys, machine-id, names) are not in it.

use super::command::{output, run};
use super::{LabError, Progress, mounts, state};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: &[&str] = &[
    // A machine
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "iproute2",
    "procps",
    "kmod",
    "ca-certificates",
    "curl",
    // What kubelet, kube-proxy and the CNI plugins call
    "conntrack",
    "ethtool",
    "ipset",
    "iptables",
    "socat",
    // Nothing of kprov's: with it ansible can be measured on the same nodes
    "python3",
];

/// Units that have no business in a container: udev would trigger the machine's own devices, debugfs is the machine's.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];

/// Path, mode, contents.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/sudoers.d/kprov", 0o440, "kprov ALL=(ALL) NOPASSWD: ALL\n"),
    // Containers whose PID 1 ignores SIGTERM would hold up every stop and reboot for systemd's 90 s.
    ("etc/systemd/system.conf.d/kprov-lab.conf", 0o644, "[Manager]\nDefaultTimeoutStopSec=5s\n"),
    ("usr/local/lib/kprov-lab/init", 0o755, include_str!("init.sh")),
];

/// Directories that are bind mounts of plain ones at run time.
pub const VOLUMES: [&str; 3] = ["containerd", "etcd", "kubelet"];

/// What a node starts with, inside.
pub const INIT: &str = "/usr/local/lib/kprov-lab/init";

/// The user that the inventory names, and its id.
pub const USER: &str = "kprov";
pub const UID: u32 = 1000;

/// Returns the root file system for this machine's release, making it when the cache has none.
pub fn ensure(progress: Progress) -> Result<PathBuf, LabError> {
    let release = release()?;
    let cache = cache_dir()?;
    let dir = cache.join(format!("rootfs-{}", &hex_digest(recipe(&release).as_bytes())[..12]));
    if dir.exists() {
        return Ok(dir);
    }
    let _lock = state::lock(&cache, progress)?;
    if dir.exists() {
        return Ok(dir);
    }
    let mirror = mirror(&release)?;
    progress(&format!(
        "making the nodes' root file system with debootstrap ({release} from {mirror}); once, about a minute"
    ));
    let partial = dir.with_extension("partial");
    remove(&partial)?;
    let made = make(&release, &mirror, &partial);
    if let Err(error) = made {
        let _ = remove(&partial);
        return Err(error);
    }
    fs::rename(&partial, &dir).map_err(LabError::io(&dir))?;
    Ok(dir)
}

fn make(release: &str, mirror: &str, dir: &Path) -> Result<(), LabError> {
    let include = format!("--include={}", PACKAGES.join(","));
    output(Command::new("debootstrap").args(["--variant=minbase", &include, release]).arg(dir).arg(mirror))?;
    // `*` and not `!`: the account has no password, but it is not locked.
    let user = ["--create-home", "--shell", "/bin/bash", "--password", "*", "--uid"];
    output(Command::new("useradd").arg("--root").arg(dir).args(user).args([&UID.to_string(), USER]))?;
    for (path, mode, contents) in FILES {
        let path = dir.join(path);
        write(&path, contents)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).map_err(LabError::io(&path))?;
    }
    for unit in MASKED {
        let path = dir.join("etc/systemd/system").join(unit);
        symlink("/dev/null", &path).map_err(LabError::io(&path))?;
    }
    for volume in VOLUMES {
        let path = dir.join("var/lib").join(volume);
        fs::create_dir_all(&path).map_err(LabError::io(&path))?;
    }
    // What would be the same on all nodes, and what only takes space.
    write(&dir.join("etc/machine-id"), "")?;
    for (dir, prefix) in [(dir.join("etc/ssh"), "ssh_host_"), (dir.join("var/cache/apt/archives"), "")] {
        let entries = fs::read_dir(&dir).map_err(LabError::io(&dir))?.flatten();
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix)) {
            fs::remove_file(file.path()).map_err(LabError::io(file.path()))?;
        }
    }
    Ok(())
}

/// Removes what a killed run left; debootstrap may have had /proc mounted in it.
fn remove(partial: &Path) -> Result<(), LabError> {
    mounts::unmount_below(partial)?;
    if partial.exists() { fs::remove_dir_all(partial).map_err(LabError::io(partial)) } else { Ok(()) }
}

/// Everything that decides what the result is.
fn recipe(release: &str) -> String {
    format!("{release}\n{PACKAGES:?}\n{MASKED:?}\n{FILES:?}\n{VOLUMES:?}\n{USER} {UID}\n")
}

/// `VERSION_CODENAME` of os-release(5).
fn release() -> Result<String, LabError> {
    let path = "/etc/os-release";
    let text = fs::read_to_string(path).map_err(LabError::io(path))?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned());
    name.ok_or_else(|| LabError::Missing(vec![format!("a Debian or Ubuntu machine ({path} has no VERSION_CODENAME)")]))
}

/// The mirror that apt uses for the release's main component (`apt-get indextargets`, apt-get(8)).
fn mirror(release: &str) -> Result<String, LabError> {
    let format = ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"];
    let targets = run("apt-get", format)?;
    find_mirror(&targets, release).ok_or_else(|| {
        LabError::Missing(vec![format!("an apt source of {release} main on this machine (see /etc/apt/sources.list)")])
    })
}

fn find_mirror(targets: &str, release: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let uri = words.next()?;
        (words.next()? == release && words.next()? == "main").then(|| uri.trim_end_matches('/').to_owned())
    })
}

/// `$XDG_CACHE_HOME/kprov/lab`, or `~/.cache/kprov/lab` (XDG Base Directory Specification).
fn cache_dir() -> Result<PathBuf, LabError> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let cache = cache.ok_or_else(|| LabError::Missing(vec!["a home directory or XDG_CACHE_HOME".into()]))?;
    Ok(cache.join("kprov/lab"))
}

pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(path: &Path, contents: &str) -> Result<(), LabError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(LabError::io(parent))?;
    }
    fs::write(path, contents).map_err(LabError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own_for_the_release() {
        let targets = "http://other.example/docker bookworm stable\nhttp://a.example/debian/ bookworm-updates main\n\
                       http://a.example/debian/ bookworm main\nhttp://b.example/debian/ bookworm main\n";
        assert_eq!(find_mirror(targets, "bookworm").as_deref(), Some("http://a.example/debian"));
        assert_eq!(find_mirror(targets, "trixie"), None);
    }

    #[test]
    fn another_recipe_is_another_directory() {
        assert_ne!(recipe("bookworm"), recipe("trixie"));
        assert!(recipe("bookworm").contains("make-rshared"));
    }
}
