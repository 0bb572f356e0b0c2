//! Lab nodes with a cluster on them, for the tests that need one.
//!
//! Real nodes, so only when asked for with `KPROV_E2E=1` (root). `KPROV` names another kprov than the one under test,
//! `KPROV_ARTIFACTS` the directory of artifacts, `KPROV_KUBE_VERSION` another Kubernetes than the default one.

#![expect(clippy::print_stdout, reason = "says why a test was skipped, and how long each stage took")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const VERSIONS: &str = include_str!("../../group_vars/all/artifacts.yml");

/// What the environment says.
#[derive(Clone)]
pub struct Settings {
    pub kprov: PathBuf,
    pub artifacts: PathBuf,
    pub kube_version: String,
}

impl Settings {
    /// `None`, with the reason printed, where real nodes were not asked for.
    pub fn read() -> Option<Self> {
        if std::env::var_os("KPROV_E2E").is_none_or(|value| value != "1") {
            println!("skipped: set KPROV_E2E=1 to make a real cluster on this machine (needs root)");
            return None;
        }
        let artifacts = std::env::var_os("KPROV_ARTIFACTS").map(PathBuf::from);
        let default = VERSIONS.lines().find_map(|line| line.strip_prefix("kube_version: "));
        Some(Self {
            kprov: std::env::var_os("KPROV").map_or_else(|| env!("CARGO_BIN_EXE_kprov").into(), PathBuf::from),
            artifacts: artifacts.expect("KPROV_ARTIFACTS names the directory that tests/artifacts/build.sh makes"),
            kube_version: std::env::var("KPROV_KUBE_VERSION").unwrap_or_else(|_| default.unwrap().to_owned()),
        })
    }
}

/// Nodes `n1`, `n2`, … with an inventory; whatever happens, they do not outlive the test.
pub struct Lab {
    pub settings: Settings,
    name: String,
    pub dir: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.lab("down", &[]).output();
    }
}

impl Lab {
    pub fn up(settings: Settings, name: &str, nodes: usize, args: &[&str]) -> Self {
        let lab = Self { settings, name: name.to_owned(), dir: tempfile::tempdir().unwrap() };
        let dir = lab.inventory();
        ok(lab.lab("up", &["--nodes", &nodes.to_string(), "--dir", dir.to_str().unwrap()]).args(args));
        lab
    }

    pub fn inventory(&self) -> PathBuf {
        self.dir.path().join("inventory")
    }

