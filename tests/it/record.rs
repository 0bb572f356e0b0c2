//! The record of runs: a run that is killed with its agent is seen by another operator and finished by `--resume`.

use crate::sshd::{Sshd, User, kill, run};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PLAYBOOK: &str = r#"
- name: Words
  hosts: all
  tasks:
    - name: Write one
      copy: {dest: "DIR/one", content: "{{ text }}\n", mode: "0644"}
    - name: Hide
      copy: {dest: "DIR/hidden", content: "{{ word }}\n", mode: "0600"}
      no_log: true
    - name: Wait
      shell: "echo $PPID >DIR/pid.new; mv DIR/pid.new DIR/pid; until [ -e DIR/go ]; do sleep 0.01; done"
      args: {creates: "DIR/go"}
    - name: Write two
      copy: {dest: "DIR/two", content: "new\n", mode: "0644"}
"#;

/// Two hosts of one operator: one that answers, and one that does not.
struct Operator {
    directory: tempfile::TempDir,
    playbook: PathBuf,
}

impl Operator {
    fn new(sshd: &Sshd, user: &User, playbook: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| sshd.path(name).display().to_string();
        let host = |name: &str, port: u16| {
            format!(
                "{name} ansible_host={} ansible_port={port} ansible_user={} ansible_ssh_private_key_file={} \
                 ansible_ssh_known_hosts_file={}\n",
                sshd.address,
                user.name,
                path("user_key"),
                path("known_hosts")
            )
        };
        // Nobody listens on port 1.
        let inventory = format!("{}{}[kube_control_plane]\nn1\n", host("n1", sshd.port), host("n2", 1));
        fs::write(directory.path().join("inventory.ini"), inventory).unwrap();
        Self { directory, playbook: playbook.to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
        command.args(arguments).args(["-i", "inventory.ini", "--playbook"]).arg(&self.playbook);
        command.current_dir(self.directory.path()).env("KPROV_AGENT", env!("CARGO_BIN_EXE_kprov-agent"));
        command.stdin(Stdio::null());
        command
    }

    /// Exit code, stdout and stderr.
    fn kprov(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }
}

fn wait_for(path: &Path, kprov: &mut Child) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(kprov.try_wait().unwrap().is_none(), "kprov ended");
        assert!(Instant::now() < deadline, "nothing at {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_killed_run_is_seen_by_others_and_resumed() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "record");
    let work = user.home.join("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("two"), "old\n").unwrap();
    run(Command::new("chown").arg("-R").arg(format!("{}:", user.name)).arg(&work), "");
    let files = tempfile::tempdir().unwrap();
    let playbook = files.path().join("site.yml");
    fs::write(&playbook, PLAYBOOK.replace("DIR", work.to_str().unwrap())).unwrap();
    fs::write(files.path().join("vars.yml"), "text: spoken\n").unwrap();
    let vars = format!("@{}", files.path().join("vars.yml").display());
    let (one, other) = (Operator::new(&sshd, &user, &playbook), Operator::new(&sshd, &user, &playbook));

    let (code, _, talk) = one.kprov(&["apply", "--resume"]);
    assert!(code == 1 && talk.contains("no run is recorded"), "{code} {talk}");
    let mut killed = one.command(&["apply", "-l", "n1", "-e", &vars, "-e", "word=hush"]);
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let agent = wait_for(&work.join("pid"), &mut killed).trim().parse().unwrap();
    let (_, list, _) = other.kprov(&["runs", "list"]);
    assert!(list.contains(" running "), "{list}");
    let (code, out, talk) = other.kprov(&["apply", "--resume", "-e", "word=hush"]);
    assert!(code == 2 && out.contains("held by"), "{code} {out} {talk}");
    killed.kill().unwrap();
    killed.wait().unwrap();
    kill(agent);
    while Path::new("/proc").join(agent.to_string()).join("exe").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(work.join("go"), "").unwrap();

    let (code, list, talk) = other.kprov(&["runs", "list"]);
    assert!(code == 0 && list.lines().count() == 2 && list.contains(" interrupted "), "{list} {talk}");
    assert!(list.contains("apply -i inventory.ini") && list.contains("-l n1"), "{list}");
    let (code, shown, talk) = other.kprov(&["runs", "show", "last"]);
    assert!(code == 0 && talk.contains("n2 does not answer"), "{talk}");
    assert!(shown.contains("n1 | changed | Write one") && shown.contains("+spoken"), "{shown}");
    assert!(shown.contains("n1 | changed | Hide") && shown.contains("n1 | unfinished | Wait"), "{shown}");

    for (more, expected) in
        [(&[][..], "-e word=…"), (&["-e", "word=loud"], "word"), (&["-e", "a=b", "-e", "c=d"], "again")]
    {
        let (code, _, talk) = other.kprov(&[&["apply", "--resume"], more].concat());
        assert!(code == 1 && talk.contains(expected) && !talk.contains("loud"), "{code} {talk}");
    }
    let (code, _, talk) = other.kprov(&["apply", "--resume", "-l", "n1"]);
    assert!(code == 1 && talk.contains("--resume"), "{code} {talk}");

    let (code, out, talk) = other.kprov(&["apply", "--resume", "-e", "word=hush"]);
    assert_eq!(code, 0, "{out} {talk}");
    assert!(talk.contains("2 steps finished, 1 begun and not finished"), "{talk}");
    assert!(out.contains("changed | Write two") && !out.contains("| Write one"), "{out}");
    let left = fs::read_dir(user.home.join(".local/state/kprov/run")).unwrap().count();
    assert_eq!(left, 0, "agents are left behind");
    assert_eq!(fs::read_to_string(work.join("two")).unwrap(), "new\n");
    let (code, _, talk) = one.kprov(&["apply", "--resume"]);
    assert!(code == 0 && talk.contains("nothing to resume"), "{code} {talk}");

    let (_, json, _) = one.kprov(&["runs", "list", "--format", "json"]);
    let runs: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(runs.len(), 2, "a resume with nothing to do is no run");
    assert_eq!((&runs[0]["state"], &runs[0]["changes"]), (&"done".into(), &1.into()));
    assert_eq!(runs[0]["resumes"], runs[1]["run"]);
    let (_, json, _) = one.kprov(&["runs", "show", "last", "--format", "json"]);
    let steps: Vec<serde_json::Value> = json.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((steps.len(), &steps[0]["task"], &steps[0]["status"]), (1, &"Write two".into(), &"changed".into()));
    let image = steps[0]["before"][0]["image"].as_str().unwrap();
    let kept = user.home.join(".local/state/kprov/runs").join(runs[0]["run"].as_str().unwrap()).join(image);
    assert_eq!(fs::read_to_string(kept).unwrap(), "old\n");

    private(&user.home.join(".local/state/kprov/runs"));
}

/// Whether nobody else can read what is recorded, and no secret is in it.
fn private(at: &Path) {
    let found = fs::symlink_metadata(at).unwrap();
    let expected = if found.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(found.permissions().mode() & 0o777, expected, "{} of {}", at.display(), found.uid());
    if found.is_dir() {
        fs::read_dir(at).unwrap().for_each(|entry| private(&entry.unwrap().path()));
    } else {
        assert!(!fs::read_to_string(at).unwrap().contains("hush"), "{}", at.display());
    }
}
