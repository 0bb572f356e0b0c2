//! The nodes' cgroups: one directory per node in every hierarchy, with the memory limit, below the caller's own cgroup.
//!
//! cgroup v1 (also the hybrid layout): `NODE` holds the boot loop and systemd-nspawn and is the root that the node sees, so
//! that the kubelets of two nodes do not meet in one `/kubepods`. cgroup v2: a cgroup with controllers for its children
//! holds no processes itself, so the loop runs in `NODE/loop` and systemd-nspawn starts in `NODE/boot`, below which it
//! makes `payload` (what the node sees) and `supervisor`. Sources: cgroups(7), and the kernel's admin-guide on cgroup v1
//! and v2.

use super::{LabError, Size, mounts, mounts::Mount};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The lab's directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    version: Version,
    /// `memory`, `cpu,cpuacct`, `name=systemd`, …; empty for v2.
    controllers: String,
    /// `<mount>/<caller's cgroup>/kprov-lab/<lab>`.
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Version {
    V1,
    V2,
    /// v2 beside v1: it tracks processes and has no controller that matters.
    Hybrid,
}

/// The hierarchies of this machine, seen from this process.
pub fn discover(lab: &str) -> Result<Vec<Hierarchy>, LabError> {
    let path = "/proc/self/cgroup";
    let own = fs::read_to_string(path).map_err(LabError::io(path))?;
    let found = hierarchies(&own, &mounts::all()?, lab);
    if !found.iter().any(|hierarchy| hierarchy.version == Version::V2 || hierarchy.has("memory")) {
        return Err(LabError::Missing(vec!["the memory controller of cgroups, mounted under /sys/fs/cgroup".into()]));
    }
    Ok(found)
}

fn hierarchies(own: &str, mounts: &[Mount], lab: &str) -> Vec<Hierarchy> {
    let hybrid =
        own.lines().any(|line| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|n| n == "memory")));
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let mount = mounts.iter().find(|mount| match controllers {
                "" => mount.kind == "cgroup2",
                names => {
                    mount.kind == "cgroup" && names.split(',').all(|name| mount.options.split(',').any(|o| o == name))
                }
            })?;
            let version = match controllers {
                "" if hybrid => Version::Hybrid,
                "" => Version::V2,
                _ => Version::V1,
            };
            // On v2 the caller's own cgroup holds the caller, so it cannot have children with controllers.
            let below = match version {
                Version::V2 => "",
                _ => path.strip_prefix(&mount.root).unwrap_or(path).trim_start_matches('/'),
            };
            let dir = mount.target.join(below).join("kprov-lab").join(lab);
            Some(Hierarchy { version, controllers: controllers.to_owned(), dir })
        })
        .collect()
}

/// Whether the nodes get cgroup v1 (a kubelet calls the hybrid layout that, too).
pub fn is_v1(lab: &[Hierarchy]) -> bool {
    lab.iter().any(|hierarchy| hierarchy.version == Version::V1)
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }

    fn node(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// Every directory from the first one of ours down to the node's.
    fn chain(&self, node: &str) -> Vec<PathBuf> {
        let node = self.node(node);
        let mut chain: Vec<_> = node.ancestors().take(3).map(Path::to_owned).collect();
        chain.reverse();
        chain
    }
}

/// Makes the node's directories and sets its limit; also on a running node, whose limit then changes at once.
pub fn prepare(lab: &[Hierarchy], node: &str, memory: Size) -> Result<(), LabError> {
    for hierarchy in lab {
        for dir in hierarchy.chain(node) {
            fs::create_dir_all(&dir).map_err(LabError::io(&dir))?;
            if hierarchy.has("cpuset") {
                inherit(&dir, "cpuset.cpus")?;
                inherit(&dir, "cpuset.mems")?;
            }
            if hierarchy.version == Version::V2 {
                delegate(&dir)?;
            }
        }
        let dir = hierarchy.node(node);
        if hierarchy.version == Version::V2 {
            for leaf in ["loop", "boot"].map(|leaf| dir.join(leaf)) {
                fs::create_dir_all(&leaf).map_err(LabError::io(&leaf))?;
            }
            write(&dir.join("memory.max"), &memory.0.to_string())?;
            let seen = dir.join("boot/payload/memory.max");
            if seen.exists() {
                write(&seen, &memory.0.to_string())?;
            }
        } else if hierarchy.has("memory") {
            write(&dir.join("memory.limit_in_bytes"), &memory.0.to_string())?;
        }
    }
    Ok(())
}

/// The cgroups that the boot loop, and what is run in the node from outside, belong in.
pub fn loop_dirs(lab: &[Hierarchy], node: &str) -> Vec<PathBuf> {
    let leaf = |h: &Hierarchy| if h.version == Version::V2 { h.node(node).join("loop") } else { h.node(node) };
    lab.iter().map(leaf).collect()
}

/// The cgroups that systemd-nspawn starts in.
pub fn boot_dirs(lab: &[Hierarchy], node: &str) -> Vec<PathBuf> {
    let leaf = |h: &Hierarchy| if h.version == Version::V2 { h.node(node).join("boot") } else { h.node(node) };
    lab.iter().map(leaf).collect()
}

