//! Runs that are killed anywhere: an apply is disturbed at task boundaries, and what comes of it has to be what an
//! undisturbed one makes.
//!
//! A chain of runs on nodes that begin empty: each run is disturbed at boundaries where no run was before, what was
//! broken is mended, and apply runs again, until one goes through. Since finished steps cost nothing, one chain covers a
//! first apply. The same for a change of the configuration of the cluster that it left.
//!
//! Only with `KPROV_E2E=1`; see `fixture.rs`. `KPROV_FAULT_SEED` picks kinds, hosts and moments (printed; default: the
//! clock), `KPROV_FAULT_KINDS` which kinds there are, `KPROV_FAULT_STEPS` at which boundaries: every n-th, or a list of
//! task ids; by default each kind comes once, at a random one of the first apply or the change. `KPROV_FAULT_CHAINS` says
//! which chains of each sort are run, as in `1-8`; those eight, one for each kind, and `KPROV_FAULT_STEPS=1` have every kind
//! meet every boundary (`make faults`). Chains may be shared out among several processes.

#![expect(clippy::print_stdout, reason = "says what was done, and what reproduces it")]

mod inject;
mod state;

use crate::fixture::*;
use inject::{Broken, Kind, Random};
use serde_json::{Value, json};
use state::{Identity, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The node that holds the lock, and runs the control plane.
const LOCK: &str = "n1";
/// Above the disk space that kprov asks for. Only what is written takes room on the machine.
const NODE: [&str; 4] = ["--memory", "3G", "--disk", "10G"];
/// For how long a run tries to reach a host again: long enough for one that is there. And for how long it waits for the lock:
/// that of a run that was killed this moment is free once its node has noticed.
const PATIENCE: [&str; 4] = ["--reconnect-timeout", "15", "--lock-timeout", "10"];
/// No run may hang.
const RUN_WITHIN: Duration = Duration::from_secs(300);

#[test]
fn a_run_can_be_killed_anywhere() {
    let Some(settings) = Settings::read() else { return };
    let plan = Plan::read();
    let steps = plan.steps.as_deref().unwrap_or_default();
    let (first, last) = (plan.chains.start + 1, plan.chains.end);
    println!("KPROV_FAULT_SEED={} KPROV_FAULT_STEPS={steps} KPROV_FAULT_CHAINS={first}-{last}", plan.seed);
    let mut covered = Covered::default();

    let mut reference = None;
    stage("the same without faults", || reference = Some(Reference::make(plan.cluster(&settings))));
    let reference = reference.unwrap();
    for chain in plan.chains.clone() {
        let cluster = plan.cluster(&settings);
        let identity = Identity::default();
        stage(&format!("a first apply, chain {}", chain + 1), || {
            Chain::new(&cluster, &plan, &reference, chain, Change::First, identity.clone()).run(&mut covered);
        });
        // Back and forth: each change begins on a cluster that has converged.
        let rounds = if chain + 1 == plan.chains.end { plan.chains.clone() } else { 0..0 };
        for (number, round) in rounds.enumerate() {
            let change = if number % 2 == 0 { Change::There } else { Change::Back };
            stage(&format!("a change of the configuration, chain {}", round + 1), || {
                Chain::new(&cluster, &plan, &reference, round, change, identity.clone()).run(&mut covered);
            });
        }
    }
    covered.print();
}

/// What the environment asks for.
struct Plan {
    seed: u64,
    kinds: Vec<Kind>,
    /// Every n-th boundary, or task ids; `None`: as many boundaries as there are kinds.
    steps: Option<String>,
    /// Counted from 0.
    chains: Range<usize>,
}

impl Plan {
    fn read() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let kinds = read("KPROV_FAULT_KINDS").map(|names| names.split(',').map(Kind::named).collect());
        Self {
            seed: read("KPROV_FAULT_SEED")
                .map_or_else(clock, |seed| seed.parse().expect("KPROV_FAULT_SEED is a number")),
            kinds: kinds.unwrap_or_else(|| Kind::ALL.to_vec()),
            steps: read("KPROV_FAULT_STEPS"),
            chains: read("KPROV_FAULT_CHAINS").map_or(0..1, |chains| {
                let bounds =
                    chains.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
                let (first, last): (usize, usize) = bounds.expect("KPROV_FAULT_CHAINS is like 1-8");
                assert!((1..=last).contains(&first), "KPROV_FAULT_CHAINS is like 1-8");
                first - 1..last
            }),
        }
    }

    /// New nodes, always with the same addresses, which are in the files that are compared.
    fn cluster(&self, settings: &Settings) -> Cluster {
        let (first, subnet) = (self.chains.start, format!("10.77.{}.0/24", 100 + self.chains.start));
        let options = [&NODE[..], &["--subnet", &subnet]].concat();
        Cluster::new(Lab::up(settings.clone(), &format!("faults{}", first + 1), 3, &options))
    }

    /// The boundaries of a chain: after which task, on which host, comes which kind. Another chain, other kinds.
    fn boundaries(&self, tasks: &[(String, String)], chain: usize, change: Change) -> Vec<Boundary> {
        let mut hosts: Vec<(&str, Vec<&str>)> = Vec::new();
        for (task, host) in tasks {
            match hosts.iter_mut().find(|(known, _)| known == task) {
                Some((_, hosts)) => hosts.push(host),
                None => hosts.push((task, vec![host])),
            }
        }
        // Which tasks end first is not the same each time.
        hosts.sort_by_cached_key(|(task, _)| by_number(task));
        hosts.iter_mut().for_each(|(_, hosts)| hosts.sort_unstable());
        let mut random = Random::new(self.seed.wrapping_add(chain as u64));
        let (mut kinds, mut first_in_row) = (self.kinds.clone(), 0);
        let chosen: Vec<_> = match &self.steps {
            None => {
                // What every run comes to: a handler may have run while its host was disturbed already.
                hosts.retain(|(task, _)| !is_handler_id(task));
                // One half of the kinds in the first apply, the other in the change.
                Random::new(self.seed).shuffle(&mut kinds);
                let others = kinds.split_off(kinds.len().div_ceil(2));
                kinds = if change == Change::First { kinds } else { others };
                random.shuffle(&mut hosts);
                hosts.into_iter().take(kinds.len()).collect()
            }
            Some(steps) => {
                let every = steps.parse::<usize>().ok();
                let first = random.below(every.unwrap_or(1));
                // As many of one kind in a row as there are nodes, each on another where that can be: one run meets them all.
                kinds = kinds.iter().flat_map(|kind| [*kind; NODES.len()]).collect();
                first_in_row = Random::new(self.seed).below(kinds.len());
                let by = (first_in_row + chain * NODES.len()) % kinds.len();
                kinds.rotate_left(by);
                let is_chosen = |(at, (task, _)): &(usize, (&str, Vec<&str>))| match every {
                    Some(every) => at % every == first,
                    None => steps.split(',').any(|step| step == *task),
                };
                hosts.into_iter().enumerate().filter(is_chosen).map(|(_, chosen)| chosen).collect()
            }
        };
        let mut boundaries: Vec<Boundary> = Vec::new();
        for ((at, (task, mut hosts)), kind) in chosen.into_iter().enumerate().zip(kinds.iter().cycle()) {
            let in_row = (at + first_in_row) % NODES.len();
            random.shuffle(&mut hosts);
            // Without the one that has the lock, a run is over.
            hosts.sort_by_key(|host| (*host == LOCK) != (in_row + 1 == NODES.len()));
            let before = &boundaries[at - in_row.min(at)..];
            let is_new = |host: &&&str| before.iter().all(|boundary| boundary.host != **host);
            let host = hosts.iter().find(is_new).unwrap_or(&hosts[0]).to_string();
            boundaries.push(Boundary { task: task.to_owned(), host, kind: *kind, delay: random.delay(), done: false });
        }
        boundaries
    }
}

