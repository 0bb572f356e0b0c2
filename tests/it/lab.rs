//! `kprov lab` on this very machine: real nodes, so only when asked for with `KPROV_E2E=1` (root; see `kprov lab --help`).

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A lab of this test process; whatever happens, it does not outlive the test.
pub struct Lab {
    name: String,
    dir: tempfile::TempDir,
}

impl Lab {
    /// `None`, with the reason printed, where real nodes were not asked for. `suffix` is one letter.
    #[expect(clippy::print_stdout, reason = "a test that did not run has to say so")]
    pub fn new(suffix: char) -> Option<Self> {
        if std::env::var_os("KPROV_E2E").is_none_or(|value| value != "1") {
            println!("skipped: set KPROV_E2E=1 to make real nodes on this machine (needs root)");
            return None;
        }
        // At most 8 characters: then interfaces have the plain name in theirs.
        let name = format!("i{}{suffix}", std::process::id() % 1_000_000);
        Some(Self { name, dir: tempfile::tempdir().unwrap() })
    }

    fn command(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
        command.args(["lab", verb, "--name", &self.name]).args(args);
        command
    }

    fn run(&self, verb: &str, args: &[&str]) -> Output {
        self.command(verb, args).output().unwrap()
    }

    /// What a command prints; it has to succeed.
    pub fn ok(&self, verb: &str, args: &[&str]) -> String {
        let output = self.run(verb, args);
        assert!(output.status.success(), "{verb} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn up(&self, args: &[&str]) {
        self.ok("up", &[&["--dir", self.inventory().to_str().unwrap()], args].concat());
    }

    /// Runs `script` as root in the node and returns its output without the last newline.
    pub fn inside(&self, node: &str, script: &str) -> String {
        self.ok("exec", &[node, "--", "sh", "-euc", script]).trim_end().to_owned()
    }

    fn status(&self) -> Vec<Value> {
        let text = self.ok("status", &["--format", "json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn address(&self, node: usize) -> String {
        self.status()[node]["address"].as_str().unwrap().to_owned()
    }

    pub fn inventory(&self) -> PathBuf {
        self.dir.path().join("inventory")
    }

    /// Runs `command` on a node as the inventory's user, with what the inventory directory has.
    fn ssh(&self, address: &str, command: &str) -> Output {
        let known_hosts = format!("UserKnownHostsFile={}", self.inventory().join("known_hosts").display());
        Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=1"])
            .args(["-o", &known_hosts, "-i", self.inventory().join("id_ed25519").to_str().unwrap()])
            .args([&format!("kprov@{address}"), command])
            .output()
            .unwrap()
    }

    /// Everything on the machine that bears the lab's name.
    fn traces(&self) -> Vec<String> {
        let name = &self.name;
        let lines = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().filter(|line| line.contains(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut traces = lines("iptables-save", &[]);
        traces.extend(lines("ip", &["-oneline", "link"]));
        traces.extend(lines("ip", &["netns"]));
        traces.extend(lines("find", &["/sys/fs/cgroup", "-type", "d", "-name", name]));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&format!("kprov-lab/{name}/"))).map(str::to_owned));
        traces.extend(processes().filter(|line| line.contains(&format!("--machine={name}-"))));
        let state = Path::new("/var/lib/kprov-lab").join(name);
        traces.extend(
            [state, self.inventory()].iter().filter(|path| path.exists()).map(|path| path.display().to_string()),
        );
        traces
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run("down", &[]);
    }
}

/// The command lines of all processes.
fn processes() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| Some(String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).into_owned()))
}

fn kill(pid: &Value) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

