//! What preconditions ask of a node: the fact `kprov`.
//!
//! | key | value |
//! |---|---|
//! | `systemd_version` | number; null without systemd |
//! | `container` | what manages the container that the node is (`systemd-nspawn`, …); null on a machine |
//! | `cgroup` | `version` (`"1"`, `"2"`, `"hybrid"`), `controllers`, `driver` that suits kubelet (`systemd`, `cgroupfs`) |
//! | `kernel` | `release`, `has` (module: bool, usable now or loadable), `loaded` (module: bool, usable now), `modules_loadable` |
//! | `listening` | list of `{proto, address, port, pid, exe, unit}` |
//! | `capabilities` | what processes of this node may do at most: `sys_admin`, … (capabilities(7)) |
//! | `conntrack_writable` | whether kube-proxy may set `net.netfilter.nf_conntrack_max` |
//! | `disks` | path: `{available, total}` in bytes, of the file system that the path is or would be on |
//! | `swap_on` | whether swap is in use |
//! | `resolv_conf` | the file with real name servers, for kubelet |
//! | `epoch_ns` | the clock when the facts were complete, in nanoseconds since 1970 |

use super::hardware::{Space, container};
use super::{Root, put, sockets, strings};
use crate::system::{Command, ModuleState, View};
use crate::value::{Map, Value};
use std::path::Path;

/// Kernel modules that a choice of network plugin or proxy can need.
const MODULES: [&str; 19] = [
    "br_netfilter",
    "bridge",
    "dummy",
    "ip6_tables",
    "ip_set",
    "ip_tables",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_sh",
    "ip_vs_wrr",
    "ipip",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "overlay",
    "tun",
    "veth",
    "vxlan",
    "wireguard",
];
/// Where the large things of a node are.
const DISKS: [&str; 5] = ["/", "/var/lib/etcd", "/var/lib/containerd", "/var/lib/kubelet", "/opt/kprov"];
/// By number, capabilities(7) and linux/capability.h.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

pub(super) fn gather(root: &Root, view: View<'_>) -> Map {
    let mut facts = Map::new();
    put(&mut facts, "systemd_version", systemd_version(view));
    put(&mut facts, "container", container(root));
    put(&mut facts, "cgroup", cgroup(root));
    put(&mut facts, "kernel", kernel(view));
    put(&mut facts, "listening", sockets::listening(root));
    put(&mut facts, "capabilities", capabilities(&root.read("proc/1/status")));
    put(&mut facts, "conntrack_writable", conntrack_writable(root));
    put(&mut facts, "disks", DISKS.iter().filter_map(|path| Some((*path, disk(Path::new(path))?))).collect::<Value>());
    put(&mut facts, "swap_on", root.read("proc/swaps").lines().count() > 1);
    put(&mut facts, "resolv_conf", resolv_conf(root));
    facts
}

/// Opened, and nothing written: that alone tells of a read-only /proc/sys, and of a setting that is not this node's own.
fn conntrack_writable(root: &Root) -> bool {
    match std::fs::OpenOptions::new().write(true).open(root.path("proc/sys/net/netfilter/nf_conntrack_max")) {
        Ok(_) => true,
        // The kernel makes it when the first rule loads the module: then it is a machine's own, and none of a container's.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound && container(root).is_none(),
    }
}

fn systemd_version(view: View<'_>) -> Option<i64> {
    let output = view.processes().probe(&Command::new(["systemctl", "--version"])).ok()?;
    // systemd 252 (252.39-1~deb12u2)
    let number = output.stdout.split_whitespace().nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn cgroup(root: &Root) -> Map {
    let (mut v1, mut v2) = (Vec::new(), false);
    for line in root.read("proc/self/mountinfo").lines() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let mount = place.split(' ').nth(4).unwrap_or_default();
        let mut kind = kind.split(' ');
        match (kind.next(), kind.nth(1)) {
            (Some("cgroup"), Some(options)) if mount.starts_with("/sys/fs/cgroup/") => {
                v1.extend(options.split(',').map(str::to_owned));
            }
            (Some("cgroup2"), _) if mount.starts_with("/sys/fs/cgroup") => v2 = true,
            _ => {}
        }
    }
    // Among the options of a v1 mount are controllers; the kernel has the list of those.
    let known = root.read("proc/cgroups");
    let known: Vec<&str> = known.lines().filter_map(|line| line.split_whitespace().next()).collect();
    v1.retain(|option| known.contains(&option.as_str()));
    let unified = if v1.is_empty() { root.read("sys/fs/cgroup/cgroup.controllers") } else { String::new() };
    let mut controllers = v1.clone();
    controllers.extend(unified.split_whitespace().map(str::to_owned));
    controllers.sort_unstable();
    controllers.dedup();
    let version = match (v1.is_empty(), v2) {
        (false, false) => "1",
        (false, true) => "hybrid",
        (true, _) => "2",
    };
    // On v1, systemd in a container has a hierarchy of its own and no controllers in it: kubelet's limits would be lost.
    let driver = if version == "2" || container(root).is_none() { "systemd" } else { "cgroupfs" };
    let driver = if root.exists("run/systemd/system") { driver } else { "cgroupfs" };
    let mut facts = Map::new();
    put(&mut facts, "version", version);
    put(&mut facts, "controllers", strings(controllers));
    put(&mut facts, "driver", driver);
    facts
}

