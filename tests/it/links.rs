//! What a run makes of its links: dropped and found again, lost, or never there. kprov itself, on hosts of the [`Sshd`] kind
//! and, with `KPROV_E2E=1`, on a real node whose link is cut.

use crate::lab::Lab;
use crate::sshd::{Sshd, User, alone, me};
use kprov::transport::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A playbook of scripts for one host.
struct Plays {
    directory: TempDir,
}

/// How a run ended.
struct Ended {
    exit: Option<i32>,
    events: Vec<Value>,
}

impl Ended {
    fn count(&self, column: &str) -> i64 {
        self.events.last().unwrap()["hosts"]["n1"][column].as_i64().unwrap_or_else(|| panic!("{:#?}", self.events))
    }

    fn recap(&self) -> [i64; 3] {
        ["ok", "failed", "unreachable"].map(|column| self.count(column))
    }

    /// What is said with a status or an event of this name.
    fn said(&self, name: &str) -> Vec<&str> {
        let named = self.events.iter().filter(|event| event["event"] == name || event["status"] == name);
        named.filter_map(|event| event["message"].as_str()).collect()
    }
}

impl Plays {
    fn new(variables: &str, scripts: &[&str]) -> Self {
        let plays = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(plays.file("inventory.ini"), format!("n1 {variables}\n")).unwrap();
        let mut text = "- hosts: all\n  gather_facts: false\n  tasks:\n".to_owned();
        for script in scripts {
            let script = script.replace("DIR", plays.directory.path().to_str().unwrap());
            text.push_str(&format!("    - shell: {}\n", serde_json::to_string(&script).unwrap()));
        }
        fs::write(plays.file("plays.yml"), text).unwrap();
        plays
    }

