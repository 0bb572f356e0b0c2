//! Saved plans, from the command line to users of this machine: applied as shown, refused when something has changed.
//!
//! The hosts are users behind a real sshd, each with a home and an agent of its own.

use crate::schema;
use crate::sshd::{Sshd, User, kill};
use assert_cmd::assert::Assert;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// `db_password: s3cret`, made by ansible-vault with the password `kestrel-42`.
const SECRETS: &str = "$ANSIBLE_VAULT;1.1;AES256\n\
    35623132326466616231306539353230346339356364646131343430646330376266323664316631\n\
    3462336366386332613064383139666661616132306363620a626261333435653137323637313231\n\
    61343332303336653032386561303032303738376465663632393537323633356331396137646166\n\
    6332346563643733310a613536386536656331303765336464346666313737613435303466323564\n\
    35323333626162346262303734323964343564636163316632326663666330323864\n";

const PLAYBOOK: &str = r#"
- name: Files
  hosts: all
  tasks:
    - name: Write the greeting
      copy: {dest: "{{ root }}/greeting", content: "hello {{ who }}\n", mode: "0644"}
      notify: Note it
    - name: Write the password
      copy: {dest: "{{ root }}/password", content: "password={{ db_password }}\n", mode: "0600"}
    - name: Write the pin
      copy: {dest: "{{ root }}/pin", content: "{{ pin }}", mode: "0600"}
      no_log: true
    - name: Find out who it is
      command: id -un
      changed_when: false
    - name: Wait for the signal
      shell: touch {{ root }}/waiting; while [ ! -e {{ root }}/go ]; do sleep 0.02; done; touch {{ root }}/gone
      args: {creates: "{{ root }}/gone"}
    - name: Write each name
      copy: {dest: "{{ root }}/{{ item }}", content: "{{ item }}\n", mode: "0644"}
      loop: [one, two]
  handlers:
    - name: Note it
      copy: {dest: "{{ root }}/noted", content: "{{ who }}\n", mode: "0644"}
"#;

struct Hosts {
    dir: TempDir,
    users: [User; 2],
    _sshds: [Sshd; 2],
}