    pub fn lab(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.settings.kprov);
        command.args(["lab", verb, "--name", &self.name]).args(args);
        command
    }

    /// Runs `script` as root in the node and returns its output without the last newline.
    pub fn inside(&self, node: &str, script: &str) -> String {
        ok(&mut self.lab("exec", &[node, "--", "sh", "-euc", script])).trim_end().to_owned()
    }

    /// As [`Lab::inside`], with `input` for the script to read.
    pub fn feed(&self, node: &str, script: &str, input: &str) -> String {
        let mut command = self.lab("exec", &[node, "--", "sh", "-euc", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn address(&self, node: &str) -> String {
        let status = ok(&mut self.lab("status", &["--format", "json"]));
        let nodes: Vec<Value> = lines(&status);
        nodes.iter().find(|entry| entry["name"] == node).unwrap()["address"].as_str().unwrap().to_owned()
    }

    /// Runs kprov on the lab's inventory. Room on the disk is the test machine's affair, not the cluster's.
    pub fn kprov(&self, verb: &str, args: &[&str]) -> Output {
        self.command(verb, args).output().unwrap()
    }

    /// kprov on the lab's inventory, to be run.
    pub fn command(&self, verb: &str, args: &[&str]) -> Command {
        let extra = json!({
            "artifact_sources": [self.settings.artifacts],
            "kube_version": self.settings.kube_version,
            "kubelet_config_extra_args": {
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "imageGCHighThresholdPercent": 99,
                "imageGCLowThresholdPercent": 98,
            },
        });
        let mut command = Command::new(&self.settings.kprov);
        command.arg(verb).arg("-i").arg(self.inventory().join("inventory.ini"));
        command.args(["-e", &extra.to_string()]).args(args);
        command
    }

    /// The exit status and the events of a run.
    pub fn json(&self, verb: &str, args: &[&str]) -> (i32, Vec<Value>) {
        let output = self.kprov(verb, &[&["--format", "json"], args].concat());
        let events = lines(&String::from_utf8_lossy(&output.stdout));
        assert!(!events.is_empty(), "no events: {}", text(&output));
        (output.status.code().unwrap(), events)
    }
}

/// Task (with its id) and host.
pub type Changes = BTreeSet<(String, String)>;

pub struct Cluster {
    pub lab: Lab,
    pub kubectl: PathBuf,
}

impl Cluster {
    pub fn new(lab: Lab) -> Self {
        let Settings { artifacts, kube_version, .. } = &lab.settings;
        let archive = artifacts.join(format!("dl.k8s.io/v{kube_version}/kubernetes-server-linux-amd64.tar.gz"));
        let member = "kubernetes/server/bin/kubectl";
        ok(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(lab.dir.path()).arg(member));
        Self { kubectl: lab.dir.path().join(member), lab }
    }

    /// kubectl on the test machine, as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.lab.inventory().join("artifacts/admin.conf")).args(args);
        command
    }

    pub fn get(&self, args: &[&str]) -> Value {
        let text = ok(&mut self.kubectl(&[&["get", "-o", "json"], args].concat()));
        serde_json::from_str(&text).unwrap()
    }

    pub fn create(&self, object: &Value) {
        let file = self.lab.dir.path().join("object.json");
        fs::write(&file, object.to_string()).unwrap();
        ok(&mut self.kubectl(&["create", "-f", file.to_str().unwrap()]));
    }

    /// What a plan would change.
    pub fn plan(&self) -> Changes {
        let (exit, events) = self.lab.json("plan", &[]);
        assert_eq!(exit, 0, "{}", failures(&events));
        changes(events.iter().filter(|event| event["event"] == "change"))
    }

    /// What a run has changed; no host may fail.
    pub fn apply(&self) -> Changes {
        let (exit, events) = self.lab.json("apply", &[]);
        assert_eq!(exit, 0, "{}", failures(&events));
        for (host, counts) in recap(&events).as_object().unwrap() {
            assert_eq!((&counts["failed"], &counts["unreachable"]), (&json!(0), &json!(0)), "{host}");
        }
        changes(events.iter().filter(|event| event["event"] == "task" && event["status"] == "changed"))
    }

    /// Plans, applies, and holds one to the other.
    pub fn apply_as_planned(&self) -> Changes {
        let planned = self.plan();
        let changed = self.apply();
        let only_planned: Vec<_> = planned.difference(&changed).collect();
        let only_changed: Vec<_> = changed.difference(&planned).collect();
        assert!(
            only_planned.is_empty() && only_changed.is_empty(),
            "planned but not changed: {only_planned:#?}\nchanged but not planned: {only_changed:#?}"
        );
        changed
    }
}

pub fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|entry| entry["type"] == name).and_then(|entry| entry["status"].as_str()).unwrap_or("none")
}

pub fn changes<'a>(events: impl Iterator<Item = &'a Value>) -> Changes {
    let field = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let task =
        |event: &Value| format!("{} {} : {}", field(event, "task_id"), field(event, "role"), field(event, "task"));
    events.map(|event| (task(event), field(event, "host"))).collect()
}

pub fn recap(events: &[Value]) -> &Value {
    &events.iter().find(|event| event["event"] == "recap").expect("a recap")["hosts"]
}

/// Of a run, what is worth reading when it went wrong.
pub fn failures(events: &[Value]) -> String {
    let bad =
        |event: &&Value| event["status"] == "failed" || event["status"] == "unreachable" || event["event"] == "finding";
    events.iter().filter(bad).map(|event| format!("{event:#}\n")).collect()
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command prints; it has to succeed.
pub fn ok(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Success with `expected` in the output, for [`eventually`].
pub fn succeeds(output: &Output, expected: &str) -> Result<(), String> {
    let found = text(output);
    if output.status.success() && found.contains(expected) {
        Ok(())
    } else {
        Err(format!("{}: {found}", output.status))
    }
}

/// Waits until there is a result; a test that hangs says what for, and what was there instead.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "not within two minutes: {what}; last: {last}"),
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

pub fn stage(name: &str, work: impl FnOnce()) {
    println!("{name} …");
    let started = Instant::now();
    work();
    println!("  {:.1} s", started.elapsed().as_secs_f64());
}
