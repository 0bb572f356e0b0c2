//! A picture of a node, for the proof that planning touches nothing: every file, process and listening socket.

use crate::fixture::*;
use std::collections::{BTreeMap, BTreeSet};

/// Of every file: kind, mode, owner, size, times, target and digest; of every process: its id, start and command.
const PICTURE: &str = r#"
find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o -printf '%p\t%y %m %U:%G %s %T@ %C@ %l\n'
echo
find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o -type f -print0 | xargs -0 sha256sum 2>/dev/null || true
echo
for stat in /proc/[0-9]*/stat; do
    pid=${stat%/stat}
    [ $pid != /proc/$$ ] || continue
    # The start is the 22nd field; a command may hold blanks.
    echo ${pid#/proc/} $(sed 's/.*) //' $stat 2>/dev/null | cut -d' ' -f20) $(tr '\0' ' ' < $pid/cmdline 2>/dev/null)
done
echo
cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == "0A" {print "tcp", $2}'
cat /proc/net/udp /proc/net/udp6 | awk '$4 == "07" {print "udp", $2}'
awk '$4 == "00010000" {print "unix", $8}' /proc/net/unix
"#;

pub struct Snapshot {
    files: BTreeMap<String, String>,
    processes: BTreeSet<String>,
    sockets: BTreeSet<String>,
}

impl Snapshot {
    pub fn of(lab: &Lab, node: &str) -> Self {
        let text = lab.inside(node, PICTURE);
        let mut parts = text.split("\n\n");
        let mut part = || parts.next().unwrap_or_default().lines();
        let mut files: BTreeMap<String, String> = part()
            .filter_map(|line| line.split_once('\t'))
            .map(|(path, meta)| (path.to_owned(), meta.to_owned()))
            .collect();
        for (sum, path) in part().filter_map(|line| line.split_once("  ")) {
            if let Some(meta) = files.get_mut(path) {
                *meta = format!("{meta} {sum}");
            }
        }
        Self { files, processes: part().map(str::to_owned).collect(), sockets: part().map(str::to_owned).collect() }
    }

    /// Fails with what a plan has touched.
    pub fn must_be(&self, after: &Self, node: &str) {
        let paths: BTreeSet<_> = self.files.keys().chain(after.files.keys()).filter(|path| !is_others(path)).collect();
        let entry = |files: &BTreeMap<String, String>, path: &str| files.get(path).cloned().unwrap_or_default();
        let touched: Vec<_> = paths
            .into_iter()
            .map(|path| (path, entry(&self.files, path), entry(&after.files, path)))
            .filter(|(_, before, after)| before != after)
            .collect();
        assert!(touched.is_empty(), "{node}: {touched:#?}");
        let difference = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.symmetric_difference(other).cloned().collect()
        };
        assert_eq!(difference(&self.processes, &after.processes), [""; 0], "{node}");
        assert_eq!(difference(&self.sockets, &after.sockets), [""; 0], "{node}");
    }
}

/// What a plan may leave behind, its agent, and what others write meanwhile: sshd and PAM for each login, the journal, and
/// etcd for the leases that the cluster renews. Of the directories only the times: what is in them is listed by itself.
fn is_others(path: &str) -> bool {
    matches!(path, "/run" | "/run/motd.dynamic" | "/var/lib" | "/var/lib/kprov" | "/var/lib/kprov/agent")
        || ["/var/lib/kprov/agent/", "/var/log/journal/", "/run/systemd/journal/", "/var/lib/etcd/member/"]
            .iter()
            .any(|prefix| path.starts_with(prefix))
}
