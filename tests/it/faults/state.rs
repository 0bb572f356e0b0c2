//! What kprov manages on a node, read and compared.
//!
//! Files are compared by content, mode and owner; keys and certificates by what they say and whether they belong together.

use super::NODES;
use crate::fixture::{Lab, ok};
use kprov::pki::{Certificate, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

/// What says which ranges of addresses the cluster has given to which nodes, in the order in which these joined it. Is
/// compared without that; what it has to be at the end, the plan that finds nothing to do says.
const OF_CLUSTER: [&str; 2] = ["/etc/cni/net.d/10-kprov.conflist", "/usr/local/sbin/kprov-pod-network"];

/// What the items of one task change line by line: between two of them it has some of its lines.
const LINE_BY_LINE: &str = "/etc/sysctl.d/90-kprov.conf";

/// Prints what is at the managed paths: entries, digests, and the text of certificates and public keys. `$1`: whether the
/// programs are read too, which takes a while.
const READ: &str = r#"
roots=; for root in /etc/kubernetes /etc/containerd /etc/cni /etc/ssl/etcd /etc/systemd/system /etc/sysctl.d \
    /etc/modules-load.d /opt/kprov /opt/cni /usr/local/bin /usr/local/sbin; do [ ! -e $root ] || roots="$roots $root"; done
find $roots ! -name '.kprov-*' ! -name '*.key.new' -printf 'entry %y %m %u:%g %s %p\t%l\n'
[ "$1" = all ] || roots=$(echo $roots | sed 's|/opt/kprov||')
find $roots -type f ! -name '.kprov-*' ! -name '*.key.new' -exec sha256sum {} + | sed 's/^/sum /'
for file in OF_CLUSTER; do
    [ ! -e $file ] || echo "sum $(sed -E '/^ip route replace .* via|-d [0-9.]+ -j RETURN$/d; s|"10\.233\.[0-9]+\.0/24"|POD|' $file |
        sha256sum | cut -c -64)  $file"
done
for file in $(find $roots -name '*.crt' -o -name '*.key'); do echo "pem $file"; cat "$file"; echo; done
[ ! -e LINE_BY_LINE ] || sed 's/^/line /' LINE_BY_LINE
echo end
"#;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: String,
    mode: String,
    owner: String,
    size: u64,
    link: String,
    sha256: Option<String>,
}

/// The managed paths of a node.
pub struct Tree {
    entries: BTreeMap<String, Entry>,
    pems: BTreeMap<String, String>,
    /// Of [`LINE_BY_LINE`].
    lines: BTreeSet<String>,
}

impl Tree {
    /// Those of all nodes.
    pub fn read_all(lab: &Lab, all: bool) -> [(&'static str, Self); NODES.len()] {
        std::thread::scope(|scope| {
            let readers = NODES.map(|node| (node, scope.spawn(move || Self::read(lab, node, all))));
            readers.map(|(node, reader)| (node, reader.join().unwrap()))
        })
    }

    fn read(lab: &Lab, node: &str, all: bool) -> Self {
        let depth = if all { "all" } else { "quick" };
        let script = READ.replace("OF_CLUSTER", &OF_CLUSTER.join(" ")).replace("LINE_BY_LINE", LINE_BY_LINE);
        let text = ok(&mut lab.lab("exec", &[node, "--", "sh", "-euc", &script, "read", depth]));
        let mut tree = Self { entries: BTreeMap::new(), pems: BTreeMap::new(), lines: BTreeSet::new() };
        let mut pem = None;
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix("entry ") {
                let (entry, link) = entry.split_once('\t').unwrap();
                let [kind, mode, owner, size, path] = entry.splitn(5, ' ').collect::<Vec<_>>()[..] else {
                    panic!("{line}")
                };
                let size = if kind == "f" && !OF_CLUSTER.contains(&path) { size.parse().unwrap() } else { 0 };
                let [kind, mode, owner, link] = [kind, mode, owner, link].map(str::to_owned);
                tree.entries.insert(path.to_owned(), Entry { kind, mode, owner, size, link, sha256: None });
            } else if let Some(sum) = line.strip_prefix("sum ") {
                let (sum, path) = sum.split_once("  ").unwrap();
                // One that has come since the entries were listed, from a task that goes on, is looked at the next time.
                if let Some(entry) = tree.entries.get_mut(path) {
                    entry.sha256 = Some(sum.to_owned());
                }
            } else if let Some(path) = line.strip_prefix("pem ") {
                pem = Some(path.to_owned());
            } else if let Some(line) = line.strip_prefix("line ") {
                tree.lines.insert(line.to_owned());
            } else if let Some(path) = &pem {
                tree.pems.entry(path.clone()).or_default().push_str(&format!("{line}\n"));
            }
        }
        assert!(text.ends_with("end\n"), "{node}: cut off");
        tree
    }

    /// Which paths are neither absent nor as in one of the others. Of programs only the size is looked at.
    pub fn is_part_of(&self, others: &[&Self]) -> Vec<String> {
        let mut wrong = self.unreadable();
        for (path, entry) in &self.entries {
            let same = |other: &&Self| {
                let Some(expected) = other.entries.get(path) else { return false };
                let content = entry.sha256.is_none() || entry.sha256 == expected.sha256;
                let whole = match path.as_str() {
                    LINE_BY_LINE => self.lines.is_subset(&other.lines),
                    _ => is_secret(path) || entry.size == expected.size && content,
                };
                entry.kind == expected.kind && entry.link == expected.link && whole
            };
            if !others.iter().any(same) {
                wrong.push(format!("{path}: {entry:?}"));
            }
        }
        wrong
    }

