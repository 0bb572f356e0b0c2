//! Memory, processors, space on disks.

use super::input::{CONTROL_PLANE, Checked, ETCD, NODE, Node, Setting};
use crate::value::Value;
use std::path::Path;

/// Memory as the machine or its control group limits it, in MB: Kubespray's two assertions, each for its group.
pub fn memory(node: &Node<'_>) -> Checked {
    at_least(
        node,
        "memory",
        &["ansible_memtotal_mb"],
        "MB",
        [(CONTROL_PLANE, "minimal_master_memory_mb"), (NODE, "minimal_node_memory_mb")],
    )
}

/// Processors that are online.
pub fn cpus(node: &Node<'_>) -> Checked {
    at_least(
        node,
        "processors",
        &["ansible_processor_vcpus"],
        "processors",
        [(CONTROL_PLANE, "minimal_master_cpus"), (NODE, "minimal_node_cpus")],
    )
}

fn at_least(
    node: &Node<'_>,
    check: &'static str,
    fact: &[&str],
    unit: &str,
    limits: [(&str, &'static str); 2],
) -> Checked {
    let mut findings = Vec::new();
    for (group, variable) in limits {
        if !node.is_in(group) {
            continue;
        }
        let limit = node.int(variable)?;
        let required = format!("at least {} {unit}", limit.value);
        match node.int_fact(fact) {
            None => findings.push(node.unknown(check, &fact.join("."), required)),
            Some(found) if found < limit.value => findings.push(
                node.finding(check, format!("{found} {unit}"), required)
                    .limit(&limit)
                    .help(format!("add {check}, or lower the limit with -e {variable}={found}")),
            ),
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// A path, and the megabytes that it needs.
type Wanted = (String, Setting<i64>);

/// Free space where data and programs will go. What lies on one file system is added up. A component that runs has its
/// data already: what it has used up is no reason to stop.
pub fn disk(node: &Node<'_>) -> Checked {
    let etcd = node.is_in(ETCD);
    let kubelet = node.is_in(CONTROL_PLANE) || node.is_in(NODE);
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut want = |path: String, limit: Setting<i64>| wanted.push((path, limit));
    if etcd && !runs(node, "etcd") {
        want(node.text("etcd_data_dir")?.value, node.int("minimal_etcd_disk_mb")?);
    }
    if kubelet && !runs(node, "kubelet") {
        want(node.text("containerd_storage_dir")?.value, node.int("minimal_containerd_disk_mb")?);
        want(node.text("kubelet_root_dir")?.value, node.int("minimal_kubelet_disk_mb")?);
    }
    if !wanted.is_empty() {
        wanted.push(("/opt/kprov".to_owned(), node.int("minimal_programs_disk_mb")?));
    }

    let mut findings = Vec::new();
    let mut disks: Vec<(Space, Vec<Wanted>)> = Vec::new();
    for (path, limit) in wanted {
        let Some(space) = space_of(node, &path) else {
            findings.push(node.unknown("disk", "kprov.disks", format!("{} MB free for {path}", limit.value)));
            continue;
        };
        match disks.iter_mut().find(|(known, _)| known.is_same(&space)) {
            Some((_, users)) => users.push((path, limit)),
            None => disks.push((space, vec![(path, limit)])),
        }
    }
    for (space, mut users) in disks {
        let sum: i64 = users.iter().map(|(_, limit)| limit.value).sum();
        if space.free >= sum {
            continue;
        }
        users.sort_by_key(|(_, limit)| -limit.value);
        let parts: Vec<String> =
            users.iter().map(|(path, limit)| format!("{} for {path} by {}", limit.value, limit.name)).collect();
        findings.extend(users.first().map(|(path, limit)| {
            let found = format!("{} MB free where {path} is", space.free);
            node.finding("disk", found, format!("{sum} MB: {}", parts.join(", ")))
                .limit(limit)
                .help("free some space, mount another disk there, or lower the limits")
        }));
    }
    Ok(findings)
}

/// Space of a file system, in MB.
struct Space {
    total: i64,
    free: i64,
}

impl Space {
    /// Whether these are two looks at one file system: of one size, and about as full.
    fn is_same(&self, other: &Self) -> bool {
        self.total == other.total && (self.free - other.free).abs() < 64
    }
}

/// The file system that a path is or would be on: as the agent says for the usual places, else by the mounts.
fn space_of(node: &Node<'_>, path: &str) -> Option<Space> {
    let space = |value: &Value, total: &str, free: &str| {
        let mb = |name: &str| value.get(name)?.as_int().map(|bytes| bytes >> 20);
        Some(Space { total: mb(total)?, free: mb(free)? })
    };
    let disk = |path: &str| space(node.fact(&["kprov", "disks", path])?, "total", "available");
    let mounts = node.fact(&["ansible_mounts"]).and_then(Value::as_list).unwrap_or_default();
    let mount = |mount: &&Value| {
        mount.get("mount").and_then(Value::as_str).is_some_and(|mount| Path::new(path).starts_with(mount))
    };
    let longest = |mount: &&Value| mount.get("mount").and_then(Value::as_str).map_or(0, str::len);
    disk(path)
        .or_else(|| space(mounts.iter().filter(mount).max_by_key(longest)?, "size_total", "size_available"))
        .or_else(|| disk("/"))
}

/// Whether our unit of that name has a port open.
fn runs(node: &Node<'_>, unit: &str) -> bool {
    super::ports::listeners(node).into_iter().flatten().any(|listener| listener.is(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::testing::{Fixture, facts};

    #[test]
    fn memory_is_held_to_the_limit_of_each_group() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(memory), []);
        cluster.fact("n3", "ansible_memtotal_mb", 512);
        cluster.fact("n1", "ansible_memtotal_mb", 1200);
        let lines = cluster.lines(memory);
        assert_eq!(
            lines,
            [
                "n1 : memory : found 1200 MB, required at least 1500 MB (minimal_master_memory_mb, defaults.yml:1) : \
             add memory, or lower the limit with -e minimal_master_memory_mb=1200",
                "n3 : memory : found 512 MB, required at least 1024 MB (minimal_node_memory_mb, defaults.yml:1) : \
             add memory, or lower the limit with -e minimal_node_memory_mb=512",
            ]
        );
        cluster.var("minimal_node_memory_mb", "400");
        assert_eq!(cluster.lines(memory).len(), 1, "text from -e counts as a number");
        cluster.remove_fact("n2", "ansible_memtotal_mb");
        assert!(cluster.lines(memory)[1].starts_with("n2 : memory : found no fact `ansible_memtotal_mb`"));
    }

    #[test]
    fn a_control_plane_needs_two_processors() {
        let mut cluster = Fixture::three();
        cluster.fact("n2", "ansible_processor_vcpus", 1);
        assert_eq!(cluster.run(cpus), []);
        cluster.fact("n1", "ansible_processor_vcpus", 1);
        assert!(cluster.lines(cpus)[0].contains("found 1 processors, required at least 2 processors"));
    }

    /// Disks as the agent tells of them, in MB: total and available.
    fn disks(items: &[(&str, i64, i64)]) -> Value {
        let disk = |total: i64, free: i64| facts([("total", (total << 20).into()), ("available", (free << 20).into())]);
        items.iter().map(|(path, total, free)| (*path, disk(*total, *free))).collect()
    }

    #[test]
    fn disks_are_added_up_by_file_system() {
        let mut cluster = Fixture::three();
        assert_eq!(cluster.run(disk), []);
        // 2048 + 3072 + 512 + 1024 are needed on the first node.
        let one = |free| {
            let paths = ["/", "/var/lib/etcd", "/var/lib/containerd", "/var/lib/kubelet", "/opt/kprov"];
            disks(&paths.map(|path| (path, 10_000, free)))
        };
        cluster.kprov("n1", "disks", one(6655));
        assert!(cluster.lines(disk)[0].starts_with(
            "n1 : disk : found 6655 MB free where /var/lib/containerd is, required 6656 MB: 3072 for /var/lib/containerd by \
             minimal_containerd_disk_mb, 2048 for /var/lib/etcd by minimal_etcd_disk_mb, 1024 for"
        ));
        cluster.kprov("n1", "disks", one(6656));
        assert_eq!(cluster.run(disk), []);
        cluster.kprov("n1", "disks", disks(&[("/", 10_000, 4608), ("/var/lib/etcd", 500, 400)]));
        cluster.remove_fact("n1", "ansible_mounts");
        let lines = cluster.lines(disk);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("found 400 MB free where /var/lib/etcd is, required 2048 MB: "));
        cluster.kprov("n1", "disks", disks(&[]));
        assert_eq!(cluster.lines(disk).len(), 4);
    }

    #[test]
    fn another_directory_is_found_by_its_mount() {
        let mut cluster = Fixture::three();
        cluster.var("etcd_data_dir", "/data/etcd");
        assert_eq!(cluster.run(disk), []);
        let mount = |path: &str, mb: i64| {
            facts([("mount", path.into()), ("size_total", (mb << 20).into()), ("size_available", (mb << 20).into())])
        };
        cluster.fact(
            "n1",
            "ansible_mounts",
            Value::List(vec![mount("/", 6000), mount("/data", 1), mount("/dat", 9000)]),
        );
        assert!(cluster.lines(disk)[0].contains("found 1 MB free where /data/etcd is"));
    }

    #[test]
    fn what_runs_has_its_space() {
        let mut cluster = Fixture::three();
        cluster.kprov("n3", "disks", disks(&[("/", 10_000, 0)]));
        cluster.remove_fact("n3", "ansible_mounts");
        assert_eq!(cluster.run(disk).len(), 1);
        cluster.listen("n3", "0.0.0.0", 10250, "kubelet.service");
        assert_eq!(cluster.run(disk), []);
    }
}
