//! Memory, processors, mounted file systems, and what kind of machine this is.

use super::{Root, put};
use crate::value::{Map, Value};
use std::path::Path;

/// File systems of which a dead server blocks whoever asks for their size.
const REMOTE: [&str; 9] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "afs", "lustre"];

pub(super) fn gather(root: &Root, facts: &mut Map) {
    memory(root, facts);
    processors(root, facts);
    put(facts, "ansible_mounts", mounts(&root.read("proc/self/mounts")));
    let (kind, role) = virtualization(root);
    put(facts, "ansible_virtualization_type", kind);
    put(facts, "ansible_virtualization_role", role);
}

fn memory(root: &Root, facts: &mut Map) {
    let meminfo = root.read("proc/meminfo");
    let bytes = |name: &str| {
        let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
    };
    let megabytes = |bytes: Option<u64>| bytes.unwrap_or_default() >> 20;
    let (mut total, mut free) = (bytes("MemTotal"), bytes("MemFree"));
    for Limit { limit, used } in limits(root) {
        if total.is_some_and(|total| limit < total) {
            total = Some(limit);
        }
        free = free.map(|free| free.min(limit.saturating_sub(used)));
    }
    put(facts, "ansible_memtotal_mb", megabytes(total));
    put(facts, "ansible_memfree_mb", megabytes(free));
    put(facts, "ansible_swaptotal_mb", megabytes(bytes("SwapTotal")));
    put(facts, "ansible_swapfree_mb", megabytes(bytes("SwapFree")));
}

/// A memory limit that the whole node is under, in bytes.
#[derive(Debug, PartialEq)]
struct Limit {
    limit: u64,
    used: u64,
}

/// The limits on the way from init's cgroup up to the top of what is visible.
fn limits(root: &Root) -> Vec<Limit> {
    let mut limits = Vec::new();
    for line in root.read("proc/1/cgroup").lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, limit, used) = match controllers {
            "" if root.exists("sys/fs/cgroup/cgroup.controllers") => ("sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let read = |file: &str| root.line(&Path::new(mount).join(group).join(file).to_string_lossy())?.parse().ok();
            // `max` is no number, and neither is it a limit.
            if let Some(limit) = read(limit) {
                limits.push(Limit { limit, used: read(used).unwrap_or_default() });
            }
        }
    }
    limits
}

fn processors(root: &Root, facts: &mut Map) {
    let cpuinfo = root.read("proc/cpuinfo");
    let values = |name: &str| {
        let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).collect::<Vec<_>>()
    };
    let first = |name: &str| values(name).first().and_then(|value| value.parse::<usize>().ok());
    let vcpus = values("processor").len().max(1);
    let mut packages = values("physical id");
    packages.sort_unstable();
    packages.dedup();
    let count = packages.len().max(1);
    let cores = first("cpu cores").unwrap_or(1);
    let siblings = first("siblings").unwrap_or(cores);
    put(facts, "ansible_processor_count", count);
    put(facts, "ansible_processor_cores", cores);
    put(facts, "ansible_processor_threads_per_core", siblings.checked_div(cores).unwrap_or(1).max(1));
    put(facts, "ansible_processor_vcpus", vcpus);
    let usable = rustix::thread::sched_getaffinity(None).map_or(vcpus, |set| set.count() as usize);
    put(facts, "ansible_processor_nproc", usable);
}

/// What has a device behind it, as Ansible chooses; sizes in bytes.
fn mounts(text: &str) -> Value {
    let mut mounts = Vec::new();
    for line in text.lines() {
        let fields: Vec<String> = line.split(' ').map(unescape).collect();
        let [device, mount, fstype, options, ..] = fields.as_slice() else { continue };
        if !device.starts_with('/') && !device.contains(":/") {
            continue;
        }
        let mut facts = Map::new();
        put(&mut facts, "mount", mount.as_str());
        put(&mut facts, "device", device.as_str());
        put(&mut facts, "fstype", fstype.as_str());
        put(&mut facts, "options", options.as_str());
        let remote = REMOTE.contains(&fstype.as_str()) || fstype.starts_with("fuse");
        if let Some(space) = (!remote).then(|| Space::of(Path::new(mount))).flatten() {
            put(&mut facts, "size_total", space.total);
            put(&mut facts, "size_available", space.available);
        }
        mounts.push(facts.into());
    }
    Value::List(mounts)
}

/// Octal escapes of /proc/mounts, as getmntent(3) reads them.
fn unescape(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |field, (code, c)| field.replace(code, c))
}

/// Space of a file system in bytes; `available` is without the part that is kept for root.
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) available: u64,
}

impl Space {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(Self { total: stat.f_blocks * stat.f_frsize, available: stat.f_bavail * stat.f_frsize })
    }
}

