//! The plan is the truth: on real nodes, what `plan` prints is what `apply` changes.
//!
//! Only with `KPROV_E2E=1`; see `fixture.rs`. In one cluster: from nothing, converged, damaged, after a change of each of
//! some variables, and of the versions of its components. Each time a plan is held to the apply after it: the same tasks on
//! the same hosts, the same diffs where the plan calls them exact, and on the nodes' disks what the plan said would be
//! there. That a plan touches nothing is for `untouched.rs`.

#![expect(clippy::print_stdout, reason = "says what was done and how long it took")]

use crate::fixture::*;
use crate::untouched::Snapshot;
use kprov::pki::Certificate;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

const NODES: [&str; 2] = ["n1", "n2"];

/// Each is changed by itself, on top of those before it.
const VARIABLES: [(&str, &str); 11] = [
    ("containerd_registries_mirrors", r#"[{"prefix": "docker.io", "mirrors": [{"host": "https://mirror.test"}]}]"#),
    ("containerd_max_container_log_line_size", "32768"),
    ("kubelet_max_pods", "90"),
    ("kube_apiserver_node_port_range", "\"30000-31000\""),
    ("supplementary_addresses_in_ssl_keys", r#"["api.example.test", "192.0.2.7"]"#),
    ("etcd_quota_backend_bytes", "4294967296"),
    ("kube_proxy_masquerade_all", "true"),
    ("kube_log_level", "3"),
    ("pod_network_mtu", "1400"),
    ("upstream_dns_servers", r#"["192.0.2.53"]"#),
    ("node_labels", r#"{"example.test/rack": "a1"}"#),
];

/// Of the components of which `tests/artifacts` declares another version, that version; of Kubernetes another patch release
/// of the line that is tested.
struct Others {
    containerd: String,
    cni: String,
    kubernetes: Option<String>,
}

impl Others {
    fn declared(settings: &Settings) -> Self {
        let line = settings.kube_version.rsplit_once('.').unwrap().0;
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/artifacts");
        let names = fs::read_dir(modules).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = names.collect();
        let version = |prefix: &str| names.iter().find_map(|name| name.strip_prefix(prefix)).map(str::to_owned);
        let others = Self {
            containerd: version("containerd-").unwrap(),
            cni: version("cni-plugins-").unwrap(),
            kubernetes: version(&format!("kubernetes-{line}.")).map(|patch| format!("{line}.{patch}")),
        };
        let built = |path: String| {
            let path = settings.artifacts.join(path);
            assert!(path.exists(), "{} is missing: `make versions` builds it", path.display());
        };
        built(format!("github.com/containerd/containerd/releases/download/v{}", others.containerd));
        built(format!("github.com/containernetworking/plugins/releases/download/v{}", others.cni));
        match &others.kubernetes {
            Some(version) => built(format!("dl.k8s.io/v{version}")),
            None => println!("NOT TESTED: a patch release of Kubernetes; tests/artifacts declares none of {line}"),
        }
        others
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let kubernetes = self.kubernetes.iter().map(|version| ("kube_version", version.clone()));
        let others = [("containerd_version", self.containerd.clone()), ("cni_version", self.cni.clone())];
        others.into_iter().chain(kubernetes).collect()
    }
}

#[test]
fn the_plan_is_the_truth() {
    let Some(settings) = Settings::read() else { return };
    let others = Others::declared(&settings);
    let lab = Lab::up(settings, "fidelity", NODES.len(), &["--memory", "3G"]);
    let cluster = Cluster::new(lab);
    let mut case =
        Case { cluster, extra: BTreeMap::new(), members: BTreeMap::new(), counts: (0, 0), failed: Vec::new() };

    case.stage("planning touches nothing on empty nodes", |case| case.touches_nothing());
    case.stage("from nothing", |case| {
        case.settles_the_kernel();
        let changes = case.holds();
        let hosts: BTreeSet<_> = changes.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!(hosts, BTreeSet::from(NODES));
    });
    assert!(!case.failed.contains(&"from nothing".to_owned()), "there is no cluster");
    case.stage("converged", |case| assert!(case.holds().is_empty()));
    case.stage("planning touches nothing on a converged cluster", |case| case.touches_nothing());
    for (what, host, script) in DAMAGES {
        case.stage(&format!("damaged: {what}"), |case| case.is_repaired(host, script));
    }
    case.stage("damaged: objects of the cluster", Case::repairs_objects);
    for (name, value) in VARIABLES {
        case.stage(&format!("changed: {name}"), |case| case.follows(name, value));
    }
    // By itself the first changes nothing: a certificate is issued anew when it is due.
    case.stage("changed: certificate_days and certificate_renew_before_days", |case| {
        case.extra.insert("certificate_days".to_owned(), json!(700));
        case.follows("certificate_renew_before_days", "400");
    });
    for (name, version) in others.variables() {
        case.stage(&format!("changed: {name}"), |case| case.follows(name, &json!(version).to_string()));
    }
    case.stage("the other versions run", |case| case.runs(&others));
    case.stage("a saved plan: two variables", Case::keeps_to_a_saved_plan);
    let (both, either) = case.counts;
    println!("fidelity: {:.1} % ({both} of {either} planned or made changes)", 100.0 * both as f64 / either as f64);
    assert!(case.failed.is_empty(), "{:#?}", case.failed);
}

/// What is wrong, where, and how it came to be so.
const DAMAGES: [(&str, &str, &str); 9] = [
    (
        "files edited and removed",
        "n2",
        "echo '# damage' >> /etc/containerd/config.toml
         sed -i s/maxPods/minPods/ /etc/kubernetes/kubelet-config.yml
         rm /etc/systemd/system/kube-proxy.service /etc/cni/net.d/10-kprov.conflist
         truncate -s 0 /etc/kubernetes/kube-proxy.conf
         printf x >> /opt/kprov/cni/1.9.1/portmap
         rm /opt/kprov/kube-proxy/*/kube-proxy",
    ),
    (
        "units stopped, disabled, removed",
        "n1",
        "systemctl stop kube-scheduler kprov-pod-network
         systemctl disable --quiet kubelet
         rm /etc/systemd/system/kube-controller-manager.service",
    ),
    (
        "a container runtime that does not answer",
        "n2",
        "systemctl stop containerd
         rm /opt/kprov/containerd/*/ctr",
    ),
    (
        "links that point elsewhere, or are none",
        "n2",
        "ln -sfn /bin/true /usr/local/bin/runc
         ln -sfn /opt/kprov/cni/0.0.0 /opt/cni/bin
         rm /usr/local/bin/kubelet
         rm /usr/local/bin/ctr && echo 'no link' > /usr/local/bin/ctr",
    ),
    (
        "kernel parameters and modules",
        "n2",
        "sed -i 's/^kernel.panic *=.*/kernel.panic=0/' /etc/sysctl.d/90-kprov.conf
         rm -f /etc/modules-load.d/br_netfilter.conf
         sysctl -q net.ipv4.ip_forward=0",
    ),
    (
        "certificates removed, of another CA, with another key",
        "n1",
        "cd /etc/kubernetes/ssl
         rm kube-scheduler.crt
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -out apiserver.crt \
             -subj /CN=kube-apiserver -days 300 2>/dev/null
         openssl ecparam -genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -nocrypt -out kubelet.key
         echo garbage > kube-proxy.crt
         rm kube-controller-manager.key",
    ),
    ("a package", "n2", "apt-get -qq remove socat > /dev/null 2>&1"),
    ("the name of the host", "n2", "echo other > /etc/hostname; hostname other"),
    (
        "modes and owners",
        "n1",
        "chmod 666 /etc/kubernetes/authentication.yml
         chmod 644 /etc/kubernetes/ssl/apiserver.key
         chown kprov /etc/containerd/config.toml
         chgrp kprov /etc/systemd/system/etcd.service
         chown root: /etc/ssl/etcd/ssl/server.key
         chmod 755 /var/lib/etcd
         chmod -x /opt/kprov/etcd/*/etcdctl",
    ),
];

/// A cluster, and what is asked for beyond the fixture's own.
struct Case {
    cluster: Cluster,
    extra: BTreeMap<String, Value>,
    /// Digests of the files of archives, by archive.
    members: BTreeMap<String, BTreeMap<String, String>>,
    /// Changes that were both planned and made, and those that were either.
    counts: (usize, usize),
    /// What went wrong so far. One case says nothing of the next.
    failed: Vec<String>,
}

impl Case {
    fn stage(&mut self, name: &str, work: impl FnOnce(&mut Self)) {
        let work = AssertUnwindSafe(|| stage(name, || work(self)));
        if catch_unwind(work).is_err() {
            self.failed.push(name.to_owned());
        }
    }

    fn run(&self, verb: &str, args: &[&str]) -> Vec<Value> {
        let extra = json!(self.extra).to_string();
        let (exit, events) = self.cluster.lab.json(verb, &[&["-e", &extra], args].concat());
        assert_eq!(exit, 0, "{}", failures(&events));
        events
    }

    /// What of the kernel is in no namespace belongs to all nodes of a lab: who sets it first leaves nothing to the others,
    /// each of which has planned it. So it is set before they plan.
    fn settles_the_kernel(&self) {
        for event in self.run("plan", &[]) {
            for diff in event["diff"].as_array().into_iter().flatten() {
                let name = diff["subject"].as_str().and_then(|subject| subject.strip_prefix("sysctl "));
                let Some(name) = name.filter(|name| !name.starts_with("net.")) else { continue };
                for field in diff["fields"].as_array().unwrap().iter().filter(|field| field["field"] == "live") {
                    self.cluster.lab.inside("n1", &format!("sysctl -q -w {name}={}", field["after"].as_str().unwrap()));
                }
            }
        }
    }

    /// Plans, applies, and holds one to the other. Returns what changed.
    fn holds(&mut self) -> Changes {
        let planned = self.run("plan", &[]);
        let applied = self.run("apply", &["--diff"]);
        self.compare(planned, applied)
    }

    fn compare(&mut self, planned: Vec<Value>, applied: Vec<Value>) -> Changes {
        let disrupts = restarts_planned(&planned);
        let summary = planned.iter().find(|event| event["event"] == "summary").unwrap().clone();
        let planned: Vec<_> = planned.into_iter().filter(|event| event["event"] == "change").collect();
        let applied: Vec<_> = applied.into_iter().filter(|event| event["status"] == "changed").collect();
        let (before, after) = (changes(planned.iter()), changes(applied.iter()));
        self.counts.0 += before.intersection(&after).count();
        self.counts.1 += before.union(&after).count();
        let only = |one: &Changes, other: &Changes| one.difference(other).cloned().collect::<Vec<_>>();
        let (unmade, unplanned) = (only(&before, &after), only(&after, &before));
        assert!(unmade.is_empty() && unplanned.is_empty(), "planned only: {unmade:#?}\nmade only: {unplanned:#?}");

        let mut grades = BTreeMap::new();
        for change in &planned {
            *grades.entry(change["grade"].as_str().unwrap().to_owned()).or_insert(0) += 1;
            assert_ne!(change["diff"], json!([]), "nothing is shown of {change:#}");
            assert_ne!(change["grade"], "opaque", "{change:#}");
            let later = change["grade"] == "known_after_apply";
            assert!(!later || change["after"].is_string() && change["after_host"].is_string(), "{change:#}");
            let same = |event: &&Value| event["task_id"] == change["task_id"] && event["host"] == change["host"];
            let made = applied.iter().find(same).unwrap();
            if change["grade"] == "exact" {
                assert_eq!(made["diff"], change["diff"], "{} on {}", change["task"], change["host"]);
            }
        }
        println!("  {} changes: {grades:?}", planned.len());
        for (grade, n) in &grades {
            assert_eq!(summary[grade], *n, "{summary:#}");
        }
        assert_eq!(disrupts, restarts_made(&applied));
        for node in NODES {
            let diffs = planned.iter().filter(|change| change["host"] == node);
            self.is_so(node, diffs.flat_map(|change| change["diff"].as_array().unwrap()));
        }
        after
    }

    fn applies_nothing(&self) {
        let events = self.run("apply", &[]);
        let changed = changes(events.iter().filter(|event| event["status"] == "changed"));
        assert!(changed.is_empty(), "{changed:#?}");
    }

    fn is_repaired(&mut self, host: &str, script: &str) {
        self.cluster.lab.inside(host, script);
        assert!(!self.holds().is_empty(), "no damage was found");
        self.applies_nothing();
    }

    fn follows(&mut self, name: &str, value: &str) {
        self.extra.insert(name.to_owned(), serde_json::from_str(value).unwrap());
        assert!(!self.holds().is_empty(), "{name} changes nothing");
        self.applies_nothing();
    }

    /// What was shown is what is done: a plan is saved and applied, within the limits of what may be down at the same time.
    fn keeps_to_a_saved_plan(&mut self) {
        self.extra.insert("kubelet_logfiles_max_nr".to_owned(), json!(4));
        self.extra.insert("kube_controller_node_monitor_period".to_owned(), json!("6s"));
        let extra = json!(self.extra).to_string();
        let (exit, events) = self.cluster.lab.json("apply", &["-e", &extra, "--max-disruption", "kubelet=1"]);
        let finding = events.iter().find(|event| event["event"] == "finding").expect("a finding");
        assert!(exit == 2 && finding["message"].as_str().unwrap().contains("kubelet"), "{exit}: {finding:#}");
        assert!(!events.iter().any(|event| event["status"] == "changed"), "{events:#?}");

        let file = self.cluster.lab.dir.path().join("plan.json");
        let file = file.to_str().unwrap();
        let planned = self.run("plan", &["-o", file, "--max-disruption", "kubelet=2"]);
        let expected = [("kubelet", "n1"), ("kubelet", "n2"), ("kube-controller-manager", "n1")];
        let expected = expected.map(|(unit, host)| (unit.to_owned(), host.to_owned()));
        assert_eq!(restarts_planned(&planned), Changes::from(expected));
        let mut apply = Command::new(&self.cluster.lab.settings.kprov);
        let applied = lines(&ok(apply.args(["apply", "--plan", file, "--diff", "--format", "json"])));
        assert!(!self.compare(planned, applied).is_empty());
        self.applies_nothing();
    }

    fn touches_nothing(&self) {
        let take = || NODES.map(|node| Snapshot::of(&self.cluster.lab, node));
        let before = take();
        self.run("plan", &[]);
        for ((node, before), after) in NODES.iter().zip(before).zip(take()) {
            before.must_be(&after, node);
        }
    }

    fn repairs_objects(&mut self) {
        let scripts = [
            "delete --namespace kube-system service kube-dns",
            "scale --namespace kube-system deployment coredns --replicas 1",
            "patch --namespace kube-system configmap coredns --patch {\"data\":{\"Corefile\":\"\"}}",
            "label node n2 kprov.io/managed-",
        ];
        for script in scripts {
            ok(&mut self.cluster.kubectl(&script.split(' ').collect::<Vec<_>>()));
        }
        assert!(!self.holds().is_empty(), "no damage was found");
        self.applies_nothing();
    }

    fn runs(&self, others: &Others) {
        let kubernetes = others.kubernetes.as_ref().unwrap_or(&self.cluster.lab.settings.kube_version);
        let (containerd, cni) = (&others.containerd, &others.cni);
        for node in NODES {
            let object = self.cluster.get(&["node", node]);
            let info = &object["status"]["nodeInfo"];
            assert_eq!(info["kubeletVersion"], format!("v{kubernetes}"), "{info:#}");
            assert_eq!(info["containerRuntimeVersion"], format!("containerd://{containerd}"), "{info:#}");
            let plugin = self.cluster.lab.inside(node, "/opt/cni/bin/bridge 2>&1 || true");
            assert!(plugin.contains(&format!("v{cni}")), "{plugin}");
        }
        let version = ok(&mut self.cluster.kubectl(&["get", "--raw=/version"]));
        assert!(version.contains(&format!("\"v{kubernetes}\"")), "{version}");
        let programs = ["kubelet", "kube-proxy", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
        for program in programs {
            let script = format!("readlink /proc/$(systemctl show --property MainPID --value {program})/exe");
            let running = self.cluster.lab.inside("n1", &script);
            assert!(running.contains(&format!("/{kubernetes}/")), "{running}");
        }
    }

    /// Holds the node to what a plan said would be there. Later tasks have the last word.
    fn is_so<'a>(&mut self, node: &str, diffs: impl Iterator<Item = &'a Value>) {
        let mut expected = Expected::default();
        for diff in diffs {
            expected.add(diff, |digest, name| self.digest(digest, name));
        }
        expected.must_be(&self.cluster.lab, node);
    }

    /// SHA-256 of the file `name` in the archive with this digest, or of the published file itself.
    fn digest(&mut self, published: &str, name: &str) -> String {
        let hex = published.strip_prefix("sha256:").unwrap();
        let artifacts = &self.cluster.lab.settings.artifacts;
        let members = self.members.entry(hex.to_owned()).or_insert_with(|| {
            let sums = fs::read_to_string(artifacts.join("SHA256SUMS")).unwrap();
            let path = sums.lines().find_map(|line| line.strip_prefix(hex)).unwrap().trim_start();
            if !path.ends_with("gz") {
                return BTreeMap::from([(name.to_owned(), hex.to_owned())]);
            }
            let each = "echo $(sha256sum) $(basename $TAR_FILENAME)";
            let list = ok(Command::new("tar").arg("-xzf").arg(artifacts.join(path)).args(["--to-command", each]));
            let parts = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            list.lines().map(parts).map(|line| (line[2].clone(), line[0].clone())).collect()
        });
        members[name].clone()
    }
}

/// What a plan says that will be on a node.
#[derive(Default)]
struct Expected {
    files: BTreeMap<String, BTreeMap<String, String>>,
    /// Shell commands, and what they print.
    answers: BTreeMap<String, String>,
}

impl Expected {
    fn add(&mut self, diff: &Value, mut member: impl FnMut(&str, &str) -> String) {
        if let Some(path) = diff["path"].as_str().filter(|path| path.starts_with('/')) {
            let file = self.files.entry(path.to_owned()).or_default();
            match diff["after"].as_str() {
                Some(text) => file.extend([entry("state", "file"), entry("sha256", &sha256(text.as_bytes()))]),
                None => *file = BTreeMap::from([entry("state", "absent")]),
            }
        }
        let Some(subject) = diff["subject"].as_str() else { return };
        for field in diff["fields"].as_array().unwrap() {
            let (name, Some(after)) = (field["field"].as_str().unwrap(), field["after"].as_str()) else { continue };
            if subject.starts_with('/') {
                let (name, value) = match (name, after) {
                    ("state", "installed") => ("state", "file".to_owned()),
                    ("from", digest) => ("sha256", member(digest, subject.rsplit('/').next().unwrap())),
                    ("mode", mode) => ("mode", mode.trim_start_matches('0').to_owned()),
                    ("state", "absent" | "file" | "directory" | "link") | ("src" | "owner" | "group", _) => {
                        (name, after.to_owned())
                    }
                    ("subject" | "sans" | "usages", _) => (name, after.to_owned()),
                    _ => continue,
                };
                self.files.entry(subject.to_owned()).or_default().insert(name.to_owned(), value);
                continue;
            }
            let (command, value) = match (subject.split_once(' '), name, after) {
                (Some(("sysctl", name)), "live", value) => (format!("sysctl -n {name}"), value),
                (Some(("user", user)), "home", home) => (format!("getent passwd {user} | cut -d: -f6"), home),
                (Some(("user", user)), "shell", shell) => (format!("getent passwd {user} | cut -d: -f7"), shell),
                (None, package, "installed") if subject == "packages" => {
                    (format!("dpkg-query -W -f '${{db:Status-Status}}' {package}"), "installed")
                }
                (None, package, version) if subject == "packages" => {
                    (format!("dpkg-query -W -f '${{Version}}' {package}"), version)
                }
                (Some(("host", _)), "live", name) => ("hostname".to_owned(), name),
                (None, "state", "active") => (format!("systemctl is-active {subject}"), "active"),
                (None, "enabled", after) => (format!("systemctl is-enabled {subject}"), after),
                _ => continue,
            };
            self.answers.insert(command, value.to_owned());
        }
    }

    fn must_be(&self, lab: &Lab, node: &str) {
        let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        if self.files.is_empty() && self.answers.is_empty() {
            return;
        }
        let paths: String = self.files.keys().map(|path| format!("{path}\n")).collect();
        let script = "list=$(cat)
            echo \"$list\" | xargs -r -d '\\n' sh -c 'find \"$@\" -maxdepth 0 -printf \"%p\\t%y\\t%m\\t%u\\t%g\\t%l\\n\"' - 2>/dev/null || true
            echo
            echo \"$list\" | xargs -r -d '\\n' sha256sum 2>/dev/null || true";
        let listing = lab.feed(node, script, &paths);
        let (meta, sums) = listing.split_once("\n\n").unwrap_or((&listing, ""));
        for line in meta.lines().filter(|line| !line.is_empty()) {
            let parts: Vec<_> = line.split('\t').collect();
            let kind = match parts[1] {
                "d" => "directory",
                "l" => "link",
                "f" => "file",
                other => other,
            };
            let names = ["state", "mode", "owner", "group", "src"];
            let values = [kind, parts[2], parts[3], parts[4], parts[5]];
            found
                .entry(parts[0].to_owned())
                .or_default()
                .extend(names.into_iter().zip(values).map(|(n, v)| entry(n, v)));
        }
        for (sum, path) in sums.lines().filter_map(|line| line.split_once("  ")) {
            found.entry(path.to_owned()).or_default().extend([entry("sha256", sum)]);
        }
        for (path, expected) in &self.files {
            let mut found = found.remove(path).unwrap_or_else(|| BTreeMap::from([entry("state", "absent")]));
            if expected.contains_key("subject") || expected.contains_key("sans") || expected.contains_key("usages") {
                let certificate = Certificate::from_pem(&lab.inside(node, &format!("cat {path}"))).unwrap();
                found.extend([
                    entry("subject", &certificate.subject.to_string()),
                    entry("sans", &certificate.sans.join(", ")),
                    entry("usages", &certificate.usages.join(", ")),
                ]);
            }
            found.retain(|name, _| expected.contains_key(name));
            assert_eq!(&found, expected, "{path} on {node}");
        }
        for (command, expected) in &self.answers {
            assert_eq!(&lab.inside(node, &format!("{command} || true")), expected, "`{command}` on {node}");
        }
    }
}

/// Units that a plan says will restart, and where.
fn restarts_planned(events: &[Value]) -> Changes {
    let restarts = events.iter().filter(|event| event["event"] == "consequence" && event["action"] == "restart");
    let pairs = restarts.flat_map(|event| {
        let unit = event["unit"].as_str().unwrap();
        let hosts = event["hosts"].as_array().unwrap();
        hosts.iter().map(move |host| (unit.to_owned(), host.as_str().unwrap().to_owned()))
    });
    pairs.collect()
}

/// Units that an apply has restarted.
fn restarts_made(applied: &[Value]) -> Changes {
    let mut made = Changes::new();
    for event in applied {
        for diff in event["diff"].as_array().unwrap() {
            let unit = diff["note"].as_str().and_then(|note| note.strip_prefix("restart ")?.strip_suffix(".service"));
            made.extend(unit.map(|unit| (unit.to_owned(), event["host"].as_str().unwrap().to_owned())));
        }
    }
    made
}

fn entry(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