    fn of(sshd: &Sshd, connection: Connection, user: &str, scripts: &[&str]) -> Self {
        let connection = if connection == Connection::Russh { "russh" } else { "ssh" };
        let variables = format!(
            "ansible_host={} ansible_port={} ansible_user={user} ansible_connection={connection} \
             ansible_ssh_private_key_file={} ansible_ssh_common_args='-o UserKnownHostsFile={}'",
            sshd.address,
            sshd.port,
            sshd.path("user_key").display(),
            sshd.path("known_hosts").display(),
        );
        Self::new(&variables, scripts)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, args: &[&str]) -> Child {
        let [events, talk] = ["events", "talk"].map(|name| fs::File::create(self.file(name)).unwrap());
        Command::new(env!("CARGO_BIN_EXE_kprov"))
            .args(["apply", "--format", "json", "-i"])
            .arg(self.file("inventory.ini"))
            .arg("--playbook")
            .arg(self.file("plays.yml"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(events)
            .stderr(talk)
            .spawn()
            .unwrap()
    }

    /// Waits for the second task of [`SCRIPTS`].
    fn waits(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !self.file("waits").exists() {
            let said = |name: &str| fs::read_to_string(self.file(name)).unwrap();
            assert!(Instant::now() < deadline, "the second task does not begin: {}{}", said("events"), said("talk"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&self, mut child: Child) -> Ended {
        let exit = child.wait().unwrap().code();
        let text = fs::read_to_string(self.file("events")).unwrap();
        Ended { exit, events: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }
}

/// Lets the second task of [`SCRIPTS`] end: the run stops after it.
fn ends_after_the_second(plays: &Plays, run: Child) {
    fs::write(plays.file("go"), "").unwrap();
    let ended = plays.end(run);
    assert_eq!((ended.exit, ended.recap()), (Some(99), [2, 0, 0]), "{:#?}", ended.events);
    assert_eq!(fs::read_to_string(plays.file("done")).unwrap(), "1\n2\n");
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

const SCRIPTS: [&str; 4] = [
    "echo 1 >>DIR/done",
    "touch DIR/waits; until [ -e DIR/go ]; do sleep 0.01; done; echo 2 >>DIR/done",
    "echo 3 >>DIR/done",
    "echo 4 >>DIR/done",
];

#[test]
fn a_run_goes_on_after_a_dropped_link() {
    let _alone = alone();
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh] {
        let plays = Plays::of(&sshd, connection, &me(), &SCRIPTS);
        let run = plays.start(&[]);
        plays.waits();
        sshd.kill_sessions();
        until("the link is there again", || {
            fs::read_to_string(plays.file("events")).is_ok_and(|events| events.contains("re-attached after"))
        });
        fs::write(plays.file("go"), "").unwrap();
        let ended = plays.end(run);
        assert_eq!((ended.exit, ended.recap()), (Some(0), [4, 0, 0]), "{connection:?}: {:#?}", ended.events);
        assert!(ended.said("warning").iter().all(|text| text.starts_with("n1: the link dropped")));
        assert_eq!(fs::read_to_string(plays.file("done")).unwrap(), "1\n2\n3\n4\n");
    }
}

#[test]
fn an_interrupt_finishes_the_task_in_hand() {
    let _alone = alone();
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh] {
        let plays = Plays::of(&sshd, connection, &me(), &SCRIPTS);
        let run = plays.start(&[]);
        plays.waits();
        kill_process(Pid::from_raw(run.id() as i32).unwrap(), Signal::INT).unwrap();
        until("the interrupt is noticed", || {
            fs::read_to_string(plays.file("talk")).unwrap().contains("finishing the tasks in flight")
        });
        ends_after_the_second(&plays, run);
    }
}

#[test]
fn an_interrupt_while_the_link_is_down_finishes_the_task_in_hand() {
    let _alone = alone();
    let sshd = Sshd::start();
    let plays = Plays::of(&sshd, Connection::Openssh, &me(), &SCRIPTS);
    let run = plays.start(&[]);
    plays.waits();
    sshd.kill_sessions();
    kill_process(Pid::from_raw(run.id() as i32).unwrap(), Signal::INT).unwrap();
    until("the link is there again", || {
        fs::read_to_string(plays.file("events")).is_ok_and(|events| events.contains("re-attached after"))
    });
    ends_after_the_second(&plays, run);
}

#[test]
fn two_interrupts_stop_at_once() {
    let _alone = alone();
    let sshd = Sshd::start();
    let plays = Plays::of(&sshd, Connection::Openssh, &me(), &SCRIPTS);
    let run = plays.start(&[]);
    plays.waits();
    let pid = Pid::from_raw(run.id() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    // Signals that come at once are one.
    until("it is said", || fs::read_to_string(plays.file("talk")).unwrap().contains("once more stops now"));
    kill_process(pid, Signal::INT).unwrap();
    let ended = plays.end(run);
    assert_eq!((ended.exit, ended.recap()), (Some(99), [1, 1, 0]), "{:#?}", ended.events);
    assert_eq!(ended.said("failed"), ["`sh` was killed: the run was stopped"]);
    assert_eq!(fs::read_to_string(plays.file("done")).unwrap(), "1\n");
}

#[test]
fn a_host_that_is_there_fails_and_one_that_is_not_is_unreachable() {
    let _alone = alone();
    let mut sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh] {
        let plays = Plays::of(&sshd, connection, &me(), &["true", "kill -9 $PPID", "true"]);
        let ended = plays.end(plays.start(&[]));
        assert_eq!((ended.exit, ended.recap()), (Some(2), [1, 1, 0]), "{connection:?}: {:#?}", ended.events);
        assert_eq!(ended.said("failed"), ["the agent was killed by signal 9"]);
    }
    if User::possible() {
        let user = User::create(&sshd, "links");
        let plays = Plays::of(&sshd, Connection::Openssh, &user.name, &["true"]);
        let ended = plays.end(plays.start(&["-b"]));
        assert_eq!((ended.exit, ended.recap()), (Some(2), [0, 1, 0]), "{:#?}", ended.events);
        assert!(ended.said("failed")[0].contains("sudo"), "{:#?}", ended.events);
    }
    sshd.stop();
    let plays = Plays::of(&sshd, Connection::Openssh, &me(), &["true"]);
    let ended = plays.end(plays.start(&[]));
    assert_eq!((ended.exit, ended.recap()), (Some(4), [0, 0, 1]), "{:#?}", ended.events);
}

#[test]
fn a_node_whose_link_is_cut_goes_on() {
    let Some(lab) = Lab::new('c') else { return };
    lab.up(&["--nodes", "1", "--memory", "512M"]);
    let path = |name: &str| lab.inventory().join(name).display().to_string();
    let scripts =
        ["touch /root/waits; until [ -e /root/go ]; do sleep 0.1; done; echo 1 >>/root/done", "echo 2 >>/root/done"];
    for connection in ["ssh", "russh"] {
        let variables = format!(
            "ansible_host={} ansible_user=kprov ansible_become=true ansible_connection={connection} \
             ansible_ssh_private_key_file={} ansible_ssh_common_args='-o UserKnownHostsFile={}'",
            lab.address(0),
            path("id_ed25519"),
            path("known_hosts"),
        );
        let plays = Plays::new(&variables, &scripts);
        let run = plays.start(&[]);
        until("the first task", || lab.inside("n1", "ls /root").contains("waits"));
        let worker = lab.inside("n1", "pgrep -f '[k]prov-agent .* work '");
        lab.ok("link", &["n1", "down"]);
        let seen = |text: &str| fs::read_to_string(plays.file("events")).is_ok_and(|events| events.contains(text));
        let cut = Instant::now();
        until("the cut is noticed", || seen("trying to re-attach"));
        assert!(cut.elapsed() < Duration::from_secs(30), "noticed after {:?}", cut.elapsed());
        lab.ok("link", &["n1", "up"]);
        until("the link is there again", || seen("re-attached after"));
        assert_eq!(lab.inside("n1", "pgrep -f '[k]prov-agent .* work '"), worker);
        lab.inside("n1", "touch /root/go");
        let ended = plays.end(run);
        assert_eq!((ended.exit, ended.recap()), (Some(0), [2, 0, 0]), "{connection}: {:#?}", ended.events);
        assert_eq!(lab.inside("n1", "cat /root/done; rm /root/done /root/go /root/waits"), "1\n2");
        until("nothing is left", || lab.inside("n1", "ls /var/lib/kprov/run").is_empty());
    }

    // Switched off in the middle of a task: there again, but the agent is not.
    let variables = format!(
        "ansible_host={} ansible_user=kprov ansible_become=true ansible_ssh_private_key_file={} \
         ansible_ssh_common_args='-o UserKnownHostsFile={}'",
        lab.address(0),
        path("id_ed25519"),
        path("known_hosts"),
    );
    let plays = Plays::new(&variables, &["touch /root/waits; sleep 600"]);
    let run = plays.start(&[]);
    until("the task", || lab.inside("n1", "ls /root").contains("waits"));
    lab.ok("restart", &["n1"]);
    let ended = plays.end(run);
    assert_eq!((ended.exit, ended.recap()), (Some(2), [0, 1, 0]), "{:#?}", ended.events);
    assert!(ended.said("failed")[0].contains("is gone"), "{:#?}", ended.events);
}