struct Boundary {
    task: String,
    host: String,
    kind: Kind,
    /// How long after the event.
    delay: Duration,
    done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    First,
    There,
    Back,
}

impl Change {
    /// What there is room for, and in a change: other settings of containerd, kubelet, etcd, the API server, and names in
    /// its certificate.
    fn args(self) -> Vec<String> {
        let kubelet = |pods: u32| {
            json!({"kubelet_config_extra_args": {
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                // A disk that was full is no reason to keep pods away for minutes.
                "evictionPressureTransitionPeriod": "1s",
                "imageGCHighThresholdPercent": 99,
                "imageGCLowThresholdPercent": 98,
                "maxPods": pods,
            }})
        };
        let changed = json!({
            "containerd_max_container_log_line_size": 8192,
            "etcd_snapshot_count": 5000,
            "kube_apiserver_request_timeout": "2m0s",
            "kube_controller_node_monitor_grace_period": "41s",
            "supplementary_addresses_in_ssl_keys": ["other.example"],
        });
        let extra = match self {
            Self::First | Self::Back => vec![kubelet(110)],
            Self::There => vec![kubelet(100), changed],
        };
        extra.iter().flat_map(|vars| ["-e".to_owned(), vars.to_string()]).collect()
    }
}

/// What undisturbed runs do and leave behind.
struct Reference {
    /// The tasks of a first apply and of a change that are not skipped, with their hosts, in the order in which they end.
    first: Vec<(String, String)>,
    change: Vec<(String, String)>,
    before: BTreeMap<&'static str, Tree>,
    after: BTreeMap<&'static str, Tree>,
}