/// What the node runs on, under Ansible's names, as far as it can be known without running anything.
fn virtualization(root: &Root) -> (String, &'static str) {
    if let Some(container) = container(root) {
        return (container, "guest");
    }
    let product = root.line("sys/class/dmi/id/product_name").unwrap_or_default();
    let vendor = root.line("sys/class/dmi/id/sys_vendor").unwrap_or_default();
    let known = [
        ("KVM", "kvm"),
        ("QEMU", "kvm"),
        ("Standard PC", "kvm"),
        ("OpenStack", "openstack"),
        ("VMware", "VMware"),
        ("VirtualBox", "virtualbox"),
        ("Virtual Machine", "VirtualPC"),
        ("Google Compute Engine", "kvm"),
        ("Amazon EC2", "kvm"),
        ("HVM domU", "xen"),
    ];
    if let Some((_, kind)) = known.iter().find(|(sign, _)| product.contains(sign) || vendor.contains(sign)) {
        return ((*kind).to_owned(), "guest");
    }
    if root
        .read("proc/cpuinfo")
        .lines()
        .any(|line| line.starts_with("flags") && line.ends_with(" hypervisor") || line.contains(" hypervisor "))
    {
        return ("kvm".to_owned(), "guest");
    }
    ("NA".to_owned(), "NA")
}

/// What manages the container that this is: `systemd-nspawn`, `docker`, `lxc`, …; `None` on a machine.
pub(super) fn container(root: &Root) -> Option<String> {
    let environment = root.read("proc/1/environ");
    let variable = environment.split('\0').find_map(|entry| entry.strip_prefix("container="));
    let named = root.line("run/systemd/container").or_else(|| variable.map(str::to_owned));
    named.or_else(|| root.exists(".dockerenv").then(|| "docker".to_owned())).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::tests::root;
    use super::*;

    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:         4194304 kB\nSwapTotal:             0 kB\n";

    fn memory_of(files: &[(&str, &str)]) -> Map {
        let (_dir, root) = root(files);
        let mut facts = Map::new();
        memory(&root, &mut facts);
        facts
    }

    #[test]
    fn memory_is_what_the_node_may_use() {
        let machine = memory_of(&[("proc/meminfo", MEMINFO), ("proc/1/cgroup", "0::/init.scope\n")]);
        assert_eq!(machine["ansible_memtotal_mb"], Value::Int(8192));
        assert_eq!(machine["ansible_swaptotal_mb"], Value::Int(0));

        let v1 = memory_of(&[
            ("proc/meminfo", MEMINFO),
            ("proc/1/cgroup", "4:memory:/init.scope\n1:name=systemd:/init.scope\n0::/init.scope\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "134217728\n"),
            ("sys/fs/cgroup/memory/init.scope/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!((&v1["ansible_memtotal_mb"], &v1["ansible_memfree_mb"]), (&Value::Int(512), &Value::Int(384)));

        let v2 = memory_of(&[
            ("proc/meminfo", MEMINFO),
            ("proc/1/cgroup", "0::/init.scope\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/init.scope/memory.max", "max\n"),
        ]);
        assert_eq!(v2["ansible_memtotal_mb"], Value::Int(1024));
    }

    #[test]
    fn mounts_with_devices() {
        let text = "proc /proc proc rw 0 0\n/dev/vda1 / ext4 rw,relatime 0 0\nsrv:/a /mnt/a\\040b nfs4 rw 0 0\n";
        let Value::List(found) = mounts(text) else { panic!() };
        assert_eq!(found.len(), 2);
        assert!(found[0].get("size_total").and_then(Value::as_int) > Some(0));
        assert_eq!(found[1].get("mount"), Some(&"/mnt/a b".into()));
        assert_eq!(found[1].get("size_total"), None);
    }

    #[test]
    fn processors_by_package() {
        let one = |n: u8, package: u8| {
            format!("processor\t: {n}\nphysical id\t: {package}\nsiblings\t: 4\ncpu cores\t: 2\n\n")
        };
        let cpuinfo: String = (0..8).map(|n| one(n, n / 4)).collect();
        let (_dir, root) = root(&[("proc/cpuinfo", &cpuinfo)]);
        let mut facts = Map::new();
        processors(&root, &mut facts);
        let names = ["count", "cores", "threads_per_core", "vcpus"].map(|name| format!("ansible_processor_{name}"));
        assert_eq!(names.map(|name| facts[&name].as_int().unwrap()), [2, 2, 2, 8]);
    }

    #[test]
    fn containers() {
        let (_dir, nspawn) = root(&[("proc/1/environ", "PATH=/bin\0container=systemd-nspawn\0")]);
        assert_eq!(virtualization(&nspawn), ("systemd-nspawn".to_owned(), "guest"));
        let (_dir, machine) = root(&[("proc/1/environ", "HOME=/\0"), ("proc/cpuinfo", "flags\t: fpu vme\n")]);
        assert_eq!(virtualization(&machine), ("NA".to_owned(), "NA"));
    }
}