/// Two files for v2: the limit, and where the node sees it once systemd-nspawn has made that cgroup.
pub fn visible_limit(lab: &[Hierarchy], node: &str) -> Option<(PathBuf, PathBuf)> {
    let dir = lab.iter().find(|hierarchy| hierarchy.version == Version::V2)?.node(node);
    Some((dir.join("memory.max"), dir.join("boot/payload/memory.max")))
}

/// The processes of a node, the boot loop included, in no order; none when it does not run.
pub fn pids(lab: &[Hierarchy], node: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for hierarchy in lab {
        collect(&hierarchy.node(node), &mut pids);
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    for child in children(dir) {
        collect(&child, pids);
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// Removes the lab's cgroups, in which no process is left; the kernel may hold one for a moment after its last process.
pub fn remove(lab: &[Hierarchy]) -> Result<(), LabError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for hierarchy in lab {
        remove_tree(&hierarchy.dir, deadline)?;
        // Shared by all labs: goes with the last.
        if let Some(parent) = hierarchy.dir.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), LabError> {
    children(dir).try_for_each(|child| remove_tree(&child, deadline))?;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(LabError::io(dir)(error)),
            _ => return Ok(()),
        }
    }
}

/// A new v1 cpuset is empty, and no process can join it until it has CPUs and memory nodes.
fn inherit(dir: &Path, file: &str) -> Result<(), LabError> {
    let path = dir.join(file);
    let now = fs::read_to_string(&path).map_err(LabError::io(&path))?;
    if !now.trim().is_empty() {
        return Ok(());
    }
    let above = dir.with_file_name(file);
    let value = fs::read_to_string(&above).map_err(LabError::io(&above))?;
    write(&path, value.trim())
}

/// Passes every controller on to the children (v2).
fn delegate(dir: &Path) -> Result<(), LabError> {
    // The first directory of ours gets only what its parent passes on.
    for dir in dir.parent().into_iter().chain([dir]) {
        let path = dir.join("cgroup.controllers");
        let controllers = fs::read_to_string(&path).map_err(LabError::io(&path))?;
        let passed = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in controllers.split_whitespace().filter(|name| !passed.split_whitespace().any(|p| p == *name)) {
            // One that the machine keeps for itself is no loss, but without a memory limit a node is not one.
            let result = write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
            if controller == "memory" {
                result?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<(), LabError> {
    fs::write(path, value).map_err(LabError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, root: &str, target: &str, options: &str) -> Mount {
        Mount { kind: kind.into(), root: root.into(), target: target.into(), options: options.into() }
    }

    #[test]
    fn v1_is_below_the_callers_own_cgroup() {
        let own = "4:memory:/job/7\n3:cpu,cpuacct:/\n2:name=systemd:/x\n0::/\n";
        let mounts = [
            mount("tmpfs", "/", "/sys/fs/cgroup", "rw"),
            mount("cgroup", "/", "/sys/fs/cgroup/memory", "rw,memory"),
            mount("cgroup", "/", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
            mount("cgroup2", "/", "/sys/fs/cgroup/unified", "rw"),
        ];
        let found = hierarchies(own, &mounts, "lab");
        let dirs: Vec<_> = found.iter().map(|h| (h.version, h.dir.to_str().unwrap())).collect();
        assert_eq!(
            dirs,
            [
                (Version::V1, "/sys/fs/cgroup/memory/job/7/kprov-lab/lab"),
                (Version::V1, "/sys/fs/cgroup/cpu,cpuacct/kprov-lab/lab"),
                (Version::Hybrid, "/sys/fs/cgroup/unified/kprov-lab/lab"),
            ],
            "name=systemd is not mounted"
        );
        assert_eq!(visible_limit(&found, "n1"), None);
        assert!(is_v1(&found));
        assert_eq!(loop_dirs(&found, "n1"), boot_dirs(&found, "n1"));
    }

    #[test]
    fn v2_is_below_the_mount_and_keeps_the_loop_apart() {
        let mounts = [mount("cgroup2", "/", "/sys/fs/cgroup", "rw,nsdelegate")];
        let found = hierarchies("0::/user.slice/session-1.scope\n", &mounts, "lab");
        assert_eq!(loop_dirs(&found, "n1"), [Path::new("/sys/fs/cgroup/kprov-lab/lab/n1/loop")]);
        assert_eq!(boot_dirs(&found, "n1"), [Path::new("/sys/fs/cgroup/kprov-lab/lab/n1/boot")]);
        assert!(visible_limit(&found, "n1").is_some() && !is_v1(&found));
    }

    #[test]
    fn a_namespaced_mount_starts_at_its_root() {
        let mounts = [mount("cgroup", "/docker/abc", "/sys/fs/cgroup/memory", "rw,memory")];
        let found = hierarchies("4:memory:/docker/abc/x\n", &mounts, "lab");
        assert_eq!(found[0].dir, Path::new("/sys/fs/cgroup/memory/x/kprov-lab/lab"));
    }
}