impl Reference {
    fn make(cluster: Cluster) -> Self {
        let run = |change: Change, kept: &[&str]| -> Vec<(String, String)> {
            let args = change.args();
            let (exit, events) = cluster.lab.json("apply", &args.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(exit, 0, "{}", failures(&events));
            let done = events.iter().filter(|event| kept.iter().any(|status| event["status"] == *status));
            done.map(|event| (text_of(event, "task_id"), text_of(event, "host"))).collect()
        };
        let trees = || Tree::read_all(&cluster.lab, true).into();
        let first = run(Change::First, &["ok", "changed"]);
        let before = trees();
        let change = run(Change::There, &["changed"]);
        Self { first, change, before, after: trees() }
    }
}

/// Runs of kprov one after the other, until one goes through.
struct Chain<'a> {
    cluster: &'a Cluster,
    reference: &'a Reference,
    change: Change,
    boundaries: Vec<Boundary>,
    args: Vec<String>,
    /// What was done by an earlier run and still holds: task and host, and its title.
    finished: BTreeMap<(String, String), String>,
    /// Hosts whose kubelet runs.
    joined: BTreeSet<String>,
    identity: Identity,
    random: Random,
    /// How the last run ended.
    failed: bool,
    log: Vec<String>,
}

impl<'a> Chain<'a> {
    fn new(
        cluster: &'a Cluster,
        plan: &Plan,
        reference: &'a Reference,
        chain: usize,
        change: Change,
        identity: Identity,
    ) -> Self {
        let tasks = if change == Change::First { &reference.first } else { &reference.change };
        let boundaries = plan.boundaries(tasks, chain, change);
        let random = Random::new(!plan.seed.wrapping_add(chain as u64));
        let (finished, log) = (BTreeMap::new(), Vec::new());
        Self {
            cluster,
            reference,
            change,
            boundaries,
            args: change.args(),
            finished,
            joined: BTreeSet::new(),
            identity,
            random,
            failed: false,
            log,
        }
    }

    fn run(mut self, covered: &mut Covered) {
        let member = (self.change != Change::First).then(|| self.member());
        for number in 1.. {
            assert!(number < 400, "there is no end to it:\n{}", self.log.join("\n"));
            let (exit, broken) = self.disturbed(number);
            let faults: Vec<_> = broken.iter().map(|fault| (fault.kind, fault.host.clone())).collect();
            for fault in broken {
                fault.mend(&self.cluster.lab);
            }
            faults.iter().for_each(|(_, host)| inject::reachable(&self.cluster.lab, host));
            self.look();
            for (kind, host) in &faults {
                covered.add(self.change, *kind);
                if kind.restarts_services() {
                    // What such a fault undoes by itself: a unit may be found between two starts.
                    self.finished.retain(|(_, at), title| at != host || !runs_a_service(title));
                }
            }
            if exit == Some(0) && faults.is_empty() {
                break;
            }
        }
        let missed = self.boundaries.iter().filter(|at| !at.done).map(|at| &at.task);
        let (handlers, missed): (Vec<_>, Vec<_>) = missed.partition(|task| is_handler_id(task));
        if !handlers.is_empty() {
            println!("  handlers that ran only where their host was disturbed already: {handlers:?}");
        }
        assert!(missed.is_empty(), "boundaries that no run came to: {missed:?}\n{}", self.log.join("\n"));
        self.converged();
        if let Some(member) = member {
            assert_eq!(self.member(), member, "etcd is another");
        }
    }

