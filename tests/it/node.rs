//! Modules on a node with a real systemd: what a plan says is what apply does, nothing is done twice, damage is repaired.
//!
//! Real nodes, so only when asked for with `KPROV_E2E=1`.

use crate::agent::{launch, soon};
use crate::lab::Lab;
use kprov::agent::client::{Agent, Events};
use kprov::agent::protocol::{FromAgent, StepName, Task, TaskResult, ToAgent};
use kprov::modules::args::{ArgError, Args, Files};
use kprov::modules::{self, Diff, Failure, Grade, Outcome, Resource};
use kprov::system::Mode;
use kprov::transport::{ConnectionFlags, Target};
use kprov::value::{Map, Value};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const UNIT: &str = "/etc/systemd/system/kprov-it.service";

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ArgError> {
        Err(ArgError::new("src", format!("no file {name}")))
    }
}

/// A task, as `module: key=value …` would be one. Values are strings, as Ansible takes them.
fn task(module: &str, args: &[(&str, &str)]) -> Resource {
    let args: Map = args.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    modules::from_args(module, Args::new(args, None, &NoFiles))
        .expect(module)
        .unwrap_or_else(|e| panic!("{module}: {e}"))
}

fn unit_file(text: &str) -> Resource {
    task("copy", &[("dest", UNIT), ("content", text), ("mode", "0644")])
}