    /// What is not as it is there.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let mut wrong = self.unreadable();
        let plain = |path: &str, entry: &Entry| match is_secret(path) {
            true => Entry { size: 0, sha256: None, ..entry.clone() },
            false => entry.clone(),
        };
        for path in expected.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            wrong.push(format!("{path} is missing"));
        }
        for (path, entry) in &self.entries {
            match expected.entries.get(path) {
                None => wrong.push(format!("{path} is not expected")),
                Some(there) if plain(path, there) != plain(path, entry) => {
                    wrong.push(format!("{path}: {entry:?}, expected {there:?}"));
                }
                Some(_) => {}
            }
        }
        for (path, certificate) in self.certificates() {
            if let Some(there) = expected.certificates().get(&path) {
                let says = |c: &Certificate| (c.subject.clone(), c.sans.clone(), c.usages.clone(), c.authority);
                if says(there) != says(&certificate) {
                    wrong.push(format!("{path}: {certificate:?}, expected {there:?}"));
                }
            }
            let key = self.pems.get(&path.replace(".crt", ".key")).and_then(|pem| Key::from_pem(pem).ok());
            if key.is_some_and(|key| !certificate.has_key(&key)) {
                wrong.push(format!("{path} is not of its key"));
            }
            let authorities = self.certificates();
            let mut authorities = authorities.values().filter(|other| other.authority);
            if !authorities.any(|authority| certificate.issued_by(authority)) {
                wrong.push(format!("{path} is of another authority"));
            }
        }
        wrong
    }

    fn certificates(&self) -> BTreeMap<String, Certificate> {
        let certificates = self.pems.iter().filter(|(path, _)| path.ends_with(".crt"));
        certificates.filter_map(|(path, pem)| Some((path.clone(), Certificate::from_pem(pem).ok()?))).collect()
    }

    fn unreadable(&self) -> Vec<String> {
        let readable = |path: &str, pem: &str| match path.ends_with(".crt") {
            true => Certificate::from_pem(pem).is_ok(),
            false => Key::from_pem(pem).is_ok(),
        };
        self.pems
            .iter()
            .filter(|(path, pem)| !readable(path, pem))
            .map(|(path, _)| format!("{path} is no PEM"))
            .collect()
    }
}

/// What is made anew with every cluster.
fn is_secret(path: &str) -> bool {
    [".crt", ".key", ".pub"].iter().any(|suffix| path.ends_with(suffix))
}

/// What must never be made a second time in the life of a cluster.
#[derive(Clone, Default)]
pub struct Identity(BTreeMap<String, String>);

impl Identity {
    /// Which of it is other than it was.
    pub fn compare(&mut self, node: &str, tree: &Tree) -> Vec<String> {
        let lasting = |path: &str| path.ends_with("ca.crt") || path.ends_with("ca.key") || path.ends_with("/sa.key");
        let mut other = Vec::new();
        for (path, entry) in tree.entries.iter().filter(|(path, _)| lasting(path)) {
            let Some(sum) = &entry.sha256 else { continue };
            // The certificate that all nodes trust is one and the same.
            let name = if path.ends_with(".crt") { path.rsplit_once("/ssl").unwrap().1 } else { path };
            let name = if path.contains("etcd") {
                format!("etcd {}", name.rsplit('/').next().unwrap())
            } else {
                name.to_owned()
            };
            if self.0.entry(name).or_insert_with(|| sum.clone()) != sum {
                other.push(format!("{node}: {path}"));
            }
        }
        other
    }
}

/// Temporary files, and handlers that are still to run.
pub fn left_behind(lab: &Lab, node: &str) -> Vec<String> {
    let find = "find / /var/lib/etcd /var/lib/containerd /var/lib/kubelet -xdev \
        \\( -name '.kprov-??????' -o -name '*.key.new' -o -name 'upload.*' -path '*/kprov/agent/*' \\); \
        ls -d /var/lib/kprov/pending/* 2>/dev/null || true";
    lab.inside(node, find).lines().map(str::to_owned).collect()
}

/// kprov's units that do not run or would not run after a restart.
pub fn stopped_units(lab: &Lab, node: &str) -> Vec<String> {
    let ask = "for unit in $(grep -ls 'Written by kprov' /etc/systemd/system/*.service); do unit=${unit##*/}
        active=$(systemctl is-active $unit || true); enabled=$(systemctl is-enabled $unit || true)
        [ $active,$enabled = active,enabled ] || echo $unit is $active and $enabled; done; systemctl --failed --plain --no-legend";
    lab.inside(node, ask).lines().map(str::to_owned).collect()
}

/// What etcdctl prints on the node with etcd.
pub fn etcdctl(lab: &Lab, command: &str) -> String {
    let ssl = "/etc/ssl/etcd/ssl";
    let script = format!(
        "etcdctl --endpoints https://127.0.0.1:2379 --cacert {ssl}/ca.crt --cert {ssl}/server.crt --key {ssl}/server.key {command} 2>&1"
    );
    let output: Output = lab.lab("exec", &["n1", "--", "sh", "-euc", &script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