impl Hosts {
    /// `None` where this process may not make users.
    fn new(name: &str) -> Option<Self> {
        if !User::possible() {
            return None;
        }
        let sshds = ["127.0.0.1", "127.0.0.2"].map(Sshd::start_at);
        let users =
            [("a", &sshds[0]), ("b", &sshds[1])].map(|(host, sshd)| User::create(sshd, &format!("{name}-{host}")));
        let dir = tempfile::tempdir().unwrap();
        let mut inventory = "[all]\n".to_owned();
        for (number, (user, sshd)) in users.iter().zip(&sshds).enumerate() {
            fs::write(sshd.path("ssh_config"), "IdentityAgent none\n").unwrap();
            inventory += &format!(
                "n{} ansible_host={} ansible_port={} ansible_user={} ansible_ssh_private_key_file={} \
                 ansible_ssh_common_args='-F {} -o UserKnownHostsFile={}' root={}\n",
                number + 1,
                sshd.address,
                sshd.port,
                user.name,
                sshd.path("user_key").display(),
                sshd.path("ssh_config").display(),
                sshd.path("known_hosts").display(),
                user.home.display()
            );
        }
        let this = Self { dir, users, _sshds: sshds };
        this.write("hosts.ini", &inventory);
        this.write("site.yml", PLAYBOOK);
        fs::create_dir_all(this.path("group_vars/all")).unwrap();
        this.write("group_vars/all/vars.yml", "who: world\npin: '4711'\n");
        this.write("group_vars/all/secrets.yml", SECRETS);
        this.write("vault-password", "kestrel-42\n");
        Some(this)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A file of a host.
    fn at(&self, host: usize, name: &str) -> PathBuf {
        self.users[host - 1].home.join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
        command.current_dir(self.dir.path()).env_remove("ANSIBLE_VAULT_PASSWORD_FILE").env("NO_COLOR", "1").args(args);
        command.args(["--vault-password-file", "vault-password"]);
        command
    }

    fn run(&self, args: &[&str]) -> Assert {
        assert_cmd::Command::from_std(self.command(args)).timeout(Duration::from_secs(120)).assert()
    }

    fn plan(&self, more: &[&str]) -> Assert {
        self.run(&[&["plan", "-i", "hosts.ini", "--playbook", "./site.yml"][..], more].concat())
    }

    fn go(&self) {
        for host in [1, 2] {
            fs::write(self.at(host, "go"), "").unwrap();
        }
    }
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_saved_plan_is_applied_as_shown() {
    let Some(hosts) = Hosts::new("plan") else { return };
    hosts.go();
    let planned = hosts.plan(&["-o", "plan.json", "--format", "json", "--detailed-exitcode"]).code(3);
    let lines = schema::lines(&planned.get_output().stdout);
    let summary = lines.iter().find(|line| line["event"] == "summary").unwrap();
    assert_eq!((&summary["changes"], &summary["opaque"]), (&12.into(), &2.into()), "{summary}");
    assert_eq!(summary["hosts"]["n2"]["exact"], 5, "{summary}");

    let file = hosts.path("plan.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = read(&file);
    let secrets = ["s3cret", "4711"];
    for secret in secrets.iter().flat_map(|&s| [s.to_owned(), kprov::source::digest_of(s.as_bytes())]) {
        assert!(!text.contains(&secret) && !stdout(&planned).contains(&secret), "{secret}");
    }
    assert!(text.contains("hello world"));
    let saved: Value = serde_json::from_str(&text).unwrap();
    let of_vault = saved["inputs"][hosts.path("group_vars/all/secrets.yml").to_str().unwrap()].as_str();
    assert_eq!(of_vault, Some(kprov::source::digest_of(SECRETS.as_bytes()).as_str()));

    let applied = hosts.run(&["apply", "--plan", "plan.json", "--format", "json"]).code(0);
    let lines = schema::lines(&applied.get_output().stdout);
    let key = |line: &Value| format!("{} {}", line["host"], line["task_id"]);
    let mut changed: Vec<_> = lines.iter().filter(|line| line["status"] == "changed").map(key).collect();
    let mut shown: Vec<_> = saved["changes"].as_array().unwrap().iter().map(key).collect();
    shown.dedup();
    changed.sort();
    shown.sort();
    assert_eq!(changed, shown, "applied is what was shown");
    for host in [1, 2] {
        assert_eq!(read(&hosts.at(host, "password")), "password=s3cret\n");
        assert_eq!(read(&hosts.at(host, "noted")), "world");
    }
    hosts.plan(&["--detailed-exitcode"]).code(0);

    let again = hosts.run(&["apply", "--plan", "plan.json"]).code(2);
    assert!(
        stdout(&again).contains("n1 : plan : Write the greeting : there is nothing left to change"),
        "{}",
        stdout(&again)
    );
    hosts.run(&["apply", "--plan", "plan.json", "--resume"]).code(0);
}

#[test]
fn a_plan_of_other_files_is_refused() {
    let Some(hosts) = Hosts::new("input") else { return };
    hosts.go();
    hosts.plan(&["-o", "plan.json"]).code(0);
    hosts.write("group_vars/all/vars.yml", "who: you\npin: '4711'\n");
    fs::create_dir(hosts.path("host_vars")).unwrap();
    hosts.write("host_vars/n2.yml", "who: me\n");
    let refused = hosts.run(&["apply", "--plan", "plan.json"]).code(1);
    let said = stderr(&refused);
    assert!(said.contains("vars.yml has changed") && said.contains("host_vars/n2.yml is new"), "{said}");
    assert!(!said.contains("site.yml"), "{said}");
    assert!(!hosts.at(1, "greeting").exists() && !hosts.at(2, "greeting").exists());

    let usage = hosts.run(&["apply", "--plan", "plan.json", "-e", "who=me"]).code(1);
    assert!(stderr(&usage).contains("cannot be used with"), "{}", stderr(&usage));
}

#[test]
fn a_host_that_has_drifted_stops_the_run_before_the_first_change() {
    let Some(hosts) = Hosts::new("drift") else { return };
    hosts.go();
    hosts.plan(&["-o", "plan.json"]).code(0);
    fs::write(hosts.at(2, "greeting"), "somebody was here\n").unwrap();
    fs::write(hosts.at(2, "one"), "one\n").unwrap();
    std::os::unix::fs::chown(hosts.at(2, "one"), Some(1), None).unwrap();
    let refused = hosts.run(&["apply", "--plan", "plan.json", "--format", "json"]).code(2);
    let lines = schema::lines(&refused.get_output().stdout);
    let findings: Vec<_> = lines.iter().filter(|line| line["event"] == "finding").collect();
    let greeting = hosts.at(2, "greeting").display().to_string();
    assert_eq!(findings[0]["host"], "n2");
    let text =
        format!("n2 : plan : Write the greeting : {greeting} has changed since it was planned : make a new plan");
    assert_eq!(findings[0]["message"], text.as_str());
    assert_eq!(
        (lines.last().unwrap()["hosts"]["n1"]["failed"].clone(), findings[0]["fatal"].clone()),
        (0.into(), true.into())
    );
    assert_eq!(lines.last().unwrap()["hosts"]["n2"]["failed"], 1);
    assert!(!hosts.at(1, "greeting").exists(), "the other host is untouched");
    assert!(!hosts.at(2, "password").exists());
}

#[test]
fn a_plan_that_was_killed_half_way_is_resumed() {
    let Some(hosts) = Hosts::new("resume") else { return };
    hosts.plan(&["-o", "plan.json"]).code(0);
    let mut apply = hosts.command(&["apply", "--plan", "plan.json"]).stdout(Stdio::null()).spawn().unwrap();
    until("both hosts wait", || [1, 2].iter().all(|&host| hosts.at(host, "waiting").exists()));
    kill(apply.id());
    apply.wait().unwrap();
    hosts.go();
    until("the tasks in hand are finished", || [1, 2].iter().all(|&host| hosts.at(host, "gone").exists()));
    assert!(!hosts.at(1, "one").exists() && !hosts.at(1, "noted").exists());

    let differs = hosts.run(&["apply", "--plan", "plan.json"]).code(2);
    assert!(stdout(&differs).contains("there is nothing left to change"));
    assert!(!hosts.at(1, "one").exists());
    hosts.run(&["apply", "--plan", "plan.json", "--resume"]).code(0);
    for host in [1, 2] {
        assert_eq!((read(&hosts.at(host, "two")), read(&hosts.at(host, "noted"))), ("two".into(), "world".into()));
    }
    hosts.plan(&["--detailed-exitcode"]).code(0);
}

#[test]
fn what_is_known_later_says_after_which_task() {
    let Some(hosts) = Hosts::new("later") else { return };
    let tasks = r#"
    - name: Ask
      command: id -un
      register: said
    - name: Write the answer
      copy: {dest: "{{ root }}/answer", content: "{{ said.stdout }}"}
    - name: Add to the answer
      lineinfile: {path: "{{ root }}/answer", line: more}
    - name: Write something else
      copy: {dest: "{{ root }}/else", content: "else"}
"#;
    hosts.write("site.yml", &format!("- hosts: all\n  tasks:{tasks}"));
    let events = schema::lines(&hosts.plan(&["--format", "json"]).success().get_output().stdout);
    let of = |host: &str| -> Vec<[&Value; 4]> {
        let changes = events.iter().filter(|event| event["event"] == "change" && event["host"] == host);
        changes.map(|event| ["grade", "after", "after_task", "after_host"].map(|name| &event[name])).collect()
    };
    for host in ["n1", "n2"] {
        let (later, none) = (["known_after_apply", "1.1", "Ask", host].map(Value::from), Value::Null);
        let (opaque, exact) = (Value::from("opaque"), Value::from("exact"));
        let expected =
            [[&opaque, &none, &none, &none], later.each_ref(), later.each_ref(), [&exact, &none, &none, &none]];
        assert_eq!(of(host), expected);
    }
    let text = stdout(&hosts.plan(&[]).success());
    for line in [
        "n2 | change | Add to the answer (known after apply, after Ask on n2)\n",
        "PLAN SUMMARY 8 changes: 2 exact, 4 known after apply, 2 opaque on 2 hosts\n",
        "\n2 known after Ask on n1\n2 known after Ask on n2\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn limits_that_make_no_sense_are_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever connects takes longer and ends with code 4.
    let hosts =
        "[kube_control_plane]\nn1 ansible_host=192.0.2.1\n[etcd:children]\nkube_control_plane\n[kube_node]\nn1\n";
    fs::write(dir.path().join("hosts.ini"), hosts).unwrap();
    for (limit, expected) in [
        ("kubelet", "expected UNIT=NUMBER or UNIT=PERCENT%"),
        ("kubelet=10%,etcd=x", "expected UNIT=NUMBER or UNIT=PERCENT%"),
        ("kubelet=10%,kubeproxy=1", "no task of the playbook looks after a unit kubeproxy; did you mean `kube-proxy`?"),
        ("etcd=1,etcd=2", "etcd is given twice"),
    ] {
        for verb in ["plan", "apply"] {
            let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_kprov"));
            let assert = command.current_dir(&dir).args([verb, "-i", "hosts.ini", "--max-disruption", limit]).assert();
            let said = stderr(&assert.code(1));
            assert!(said.contains(expected), "{limit}: {said}");
        }
    }
}