fn kernel(view: View<'_>) -> Map {
    let kernel = view.kernel();
    let states: Vec<(&str, ModuleState)> = MODULES.iter().map(|name| (*name, kernel.module(name))).collect();
    let mut facts = Map::new();
    put(&mut facts, "release", kernel.release());
    let has = states.iter().map(|(name, state)| (*name, *state != ModuleState::Absent));
    put(&mut facts, "has", has.collect::<Value>());
    let loaded = states.iter().map(|(name, state)| (*name, state.is_usable()));
    put(&mut facts, "loaded", loaded.collect::<Value>());
    put(&mut facts, "modules_loadable", kernel.loads_modules());
    facts
}

/// From init's status: services get no more than it has.
fn capabilities(status: &str) -> Value {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default();
    strings(CAPABILITIES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name))
}

fn disk(path: &Path) -> Option<Value> {
    let space = path.ancestors().find(|path| path.exists()).and_then(Space::of)?;
    Some([("available", space.available), ("total", space.total)].into_iter().collect())
}

/// systemd-resolved's stub on 127.0.0.53 is of no use in a pod; the file behind it is.
fn resolv_conf(root: &Root) -> &'static str {
    let stub = root.read("etc/resolv.conf").lines().any(|line| {
        line.strip_prefix("nameserver").is_some_and(|address| matches!(address.trim(), "127.0.0.53" | "127.0.0.54"))
    });
    if stub && root.exists("run/systemd/resolve/resolv.conf") {
        "/run/systemd/resolve/resolv.conf"
    } else {
        "/etc/resolv.conf"
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::root;
    use super::*;

    const CGROUPS: &str =
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t9\t1\nmemory\t4\t9\t1\npids\t8\t9\t1\n";

    fn cgroup_of(files: &[(&str, &str)]) -> (String, String, String) {
        let (_dir, root) = root(files);
        let facts = cgroup(&root);
        (facts["version"].to_string(), facts["controllers"].to_string(), facts["driver"].to_string())
    }

    fn triple(version: &str, controllers: &str, driver: &str) -> (String, String, String) {
        (version.to_owned(), controllers.to_owned(), driver.to_owned())
    }

    #[test]
    fn cgroup_versions_and_drivers() {
        let booted = ("run/systemd/system/x", "");
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let files = [("proc/self/mountinfo", hybrid), ("proc/cgroups", CGROUPS), booted];
        assert_eq!(cgroup_of(&files), triple("hybrid", "['cpu', 'memory']", "systemd"));
        let nspawn = [files[0], files[1], booted, ("run/systemd/container", "systemd-nspawn\n")];
        assert_eq!(cgroup_of(&nspawn), triple("hybrid", "['cpu', 'memory']", "cgroupfs"));

        let v2 = [
            ("proc/self/mountinfo", "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("run/systemd/container", "lxc\n"),
            booted,
        ];
        assert_eq!(cgroup_of(&v2), triple("2", "['cpu', 'cpuset', 'io', 'memory', 'pids']", "systemd"));
        assert_eq!(cgroup_of(&v2[..3]).2, "cgroupfs");
    }

    #[test]
    fn capability_bits() {
        assert_eq!(
            capabilities("Name:\tsystemd\nCapBnd:\t0000000001200001\n"),
            strings(["chown", "sys_admin", "sys_resource"])
        );
        assert_eq!(capabilities(""), strings(Vec::<String>::new()));
    }

    #[test]
    fn connection_tracking_is_a_machines_own_before_it_is_loaded_too() {
        let file = ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n");
        let nspawn = ("run/systemd/container", "systemd-nspawn\n");
        for (files, writable) in [(&[file][..], true), (&[], true), (&[nspawn], false)] {
            let (_dir, root) = root(files);
            assert_eq!(conntrack_writable(&root), writable, "{files:?}");
        }
    }

    #[test]
    fn the_file_with_real_name_servers() {
        let (_dir, plain) = root(&[("etc/resolv.conf", "nameserver 10.0.0.2\n")]);
        assert_eq!(resolv_conf(&plain), "/etc/resolv.conf");
        let files = [
            ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
            ("run/systemd/resolve/resolv.conf", "nameserver 10.0.0.2\n"),
        ];
        let (_dir, stub) = root(&files);
        assert_eq!(resolv_conf(&stub), "/run/systemd/resolve/resolv.conf");
    }

    #[test]
    fn disks_that_are_yet_to_be_made() {
        let missing = disk(Path::new("/var/lib/no/such/directory")).unwrap();
        let parent = disk(Path::new("/var/lib")).unwrap();
        assert_eq!(missing.get("total"), parent.get("total"));
        assert!(missing.get("available").and_then(Value::as_int) > Some(0));
    }
}