    /// One run, disturbed at boundaries that no run was disturbed at before. Returns its exit status and what is broken.
    fn disturbed(&mut self, number: usize) -> (Option<i32>, Vec<Broken>) {
        let lab = &self.cluster.lab;
        let mut args: Vec<&str> =
            ["--format", "json"].into_iter().chain(self.args.iter().map(String::as_str)).collect();
        // What a run has recorded is there to be gone on with when the first of its steps has changed something.
        let resumes = self.failed && !self.finished.is_empty() && self.random.below(2) == 0;
        args.extend(resumes.then_some("--resume"));
        args.extend(PATIENCE);
        let errors = lab.dir.path().join("stderr");
        let mut command = lab.command("apply", &args);
        let stderr = std::fs::File::create(&errors).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).stdin(Stdio::null()).spawn().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let started = Instant::now();
        let mut broken: Vec<Broken> = Vec::new();
        let mut repeated = Vec::new();
        // When, and what.
        let mut wrong: Vec<(Duration, String)> = Vec::new();
        let mut unreachable = BTreeSet::new();
        let mut counts = (0, 0);
        loop {
            let line = match lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if started.elapsed() < RUN_WITHIN => {
                    broken.iter_mut().for_each(|fault| fault.pass(lab));
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    panic!("run {number} hangs:\n{}", self.log.join("\n"));
                }
            };
            // A killed run may leave half a line.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            if event["event"] == "warning" {
                let said = event["message"].as_str().unwrap();
                broken.iter_mut().filter(|fault| fault.is_told_over(said)).for_each(|fault| fault.over = true);
            }
            if event["event"] == "warning" || event["event"] == "finding" && event["fatal"] == true {
                wrong.push((started.elapsed(), text_of(&event, "message")));
            }
            if event["event"] != "task" {
                continue;
            }
            let (task, host, title) = (text_of(&event, "task_id"), text_of(&event, "host"), text_of(&event, "task"));
            let status = event["status"].as_str().unwrap();
            if title == "Run kubelet" && matches!(status, "ok" | "changed") && self.joined.insert(host.clone()) {
                // Another node: what routes the others have to it holds no longer.
                self.finished.retain(|(task, _), title| !routes_to_others(task, title));
            }
            match status {
                "changed" => {
                    counts.1 += 1;
                    let before = self.finished.insert((task.clone(), host.clone()), title.clone());
                    if before.is_some() && !is_restart(&title) {
                        repeated.push(format!("{host}: {task} {title}"));
                    }
                }
                "ok" => counts.0 += 1,
                // Once is enough.
                "unreachable" if !unreachable.insert(host.clone()) => continue,
                "failed" | "unreachable" => {
                    let why = event["message"].as_str().unwrap_or_default();
                    wrong.push((started.elapsed(), format!("{host}: {task} {title}: {why}")));
                    continue;
                }
                _ => continue,
            }
            let at = self.boundaries.iter_mut().find(|at| !at.done && at.task == task && at.host == host);
            let Some(at) = at.filter(|_| broken.iter().all(|fault: &Broken| fault.host != host || fault.is_over()))
            else {
                continue;
            };
            at.done = true;
            std::thread::sleep(at.delay);
            let (kind, delay, when) = (at.kind.name(), at.delay.as_millis(), started.elapsed().as_secs_f64());
            let label = format!("{when:.1} s: {kind} on {host} {delay} ms after {task} {title}");
            println!("    {label}");
            self.log.push(label);
            match at.kind {
                Kind::Controller => child.kill().unwrap(),
                kind => broken.push(Broken::start(lab, kind, &host)),
            }
            if at.kind == Kind::Controller {
                broken.push(Broken::nothing(at.kind, &host));
            }
        }
        let exit = child.wait().unwrap().code();
        self.failed = exit != Some(0);
        let (ok, changed) = counts;
        let took = started.elapsed().as_secs_f64();
        let why: Vec<_> = wrong.iter().map(|(at, why)| format!("{:.1} s: {why}", at.as_secs_f64())).collect();
        let why = why.join("\n      ");
        let summary = format!(
            "  run {number}{}: exit {exit:?} after {took:.1} s, ok={ok} changed={changed}\n      {why}",
            if resumes { " (resumed)" } else { "" }
        );
        println!("{}", summary.trim_end());
        self.log.push(summary);
        assert!(repeated.is_empty(), "done twice: {repeated:#?}\n{}", self.log.join("\n"));
        let said = std::fs::read_to_string(&errors).unwrap();
        assert!(!matches!(exit, Some(1 | 101)), "{said}\n{}", self.log.join("\n"));
        let survived = broken.iter().all(|fault| fault.kind.is_survived());
        assert!(!survived || exit == Some(0), "a run did not survive it: {said}\n{}", self.log.join("\n"));
        (exit, broken)
    }

    /// Between two runs: what is there is whole, and there is one authority.
    fn look(&mut self) {
        for (node, tree) in Tree::read_all(&self.cluster.lab, false) {
            let wrong = tree.is_part_of(&[&self.reference.before[node], &self.reference.after[node]]);
            assert!(wrong.is_empty(), "{node}: half or foreign: {wrong:#?}\n{}", self.log.join("\n"));
            let other = self.identity.compare(node, &tree);
            assert!(other.is_empty(), "{node}: made anew: {other:?}\n{}", self.log.join("\n"));
        }
    }

    /// At the end: as after an undisturbed run, everything runs, and nothing is left to do.
    fn converged(&self) {
        let (lab, log) = (&self.cluster.lab, self.log.join("\n"));
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let (exit, events) = lab.json("apply", &args);
        assert_eq!(exit, 0, "{}\n{log}", failures(&events));
        let again = changes(events.iter().filter(|event| event["status"] == "changed"));
        assert!(again.is_empty(), "the run after the last changed {again:#?}\n{log}");
        let plan = lab.kprov("plan", &[&["--detailed-exitcode"], &args[..]].concat());
        assert_eq!(plan.status.code(), Some(0), "{}\n{log}", text(&plan));

        let expected = if self.change == Change::There { &self.reference.after } else { &self.reference.before };
        for (node, tree) in Tree::read_all(lab, true) {
            let different = tree.differences(&expected[node]);
            assert!(different.is_empty(), "{node} is not as after an undisturbed run: {different:#?}\n{log}");
            let left = state::left_behind(lab, node);
            assert!(left.is_empty(), "{node}: left behind: {left:#?}\n{log}");
            let stopped = state::stopped_units(lab, node);
            assert!(stopped.is_empty(), "{node}: {stopped:#?}\n{log}");
        }
        self.cluster_works();
    }

    fn cluster_works(&self) {
        eventually("every node to be Ready, and its disk and memory too", || {
            let nodes = self.cluster.get(&["nodes"]);
            let nodes = nodes["items"].as_array().unwrap();
            let well = |node: &Value| condition(node, "Ready") == "True" && condition(node, "DiskPressure") == "False";
            if nodes.len() == NODES.len() && nodes.iter().all(well) { Ok(()) } else { Err(json!(nodes).to_string()) }
        });
        eventually("CoreDNS to be available", || {
            let coredns = self.cluster.get(&["deployment", "coredns", "--namespace", "kube-system"]);
            if condition(&coredns, "Available") == "True" { Ok(()) } else { Err(coredns["status"].to_string()) }
        });
        let health = state::etcdctl(&self.cluster.lab, "endpoint health");
        assert!(health.contains("is healthy"), "{health}");
        assert_eq!(state::etcdctl(&self.cluster.lab, "member list").lines().count(), 1);
    }

    /// Which member of which cluster etcd is.
    fn member(&self) -> String {
        state::etcdctl(&self.cluster.lab, "member list")
    }
}