/// A service that says when it is up.
fn notifying(argument: &str) -> String {
    format!(
        "[Service]\nType=notify\nNotifyAccess=all\nEnvironment=ARG={argument}\n\
         ExecStart=/bin/sh -c 'systemd-notify --ready --status=\"here we are\"; exec sleep infinity'\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// An agent on the node.
struct Node {
    agent: Agent,
    events: Events,
    seq: u32,
}

impl Node {
    async fn connect(lab: &Lab) -> Self {
        let path = |name: &str| lab.inventory().join(name).display().to_string();
        let vars: Map = [
            ("ansible_host", lab.address(0)),
            ("ansible_user", "kprov".to_owned()),
            ("ansible_become", "true".to_owned()),
            ("ansible_ssh_private_key_file", path("id_ed25519")),
            ("ansible_ssh_common_args", format!("-o UserKnownHostsFile={}", path("known_hosts"))),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
        let target = Target::from_vars("n1", &vars, &ConnectionFlags::default()).unwrap();
        let (agent, events) = launch(&target).await.unwrap();
        Self { agent, events, seq: 0 }
    }

    async fn begin(&self, mode: Mode) {
        self.agent.send(ToAgent::Begin { mode, run: None }).await.unwrap();
    }

    async fn run(&mut self, resource: &Resource) -> Result<Outcome, Failure> {
        match self.run_as(resource, &[], None).await {
            TaskResult::Done(outcome) => Ok(outcome),
            TaskResult::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a task that notifies handlers, or that is a notified one.
    async fn run_as(&mut self, resource: &Resource, notify: &[&str], handler: Option<&str>) -> TaskResult {
        self.seq += 1;
        let seq = self.seq;
        let task = Task {
            seq,
            name: StepName::default(),
            epoch: seq,
            group: seq,
            ignore_errors: false,
            notify: notify.iter().map(|name| (*name).to_owned()).collect(),
            handler: handler.map(str::to_owned),
            carried: false,
            expect: None,
            resource: resource.clone(),
        };
        self.agent.send(ToAgent::from(task)).await.unwrap();
        loop {
            match soon(self.events.next()).await.unwrap().unwrap() {
                FromAgent::Done { result, .. } => return result,
                FromAgent::Started { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Runs all in one mode; each has to succeed.
    async fn all(&mut self, mode: Mode, tasks: &[Resource]) -> Vec<Outcome> {
        self.begin(mode).await;
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(self.run(task).await.unwrap_or_else(|failure| panic!("{mode:?} {task:?}: {failure}")));
        }
        outcomes
    }

    /// Plans, applies, and applies again; returns which tasks have changed something.
    async fn converge(&mut self, tasks: &[Resource]) -> Vec<bool> {
        let planned = self.all(Mode::Plan, tasks).await;
        let applied = self.all(Mode::Apply, tasks).await;
        for ((task, planned), applied) in tasks.iter().zip(&planned).zip(&applied) {
            assert_eq!(planned.changed, applied.changed, "{task:?}\nplanned {planned:?}\napplied {applied:?}");
            if planned.grade == Grade::Exact {
                assert_eq!(planned.diff, applied.diff, "{task:?}");
            }
        }
        let again = self.all(Mode::Apply, tasks).await;
        for (task, outcome) in tasks.iter().zip(&again) {
            assert!(!outcome.changed, "twice: {task:?} {outcome:?}");
        }
        applied.iter().map(|outcome| outcome.changed).collect()
    }

    async fn facts(&self) -> Value {
        soon(self.agent.facts()).await.unwrap()
    }
}

#[tokio::test]
async fn units() {
    let Some(lab) = Lab::new('u') else { return };
    lab.up(&["--nodes", "1"]);
    let mut node = Node::connect(&lab).await;
    let state = || lab.inside("n1", "systemctl show -p ActiveState,UnitFileState,MainPID,Environment kprov-it");
    let started =
        task("systemd", &[("name", "kprov-it"), ("state", "started"), ("enabled", "yes"), ("daemon_reload", "yes")]);

    // A new unit, from nothing. The plan knows it from the planned file.
    let failure = node.all(Mode::Plan, &[]).await.is_empty().then_some(node.run(&started).await.unwrap_err()).unwrap();
    assert_eq!(failure.message, "there is no unit kprov-it.service on this host");
    let tasks = [unit_file(&notifying("one")), started.clone()];
    assert_eq!(node.converge(&tasks).await, [true, true]);
    assert!(state().contains("ActiveState=active") && state().contains("UnitFileState=enabled"), "{}", state());

    // A changed file is loaded, and the service keeps running until it is restarted.
    let pid = lab.inside("n1", "systemctl show -p MainPID kprov-it");
    let tasks = [unit_file(&notifying("two")), started.clone()];
    assert_eq!(node.converge(&tasks).await, [true, true]);
    assert!(state().contains(&pid) && state().contains("ARG=two"), "{}", state());

    // The first drop-in of a unit: systemd itself does not notice the new directory.
    let directory = task("file", &[("path", &format!("{UNIT}.d")), ("state", "directory")]);
    let conf = format!("{UNIT}.d/10-kprov.conf");
    let drop_in = task("copy", &[("dest", &conf), ("content", "[Service]\nEnvironment=ARG=three\n")]);
    let only_reload = task("systemd", &[("daemon_reload", "yes")]);
    assert_eq!(node.converge(&[directory, drop_in, only_reload]).await, [true, true, true]);
    assert!(state().contains("ARG=three"), "{}", state());

    // Restarts happen each time, in a plan only on paper.
    let restart = task("service", &[("name", "kprov-it"), ("state", "restarted")]);
    let planned = node.all(Mode::Plan, std::slice::from_ref(&restart)).await;
    assert_eq!(planned[0].diff, [Diff::Note("restart kprov-it.service".to_owned())]);
    assert!(state().contains(&pid));
    let applied = node.all(Mode::Apply, std::slice::from_ref(&restart)).await;
    assert!(applied[0].changed && !state().contains(&pid));
    let text = |key: &str| applied[0].result["status"].get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert_eq!((text("ActiveState"), text("StatusText")), ("active".to_owned(), "here we are".to_owned()));

    // Damage is repaired, each by the task whose business it is.
    lab.inside("n1", "systemctl stop kprov-it; systemctl disable -q kprov-it");
    assert_eq!(node.converge(&tasks).await, [false, true]);
    lab.inside("n1", &format!("rm {UNIT}"));
    assert_eq!(node.converge(&tasks).await, [true, true]);

    // Down, masked, and gone.
    let stopped = task("systemd", &[("name", "kprov-it"), ("state", "stopped"), ("enabled", "no")]);
    assert_eq!(node.converge(&[stopped]).await, [true]);
    let masked = task("systemd", &[("name", "kprov-it"), ("masked", "yes")]);
    let failure = node.run(&masked).await.unwrap_err().message;
    assert_eq!(failure, format!("cannot mask kprov-it.service: its file {UNIT} has to be removed first"));
    let gone = task("file", &[("path", UNIT), ("state", "absent")]);
    assert_eq!(node.converge(&[gone]).await, [true]);
    assert_eq!(node.converge(&[masked]).await, [true]);
    assert!(lab.inside("n1", "systemctl start kprov-it 2>&1 || true").contains("masked"));
    let unmasked = task("systemd", &[("name", "kprov-it"), ("masked", "no")]);
    assert!(node.all(Mode::Apply, &[unmasked]).await[0].changed);
}

#[tokio::test]
async fn a_handler_restarts_only_what_runs_with_old_files() {
    let Some(lab) = Lab::new('h') else { return };
    lab.up(&["--nodes", "1"]);
    let mut node = Node::connect(&lab).await;
    let started = task("systemd", &[("name", "kprov-it"), ("state", "started"), ("daemon_reload", "yes")]);
    let restart = task("systemd", &[("name", "kprov-it"), ("state", "restarted")]);
    let file = |text: &str| unit_file(&notifying(text));
    let changed = |result: &TaskResult| matches!(result, TaskResult::Done(outcome) if outcome.changed);
    for mode in [Mode::Plan, Mode::Apply] {
        node.begin(mode).await;
        for (text, restarts) in [("one", false), ("two", true)] {
            assert!(changed(&node.run_as(&file(text), &["Restart it"], None).await));
            // The first time it is started, the second time its file is loaded again.
            assert!(node.run(&started).await.unwrap().changed);
            let handled = node.run_as(&restart, &[], Some("Restart it")).await;
            assert_eq!(changed(&handled), restarts, "{mode:?} {text}: {handled:?}");
        }
    }
    let pid = lab.inside("n1", "systemctl show --value -p MainPID kprov-it");
    assert!(lab.inside("n1", &format!("tr '\\0' '\\n' < /proc/{pid}/environ")).contains("ARG=two"));
}

#[tokio::test]
async fn units_that_fail() {
    let Some(lab) = Lab::new('f') else { return };
    lab.up(&["--nodes", "1"]);
    let mut node = Node::connect(&lab).await;
    let start = task("systemd", &[("name", "kprov-it"), ("state", "started"), ("daemon_reload", "yes")]);
    node.begin(Mode::Apply).await;
    for (kind, restart) in [("notify", "no"), ("simple", "no"), ("oneshot", "no"), ("notify", "always")] {
        let text = format!(
            "[Service]\nType={kind}\nRestart={restart}\nRestartSec=1h\nExecStart=/bin/sh -c 'echo the disk is full; exit 3'\n"
        );
        node.run(&unit_file(&text)).await.unwrap();
        let failure = node.run(&start).await.unwrap_err().message;
        assert!(failure.starts_with("cannot start kprov-it.service: it is "), "{kind}: {failure}");
        assert!(failure.contains("result exit-code") && failure.contains("the disk is full"), "{kind}: {failure}");
        lab.inside("n1", "systemctl stop kprov-it; systemctl reset-failed");
    }
    // What runs to its end and succeeds has not failed.
    node.run(&unit_file("[Service]\nType=oneshot\nExecStart=/bin/true\n")).await.unwrap();
    assert!(node.run(&start).await.unwrap().changed);
}

#[tokio::test]
async fn accounts_kernel_and_packages() {
    let Some(lab) = Lab::new('a') else { return };
    lab.up(&["--nodes", "1"]);
    let mut node = Node::connect(&lab).await;
    let tasks = [
        task("group", &[("name", "kprov-cert"), ("system", "yes")]),
        task("group", &[("name", "kprov-fixed"), ("gid", "4711")]),
        task(
            "user",
            &[("name", "kprov-etcd"), ("system", "yes"), ("shell", "/usr/sbin/nologin"), ("createhome", "no")],
        ),
        task(
            "user",
            &[("name", "kprov-kube"), ("uid", "4712"), ("group", "kprov-fixed"), ("groups", "kprov-cert,adm")],
        ),
        task(
            "user",
            &[("name", "kprov-etcd"), ("groups", "kprov-cert"), ("append", "yes"), ("comment", "etcd, the store")],
        ),
        task("hostname", &[("name", "kprov-renamed")]),
        task(
            "sysctl",
            &[("name", "net.ipv4.ip_forward"), ("value", "1"), ("sysctl_file", "/etc/sysctl.d/99-kprov.conf")],
        ),
        task("modprobe", &[("name", "overlay"), ("persistent", "present")]),
        task("package", &[("name", "curl,sudo,iptables")]),
        task("wait_for", &[("port", "22"), ("timeout", "5")]),
    ];
    let changed = node.converge(&tasks).await;
    assert_eq!(changed[..8], [true; 8]);
    assert_eq!(changed[8..], [false; 2]);
    assert_eq!(
        lab.inside("n1", "id -u kprov-kube; id -gn kprov-kube; id -nG kprov-kube"),
        "4712\nkprov-fixed\nkprov-fixed adm kprov-cert"
    );
    assert_eq!(lab.inside("n1", "getent passwd kprov-etcd | cut -d: -f5,7"), "etcd, the store:/usr/sbin/nologin");
    assert_eq!(lab.inside("n1", "uname -n; cat /etc/hostname"), "kprov-renamed\nkprov-renamed");
    assert_eq!(
        lab.inside("n1", "cat /proc/sys/net/ipv4/ip_forward /etc/sysctl.d/99-kprov.conf"),
        "1\nnet.ipv4.ip_forward=1"
    );

    lab.inside("n1", "echo 0 > /proc/sys/net/ipv4/ip_forward; hostname other; usermod -G '' kprov-kube");
    let changed = node.converge(&tasks).await;
    assert_eq!(changed, [false, false, false, true, false, true, true, false, false, false]);
    let gone = [
        task("user", &[("name", "kprov-kube"), ("state", "absent"), ("remove", "yes")]),
        task("user", &[("name", "kprov-etcd"), ("state", "absent")]),
        task("group", &[("name", "kprov-cert"), ("state", "absent")]),
        task("package", &[("name", "ethtool"), ("state", "absent")]),
    ];
    assert_eq!(node.converge(&gone).await, [true; 4]);
    assert_eq!(lab.inside("n1", "getent passwd kprov-kube kprov-etcd || command -v ethtool || true"), "");
}

#[tokio::test]
async fn facts() {
    let Some(lab) = Lab::new('t') else { return };
    lab.up(&["--nodes", "1", "--memory", "512M"]);
    let node = Node::connect(&lab).await;
    let started = Instant::now();
    let facts = node.facts().await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let get = |path: &str| path.split('.').try_fold(&facts, |value, key| value.get(key)).cloned().unwrap_or_default();
    assert_eq!(get("ansible_memtotal_mb"), Value::Int(512));
    assert_eq!(get("ansible_default_ipv4.address"), lab.address(0).into());
    assert_eq!(get("ansible_hostname"), "n1".into());
    assert_eq!(get("ansible_service_mgr"), "systemd".into());
    assert_eq!(get("ansible_user_id"), "root".into());
    assert_eq!(get("ansible_machine_id").to_string(), lab.inside("n1", "cat /etc/machine-id"));
    let version = lab.inside("n1", "systemctl --version | head -1 | cut -d' ' -f2");
    assert_eq!(get("kprov.systemd_version").to_string(), version);
    assert_eq!(get("kprov.container"), "systemd-nspawn".into());
    assert_eq!(get("kprov.kernel.has.overlay"), Value::Bool(true));
    let Value::List(listening) = get("kprov.listening") else { panic!() };
    let ssh = listening.iter().find(|one| one.get("port") == Some(&Value::Int(22))).unwrap();
    assert_eq!(ssh.get("unit"), Some(&"ssh.service".into()));
    assert_eq!(ssh.get("exe"), Some(&"/usr/sbin/sshd".into()));
    assert!(
        get("kprov.disks").get("/var/lib/etcd").and_then(|disk| disk.get("available")).and_then(Value::as_int)
            > Some(0)
    );
}