/// Waits until `condition` holds; a test that hangs says what for.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_behaves_like_a_machine() {
    let Some(lab) = Lab::new('m') else { return };
    lab.up(&["--nodes", "1", "--memory", "512M"]);
    let status = &lab.status()[0];
    assert_eq!(
        (&status["state"], &status["memory"], &status["link"]),
        (&"running".into(), &(512 << 20).into(), &"up".into())
    );
    let address = lab.address(0);

    // Its own memory limit, name, identity; writable cgroups and sysctls; nothing failed.
    let seen = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(lab.inside("n1", seen), (512 << 20).to_string());
    assert_eq!(
        lab.inside("n1", "systemctl is-system-running --wait; hostname; cat /proc/1/comm"),
        "running\nn1\nsystemd"
    );
    assert_eq!(lab.inside("n1", "getent ahostsv4 n1 | cut -d' ' -f1 | uniq"), address);
    assert_eq!(lab.inside("n1", "ls /sys/class/net | grep -v lo"), "host0");
    assert_eq!(lab.inside("n1", "sysctl -w net.ipv4.ip_forward=1"), "net.ipv4.ip_forward = 1");
    let killed = "d=/sys/fs/cgroup/memory; f=memory.limit_in_bytes; [ -d $d ] || { d=/sys/fs/cgroup; f=memory.max; }
        mkdir $d/pod; echo 33554432 > $d/pod/$f; (echo 0 > $d/pod/cgroup.procs; head -c 200M /dev/zero | tail | wc -c) || true";
    if Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(lab.inside("n1", killed), "0", "a pod's limit is enforced");
    }
    assert_eq!(lab.inside("n1", "findmnt --noheadings --output PROPAGATION /"), "shared");
    assert_eq!(lab.run("exec", &["n1", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));

    // A user with sudo over ssh, host key verified; a disk that survives.
    let hello = lab.ssh(&address, "whoami; sudo -n whoami; echo kept | sudo tee /root/file");
    assert_eq!(String::from_utf8_lossy(&hello.stdout), "kprov\nroot\nkept\n", "{hello:?}");
    lab.up(&[]);
    assert_eq!(lab.status()[0], *status, "a second up changes nothing");

    lab.ok("stop", &["n1"]);
    let stopped = &lab.status()[0];
    assert_eq!((&stopped["state"], &stopped["pid"]), (&"stopped".into(), &Value::Null));
    assert_eq!(lab.ssh(&address, "true").status.code(), Some(255));
    assert_eq!(lab.run("exec", &["n1", "--", "true"]).status.code(), Some(1));
    lab.ok("start", &["n1"]);
    assert_eq!(lab.inside("n1", "cat /root/file"), "kept");

    lab.ok("link", &["n1", "down"]);
    assert_eq!(lab.ssh(&address, "true").status.code(), Some(255));
    assert_eq!(lab.status()[0]["link"], "cut");
    lab.ok("link", &["n1", "up"]);
    eventually("ssh over the mended link", || lab.ssh(&address, "true").status.success());

    // A reboot from inside: another boot, the same machine, nothing left of the network and cgroups that it made.
    let identity = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /sys/class/net/host0/address /root/file";
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = (lab.inside("n1", identity), lab.inside("n1", boot));
    lab.inside(
        "n1",
        "ip link add cni0 type bridge; iptables -N KUBE; mkdir -p /sys/fs/cgroup/pids/kubepods 2>/dev/null || true",
    );
    let _ = lab.ssh(&address, "sudo reboot");
    eventually("ssh after the reboot", || {
        let id = lab.ssh(&address, boot);
        id.status.success() && String::from_utf8_lossy(&id.stdout).trim() != before.1
    });
    assert_eq!(lab.inside("n1", identity), before.0);
    assert_eq!(
        lab.inside(
            "n1",
            "ls -d /sys/class/net/cni0 /sys/fs/cgroup/pids/kubepods 2>/dev/null || true; iptables -S | grep -c KUBE || true"
        ),
        "0"
    );

    lab.ok("down", &[]);
    assert_eq!(lab.traces(), Vec::<String>::new());
    lab.ok("down", &[]);
}

#[test]
fn nodes_reach_each_other_and_grow_in_number() {
    let Some(lab) = Lab::new('g') else { return };
    lab.up(&["--nodes", "1"]);
    let pid = lab.status()[0]["pid"].clone();
    lab.up(&["--nodes", "2", "--memory", "n2=512M"]);
    let status = lab.status();
    assert_eq!((status.len(), &status[0]["pid"]), (2, &pid), "the first node was left alone");
    assert_eq!((&status[0]["memory"], &status[1]["memory"]), (&(2_u64 << 30).into(), &(512 << 20).into()));
    let banner = format!("exec 3<>/dev/tcp/{}/22; head -c 7 <&3", lab.address(0));
    assert_eq!(lab.ok("exec", &["n2", "--", "bash", "-c", &banner]), "SSH-2.0");
    assert_ne!(lab.inside("n1", "cat /etc/machine-id"), lab.inside("n2", "cat /etc/machine-id"));
    // A pod's or a Service's address is refused by the machine, and not answered from outside.
    let refused = lab.inside("n2", "curl --silent --show-error --max-time 5 http://10.233.0.1/ 2>&1 || true");
    assert!(refused.contains("Failed to connect") || refused.contains("Couldn't connect"), "{refused}");

    let other = Lab::new('h').unwrap();
    let subnet = format!("{}/24", lab.address(0).rsplit_once('.').unwrap().0.to_owned() + ".0");
    let taken = other.run("up", &["--subnet", &subnet, "--dir", other.inventory().to_str().unwrap()]);
    let message = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert_eq!(taken.status.code(), Some(1), "{message}");
    assert!(message.contains(&format!("subnet {subnet} is taken by lab {}", lab.name)), "{message}");
    let occupied = other.run("up", &["--dir", lab.inventory().to_str().unwrap()]);
    assert_eq!(occupied.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&occupied.stderr).contains("was not written for lab"), "{occupied:?}");
    assert_eq!(other.traces(), Vec::<String>::new(), "an up that was refused leaves nothing");
    other.up(&["--nodes", "1"]);
    assert_ne!(other.address(0), lab.address(0));
    other.ok("down", &[]);
    assert_eq!(other.traces(), Vec::<String>::new());
    assert_eq!(lab.ssh(&lab.address(0), "true").status.code(), Some(0), "the other lab's down did no harm");
}