/// A restart may have to be made again: what notified it is done once more.
fn is_restart(title: &str) -> bool {
    title.starts_with("Restart ")
}

fn is_handler_id(task: &str) -> bool {
    task.contains(".h")
}

/// 4.9 comes before 4.10.
fn by_number(task: &str) -> Vec<(u32, &str)> {
    task.split('.').map(|part| (part.trim_start_matches('h').parse().unwrap_or(0), part)).collect()
}

/// What depends on which nodes there are, for a host goes on without one that has failed: the routes, and the handler that
/// they notify.
fn routes_to_others(task: &str, title: &str) -> bool {
    title == "Install the routes and rules of the pod network"
        || is_handler_id(task) && title == "Set the routes and rules of the pod network"
}

/// Tasks that look at whether a service runs.
fn runs_a_service(title: &str) -> bool {
    title.starts_with("Run ") || title.starts_with("Set the routes")
}

fn text_of(event: &Value, field: &str) -> String {
    event[field].as_str().unwrap().to_owned()
}

/// How often each kind of fault was met.
#[derive(Default)]
struct Covered(BTreeMap<(&'static str, bool), usize>);

impl Covered {
    fn add(&mut self, change: Change, kind: Kind) {
        *self.0.entry((kind.name(), change == Change::First)).or_default() += 1;
    }

    fn print(&self) {
        println!("{:12} {:>12} {:>12}", "fault", "first apply", "change");
        let kinds: BTreeSet<_> = self.0.keys().map(|(kind, _)| *kind).collect();
        for kind in kinds {
            let count = |first| self.0.get(&(kind, first)).copied().unwrap_or_default();
            println!("{kind:12} {:>12} {:>12}", count(true), count(false));
        }
    }
}
