//! One run at a time: real controllers and agents that want the same hosts, and what becomes of those that are killed,
//! stopped or replaced.

use crate::sshd::{Sshd, User};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Hosts on this machine: each is an address, and a user with a home and so with a state directory of its own.
struct Cluster {
    directory: TempDir,
    hosts: Vec<(User, Sshd)>,
}

/// The task of `first` waits for a file, that of `second` needs its result.
const PLAYBOOK: &str = r#"
- hosts: all
  gather_facts: false
  tasks:
    - name: first
      shell: "echo {{ who }} >>DIR/first-{{ inventory_hostname }}; until [ -e DIR/go ]; do sleep 0.05; done"
      register: first
    - name: second
      shell: "echo {{ who }} >>DIR/second"
      when: first.rc == 0
"#;

impl Cluster {
    /// The first `control_plane` of the hosts n1, n2, … hold the lock.
    fn new(name: &str, hosts: usize, control_plane: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The tasks of other users write here.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let hosts = (1..=hosts).map(|n| {
            let sshd = Sshd::start_at(&format!("127.0.0.{n}"));
            (User::create(&sshd, &format!("{name}{n}")), sshd)
        });
        let this = Self { directory, hosts: hosts.collect() };
        let mut inventory = "[all]\n".to_owned();
        for (number, (user, sshd)) in this.hosts.iter().enumerate() {
            writeln!(
                inventory,
                "n{} ansible_host={} ansible_port={} ansible_user={} ansible_ssh_private_key_file={} \
                 ansible_ssh_known_hosts_file={}",
                number + 1,
                sshd.address,
                sshd.port,
                user.name,
                sshd.path("user_key").display(),
                sshd.path("known_hosts").display()
            )
            .unwrap();
        }
        inventory += "[kube_control_plane]\n";
        (1..=control_plane).for_each(|n| writeln!(inventory, "n{n}").unwrap());
        fs::write(this.path("inventory.ini"), inventory).unwrap();
        let playbook = PLAYBOOK.replace("DIR", this.directory.path().to_str().unwrap());
        fs::write(this.path("play.yml"), playbook).unwrap();
        fs::write(this.path("second"), "").unwrap();
        fs::set_permissions(this.path("second"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        // Everybody sends the agent only once.
        let sent = this.kprov(&["plan", "-e", "who=nobody"]).output().unwrap();
        assert!(sent.status.success(), "{}", text(&sent));
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn kprov(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
        command.env("KPROV_AGENT", env!("CARGO_BIN_EXE_kprov-agent")).args(verb);
        command.arg("-i").arg(self.path("inventory.ini")).arg("--playbook").arg(self.path("play.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a run that does not end before [`Cluster::go`].
    fn apply(&self, who: &str, more: &[&str]) -> Child {
        self.kprov(&["apply", "-e", &format!("who={who}")]).args(more).spawn().unwrap()
    }

    /// Waits until the run has its first task in hand on these hosts.
    fn started(&self, who: &str, hosts: &[&str]) {
        for host in hosts {
            until("the first task to start", || self.lines(&format!("first-{host}")).contains(&who.to_owned()));
        }
    }

    fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn show(&self) -> serde_json::Value {
        let output = self.kprov(&["lock", "show", "--format", "json"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn state(&self, host: usize) -> PathBuf {
        self.hosts[host].0.home.join(".local/state/kprov")
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ended(run: Child, code: i32) -> String {
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    text(&output)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn of_two_runs_at_once_one_wins() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("two", 3, 3);
    for round in 0..5 {
        let mut runs = [cluster.apply("a", &[]), cluster.apply("b", &[])];
        let loser = loop {
            if let Some(loser) = (0..2).find(|&n| runs[n].try_wait().unwrap().is_some()) {
                break loser;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let [a, b] = runs;
        let (winner, lost) = if loser == 0 { (b, ended(a, 2)) } else { (a, ended(b, 2)) };
        assert!(lost.contains("cluster : lock : held by ") && lost.contains("kprov lock break -i "), "{lost}");
        assert!(lost.contains("changed=0") && lost.contains("failed=1"), "{lost}");
        let name = ["b", "a"][loser];
        cluster.started(name, &["n1", "n2", "n3"]);
        cluster.go();
        let won = ended(winner, 0);
        assert!(!won.contains("lock"), "{won}");
        assert_eq!(cluster.lines("second"), [name; 3], "round {round}");
        assert_eq!(cluster.show()["locked"], false, "given back before the run has ended");
        fs::write(cluster.path("second"), "").unwrap();
        for name in ["go", "first-n1", "first-n2", "first-n3"] {
            fs::remove_file(cluster.path(name)).unwrap();
        }
    }
}

#[test]
fn the_control_plane_holds_the_lock_also_where_the_run_is_limited() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("limit", 3, 1);
    let run = cluster.apply("a", &["-l", "n2"]);
    cluster.started("a", &["n2"]);
    let shown = cluster.show();
    let holder = &shown["holders"][0];
    assert_eq!((shown["locked"].as_bool(), holder["host"].as_str()), (Some(true), Some("n1")), "{shown}");
    assert!(holder["command"].as_str().unwrap().contains("-l n2"), "{shown}");
    assert!(holder["operator"].as_str().unwrap().contains('@') && holder["seconds"].as_u64() < Some(60), "{shown}");
    let refused = ended(cluster.apply("b", &["-l", "n3"]), 2);
    assert!(refused.contains("on n1 :"), "{refused}");
    // Who only looks is in nobody's way.
    ended(cluster.kprov(&["plan", "-e", "who=c"]).spawn().unwrap(), 0);
    let waiting = cluster.apply("b", &["-l", "n3", "--lock-timeout", "60"]);
    cluster.go();
    ended(run, 0);
    let waited = ended(waiting, 0);
    assert_eq!(cluster.lines("second"), ["a", "b"]);
    assert!(!waited.contains("failed=1"), "{waited}");
    assert!(!cluster.state(2).join("lock").exists(), "only the control plane holds a lock");
}

#[test]
fn to_look_touches_nothing() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("look", 1, 1);
    for verb in [&["plan", "-e", "who=a"][..], &["validate"], &["lock", "show"]] {
        let output = cluster.kprov(verb).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let left: Vec<_> = fs::read_dir(cluster.state(0)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["agent"], "{verb:?}");
    }
    let output = cluster.kprov(&["lock", "break"]).output().unwrap();
    assert_eq!(text(&output), "not locked\n");
}

#[test]
fn a_killed_controller_leaves_no_lock() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("kill", 2, 1);
    let mut run = cluster.apply("a", &[]);
    cluster.started("a", &["n1", "n2"]);
    run.kill().unwrap();
    run.wait().unwrap();
    until("the lock to be free", || cluster.show()["locked"] == false);
    // Its tasks are still in hand, and the next run waits for them.
    let next = cluster.apply("b", &[]);
    until("the next run to have the lock", || cluster.show()["locked"] == true);
    assert_eq!(cluster.lines("first-n1"), ["a"]);
    cluster.go();
    ended(next, 0);
    assert_eq!(cluster.lines("second"), ["b", "b"], "the killed run went on");
}

#[test]
fn a_run_that_comes_back_after_its_lock_was_broken_changes_nothing() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("back", 3, 1);
    let run = cluster.apply("a", &[]);
    cluster.started("a", &["n1", "n2", "n3"]);
    signal(run.id(), Signal::STOP);
    cluster.go();
    assert_eq!(cluster.show()["locked"], true);
    ended(cluster.apply("b", &[]), 2);
    let asked = ended(cluster.kprov(&["lock", "break"]).spawn().unwrap(), 1);
    assert!(asked.contains("say --yes"), "{asked}");
    let broken = ended(cluster.kprov(&["lock", "break", "--yes"]).spawn().unwrap(), 0);
    assert!(broken.contains("n1: took the lock from ") && !broken.contains("ended the agent"), "{broken}");
    assert_eq!(cluster.show()["locked"], false);

    ended(cluster.apply("b", &[]), 0);
    assert_eq!(cluster.lines("second"), ["b"; 3]);
    signal(run.id(), Signal::CONT);
    let refused = ended(run, 2);
    assert!(refused.contains("this run was replaced by run "), "{refused}");
    assert_eq!(cluster.lines("second"), ["b"; 3], "the replaced run went on: {refused}");
    ended(cluster.apply("c", &[]), 0);
}

#[test]
fn an_agent_that_hangs_is_ended_when_its_lock_is_broken() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("hang", 2, 1);
    let run = cluster.apply("a", &[]);
    cluster.started("a", &["n1", "n2"]);
    let agent = u32::try_from(cluster.show()["holders"][0]["pid"].as_u64().unwrap()).unwrap();
    let program = fs::read_link(Path::new("/proc").join(agent.to_string()).join("exe")).unwrap();
    assert!(program.ends_with("kprov-agent"), "{program:?}");
    signal(agent, Signal::STOP);
    let broken = ended(cluster.kprov(&["lock", "break", "--yes"]).spawn().unwrap(), 0);
    assert!(broken.contains(&format!("n1: ended the agent {agent}, which did not let go")), "{broken}");
    // The host that had the lock is gone, and with it the run, on the other host too. What is noticed first is said.
    let stopped = ended(run, 2);
    let reasons =
        ["the lock is lost: n1: ", "replaced by run", "n1 | failed | first: the agent was killed by signal 9"];
    assert!(reasons.iter().any(|reason| stopped.contains(reason)), "{stopped}");
    cluster.go();
    ended(cluster.apply("b", &[]), 0);
    assert_eq!(cluster.lines("second"), ["b", "b"]);
}

#[test]
fn what_a_killed_run_waits_for_nobody_else_waits_for() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("wait", 1, 1);
    let path = |name: &str| cluster.path(name).display().to_string();
    let waits = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {{dest: {}, content: x, mode: '0644'}}\n    \
         - wait_for: {{path: {}, timeout: 600}}\n",
        path("begun"),
        path("never")
    );
    let plays = fs::read_to_string(cluster.path("play.yml")).unwrap();
    fs::write(cluster.path("play.yml"), waits).unwrap();
    let mut run = cluster.apply("a", &[]);
    until("the wait to begin", || cluster.path("begun").exists());
    run.kill().unwrap();
    run.wait().unwrap();
    fs::write(cluster.path("play.yml"), plays).unwrap();
    cluster.go();
    let started = Instant::now();
    ended(cluster.apply("b", &["--lock-timeout", "10"]), 0);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn most_of_the_control_plane_has_to_grant_it() {
    if !User::possible() {
        return;
    }
    let cluster = Cluster::new("most", 3, 3);
    let inventory = fs::read_to_string(cluster.path("inventory.ini")).unwrap();
    let away = |hosts: &[usize]| {
        let mut text = inventory.clone();
        for &host in hosts {
            text = text.replace(&format!("ansible_port={} ", cluster.hosts[host].1.port), "ansible_port=1 ");
        }
        fs::write(cluster.path("inventory.ini"), text).unwrap();
    };
    away(&[1, 2]);
    let refused = ended(cluster.apply("a", &["-l", "n1"]), 2);
    assert!(refused.contains("2 of 3 hosts of kube_control_plane have to grant it, 1 can (n2: "), "{refused}");
    away(&[0]);
    cluster.go();
    ended(cluster.apply("a", &["-l", "n2"]), 0);
    assert_eq!(cluster.lines("second"), ["a"]);
}