#[test]
fn a_disk_of_limited_size_gets_full() {
    let Some(lab) = Lab::new('d') else { return };
    lab.up(&["--nodes", "2", "--disk", "n2=256M"]);
    let status = lab.status();
    assert_eq!((&status[0]["disk"], &status[1]["disk"]), (&Value::Null, &(256 << 20).into()));
    let size = "df --block-size=1 --output=size / /var/lib/etcd /var/lib/containerd /var/lib/kubelet | tail -n 4 | uniq | wc -l
        df --block-size=1M --output=size / | tail -n 1";
    let seen = lab.inside("n2", size);
    let (file_systems, megabytes) = seen.split_once('\n').unwrap();
    assert_eq!(file_systems, "1", "{seen}");
    assert!((200..=256).contains(&megabytes.trim().parse::<u32>().unwrap()), "{seen}");

    let fill = |path: &str| {
        lab.inside("n2", &format!("dd if=/dev/zero of={path} bs=1M 2>&1 || true")).contains("No space left on device")
    };
    assert!(fill("/root/filler"));
    assert!(fill("/var/lib/etcd/filler"), "one disk for all");
    assert_eq!(lab.ssh(&lab.address(1), "true").status.code(), Some(0), "a node with a full disk lets its user in");
    lab.ok("restart", &["n2"]);
    lab.inside("n2", "rm /root/filler /var/lib/etcd/filler; echo kept > /root/file");
    lab.ok("restart", &["n2"]);
    assert_eq!(lab.inside("n2", "cat /root/file"), "kept");
    let image = Path::new("/var/lib/kprov-lab").join(&lab.name).join("nodes/n2/disk.img");
    assert_eq!(fs::metadata(&image).unwrap().len(), 256 << 20);

    let other = lab.run("up", &["--disk", "n2=512M", "--dir", lab.inventory().to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("the disk of node n2 already has a size of 256M"),
        "{other:?}"
    );
    lab.ok("down", &[]);
    assert_eq!(lab.traces(), Vec::<String>::new());
    let loops = Command::new("losetup").arg("--all").output().unwrap();
    assert!(!String::from_utf8_lossy(&loops.stdout).contains(image.to_str().unwrap()), "{loops:?}");
}

#[test]
fn a_killed_up_is_finished_or_removed() {
    let Some(lab) = Lab::new('k') else { return };
    let dir = lab.inventory();
    let args = ["--nodes", "2", "--dir", dir.to_str().unwrap()];
    for milliseconds in [5, 20, 60, 150, 400, 900] {
        let mut up = lab.command("up", &args).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        up.kill().unwrap();
        up.wait().unwrap();
        if milliseconds % 3 == 0 {
            lab.up(&args[..2]);
            assert!(lab.status().iter().all(|node| node["state"] == "running"), "killed after {milliseconds} ms");
        }
        lab.ok("down", &[]);
        assert_eq!(lab.traces(), Vec::<String>::new(), "killed after {milliseconds} ms");
    }
}

#[test]
fn a_node_that_lost_power_boots_again() {
    let Some(lab) = Lab::new('p') else { return };
    lab.up(&["--nodes", "1"]);
    kill(&lab.status()[0]["pid"]);
    eventually("the node is off", || lab.status()[0]["state"] == "stopped");
    lab.up(&[]);

    // Whoever ends a node's systemd-nspawn leaves a node that runs; it can still be stopped and started.
    let parent = fs::read_to_string(format!("/proc/{}/status", lab.status()[0]["pid"])).unwrap();
    kill(&parent.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().parse::<u32>().unwrap().into());
    lab.ok("stop", &["n1"]);
    assert_eq!(lab.status()[0]["state"], "stopped");
    lab.up(&[]);
    assert_eq!(lab.ssh(&lab.address(0), "true").status.code(), Some(0));
    lab.ok("down", &[]);
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[test]
fn what_is_missing_is_named_with_the_way_to_get_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
    let output = command.args(["lab", "up"]).env("PATH", "/nonexistent").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    let packages = "apt-get install -y debootstrap systemd-container iproute2 iptables openssh-client e2fsprogs";
    assert!(message.contains("debootstrap, systemd-nspawn, ip") && message.contains(packages), "{message}");
}
