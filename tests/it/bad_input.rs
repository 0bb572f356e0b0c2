//! What is wrong with what a user gives: each mistake ends with its documented exit code and names the file and line, or
//! the host and task. The real command, on hosts that are this machine or that do not answer.

use crate::sshd::alone;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A host that does not answer: whoever connects ends with code 4.
const AWAY: &str = "[kube_control_plane]\nn1 ansible_host=192.0.2.1\n[etcd:children]\nkube_control_plane\n\
                    [kube_node:children]\nkube_control_plane\n";
/// This machine, without SSH.
const HERE: &str = "n1 ansible_connection=local\n";
/// To this machine: [`alone`].
const APPLY: [&str; 5] = ["apply", "-i", "hosts.ini", "--playbook", "site.yml"];

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
    command.current_dir(dir).args(args).env_remove("KPROV_AGENT").env_remove("ANSIBLE_VAULT_PASSWORD_FILE");
    command
}

/// The exit code and everything that was printed.
fn kprov(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = command(dir, args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    // Playbooks are shown with their whole path.
    let prefix = format!("{}/", dir.display());
    (output.status.code().unwrap(), String::from_utf8(text).unwrap().replace(&prefix, ""))
}

#[test]
fn a_mistake_in_a_file_ends_with_1_and_its_line_before_any_host_is_asked() {
    struct Case {
        files: &'static [(&'static str, &'static str)],
        args: &'static [&'static str],
        says: &'static [&'static str],
    }
    let play = |says: &'static [&'static str], text: &'static str| Case {
        files: Box::leak(Box::new([("hosts.ini", AWAY), ("site.yml", text)])),
        args: &["apply", "-i", "hosts.ini", "--playbook", "site.yml"],
        says,
    };
    let mut wrong = String::new();
    let cases = [
        Case {
            files: &[("hosts.ini", "[kube_node\nn1\n")],
            args: &["apply", "-i", "hosts.ini"],
            says: &["error: ", "--> hosts.ini:1:1"],
        },
        Case {
            files: &[("hosts.yml", "all:\n  hosts: {n1: }\n  children: [a\n")],
            args: &["apply", "-i", "hosts.yml"],
            says: &["error: invalid YAML", "--> hosts.yml:3:"],
        },
        Case {
            files: &[("hosts.ini", "[kube_node]\nn1 ansible_host=10.0.0.1\nn2 ansible_host=10.0.0.1\n")],
            args: &["apply", "-i", "hosts.ini"],
            says: &["two hosts with one address: n2 and n1 (hosts.ini:2)", "--> hosts.ini:3:4"],
        },
        Case {
            files: &[("hosts.ini", "[kube_node]\nn1\n[k8s_cluster:children]\nkube_nod\n")],
            args: &["apply", "-i", "hosts.ini"],
            says: &["undefined group: kube_nod", "--> hosts.ini:4:1", "did you mean `kube_node`?"],
        },
        Case {
            files: &[("hosts.ini", AWAY), ("group_vars/all.yml", "etcd_data_dir: [a]\n")],
            args: &["apply", "-i", "hosts.ini"],
            says: &["wrong type of etcd_data_dir: expected path, found a list", "--> group_vars/all.yml:1:1"],
        },
        play(
            &["unknown keyword `wehn`", "--> site.yml:3:25", "did you mean `when`?"],
            "- hosts: all\n  tasks:\n    - {command: \"true\", wehn: x}\n",
        ),
        play(
            &["unknown module `comand`", "--> site.yml:3:7", "did you mean `command`?"],
            "- hosts: all\n  tasks:\n    - comand: 'true'\n",
        ),
        play(
            &["`tsks` is not a keyword of a play", "--> site.yml:2:3", "did you mean `tasks`?"],
            "- hosts: all\n  tsks: []\n",
        ),
        play(
            &["assert: unknown argument `fail_message`", "--> site.yml:3:28", "did you mean `fail_msg`?"],
            "- hosts: all\n  tasks:\n    - assert: {that: true, fail_message: x}\n",
        ),
        play(
            &["debug: unknown argument `verbosity`", "this module takes msg, var"],
            "- hosts: all\n  tasks:\n    - debug: {msg: x, verbosity: 2}\n",
        ),
        play(&["fail: unknown argument `message`"], "- hosts: all\n  tasks:\n    - fail: {message: x}\n"),
        play(
            &["setup: unknown argument `filter`", "this module takes no arguments"],
            "- hosts: all\n  tasks:\n    - setup: {filter: x}\n",
        ),
        play(
            &["systemd: expected a mapping of arguments, found a text", "--> site.yml:3:16"],
            "- hosts: all\n  tasks:\n    - systemd: daemon_reload=yes\n",
        ),
        play(
            &["template syntax: ", "--> site.yml:3:"],
            "- hosts: all\n  tasks:\n    - copy: {dest: /x, content: 'a {{ b c }}'}\n",
        ),
        play(
            &["template syntax: ", "--> site.yml:4:"],
            "- hosts: all\n  tasks:\n    - command: 'true'\n      when: a b\n",
        ),
        Case {
            files: &[
                ("hosts.ini", AWAY),
                ("site.yml", "- hosts: all\n  tasks:\n    - template: {src: x.j2, dest: /x}\n"),
                ("templates/x.j2", "one\n{% if a %}\n"),
            ],
            args: &["apply", "-i", "hosts.ini", "--playbook", "site.yml"],
            says: &["template syntax: ", "templates/x.j2:"],
        },
        Case {
            files: &[
                ("hosts.ini", AWAY),
                ("group_vars/all.yml", "\nport: http\n"),
                ("site.yml", "- hosts: all\n  roles: [web]\n"),
                ("roles/web/tasks/main.yml", "- debug: {msg: x}\n"),
                ("roles/web/meta/argument_specs.yml", "argument_specs: {main: {options: {port: {type: int}}}}"),
            ],
            args: &["apply", "-i", "hosts.ini", "--playbook", "site.yml"],
            says: &["wrong type of port: expected int, found str `http`", "--> group_vars/all.yml:2:1"],
        },
    ];
    for case in cases {
        let dir = directory(case.files);
        let (code, text) = kprov(dir.path(), case.args);
        let missing: Vec<_> = case.says.iter().filter(|says| !text.contains(**says)).collect();
        if code != 1 || !missing.is_empty() {
            wrong += &format!("code {code}, missing {missing:?} in\n{text}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_mistake_that_shows_on_a_host_ends_with_2_and_names_host_and_place() {
    let _alone = alone();
    const SPECS: &str =
        "argument_specs:\n  main:\n    options:\n      port: {type: int}\n      name: {required: true}\n";
    let role = |vars: &str, when: &str| {
        directory(&[
            ("hosts.ini", HERE),
            ("group_vars/all.yml", vars),
            (
                "site.yml",
                &format!(
                    "- hosts: all\n  tasks:\n    - copy: {{dest: \"{{{{ playbook_dir }}}}/made\", content: x}}\n  roles:\n    - {{role: web{when}}}\n"
                ),
            ),
            ("roles/web/tasks/main.yml", "- debug: {msg: '{{ name }}'}\n"),
            ("roles/web/meta/argument_specs.yml", SPECS),
        ])
    };
    let play = |text: &str, template: &str| {
        directory(&[("hosts.ini", HERE), ("site.yml", text), ("templates/x.j2", template)])
    };
    let template =
        "- hosts: all\n  tasks:\n    - name: Write\n      template: {src: x.j2, dest: \"{{ playbook_dir }}/made\"}\n";
    let cases = [
        // A value that only rendering shows to be wrong.
        (
            role("base: eighty\nport: '{{ base }}'\nname: x\n", ""),
            &["n1 : variables : ", "group_vars/all.yml:2: wrong type of port: expected int, found str `eighty`"][..],
        ),
        (
            role("port: 80\n", ""),
            &[
                "n1 : variables : ",
                "roles/web/meta/argument_specs.yml:5: the variable name is not set, and role web requires it",
            ],
        ),
        (
            role("port: '{{ bsae }}'\nbase: 80\nname: x\n", ""),
            &["group_vars/all.yml:1: `bsae` is undefined", "did you mean `base`?"],
        ),
        (play(template, "one\n{{ nope }}\n"), &["n1", "Write", "templates/x.j2:2: `nope` is undefined"]),
        (play(template, "{{ ['a', nope] | join(',') }}\n"), &["templates/x.j2:1: `nope` is undefined"]),
        (
            play("- hosts: all\n  tasks:\n    - name: Stop\n      stat: {pth: /x}\n", ""),
            &["n1", "Stop", "site.yml:4: stat: missing argument `path`", "`pth` is no argument of this module"],
        ),
    ];
    for (dir, says) in cases {
        let (code, text) = kprov(dir.path(), &APPLY);
        let missing: Vec<_> = says.iter().filter(|says| !text.contains(**says)).collect();
        assert!(code == 2 && missing.is_empty(), "code {code}, missing {missing:?} in\n{text}");
        assert!(text.contains("failed=1"), "{text}");
        assert!(!dir.path().join("made").exists(), "{text}");
    }
    // A role that does nothing on this host does not need its variables.
    let dir = role("", ", when: false");
    let (code, text) = kprov(dir.path(), &APPLY);
    assert_eq!((code, dir.path().join("made").exists()), (0, true), "{text}");
}

#[test]
fn what_a_failed_host_did_not_register_is_blamed_on_it() {
    let _alone = alone();
    let dir = directory(&[
        ("hosts.ini", "n1 ansible_connection=local\nn2 ansible_connection=local\n"),
        (
            "site.yml",
            "- hosts: all\n  tasks:\n    - command: /bin/false\n      when: inventory_hostname == 'n1'\n\
             \x20   - command: /bin/true\n      register: known\n    - debug: {msg: \"{{ hostvars['n1'].known.rc }}\"}\n",
        ),
    ]);
    let (code, text) = kprov(dir.path(), &APPLY);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("is undefined (failed before: n1)"), "{text}");
}

#[test]
fn a_failed_task_is_told_though_its_condition_cannot_be_read() {
    let _alone = alone();
    let task = "file: {path: '{{ playbook_dir }}/none/there', state: touch}";
    let until =
        format!("    - {task}\n      register: made\n      until: made.size > 0\n      retries: 2\n      delay: 0\n");
    let dir = directory(&[("hosts.ini", HERE), ("site.yml", &format!("- hosts: all\n  tasks:\n{until}"))]);
    let (code, text) = kprov(dir.path(), &APPLY);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("No such file or directory") && !text.contains("is undefined"), "{text}");
}

#[test]
fn a_required_group_without_hosts_is_a_finding_with_its_line() {
    let dir =
        directory(&[("hosts.ini", "[kube_control_plane]\nn1 ansible_connection=local\n[kube_node]\nn1\n[etcd]\n")]);
    let (code, text) = kprov(dir.path(), &["validate", "-i", "hosts.ini"]);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains(
            "cluster : groups : found a group without hosts etcd, required at least one host in etcd (hosts.ini:5) : "
        ),
        "{text}"
    );
}

#[test]
fn what_says_how_to_connect_is_checked_before_any_host_is_asked() {
    let dir = directory(&[("hosts.ini", &AWAY.replace(".1\n", ".1\nn2\nn3\n"))]);
    let (code, text) = kprov(dir.path(), &["apply", "-i", "hosts.ini", "--private-key", "nowhere/key"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("error: --private-key: nowhere/key: No such file") && text.lines().count() == 1, "{text}");
    for (variable, says) in [
        ("ansible_ssh_private_key_file=/nowhere/key", "/nowhere/key: No such file"),
        ("ansible_port=ssh", "`ssh` is not a port"),
        ("ansible_user='{{ nobody }}'", "`nobody` is undefined"),
    ] {
        let dir = directory(&[("hosts.ini", &AWAY.replace(".1\n", &format!(".1 {variable}\n")))]);
        for verb in ["apply", "plan", "validate", "facts"] {
            let (code, text) = kprov(dir.path(), &[verb, "-i", "hosts.ini"]);
            assert_eq!(code, 1, "{text}");
            assert!(text.contains(says) && text.contains("--> hosts.ini:2:"), "{text}");
        }
    }
}

#[test]
fn what_takes_too_much_down_is_refused_with_2_and_changes_nothing() {
    let _alone = alone();
    // The path is known after the first task, so that the handler is planned without asking for the unit.
    let dir = directory(&[
        ("hosts.ini", HERE),
        (
            "site.yml",
            "- hosts: all\n  tasks:\n    - command: touch '{{ playbook_dir }}/first'\n      register: done\n    \
             - file: {path: '{{ playbook_dir }}/{{ done.rc }}', state: touch}\n      notify: Restart\n  \
             handlers:\n    - name: Restart\n      systemd: {name: kubelet, state: restarted}\n",
        ),
    ]);
    for verb in ["plan", "apply"] {
        let (code, text) =
            kprov(dir.path(), &[verb, "-i", "hosts.ini", "--playbook", "site.yml", "--max-disruption", "kubelet=0"]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("n1 : plan : disruption : kubelet would be down on 1 of the 1 hosts"), "{text}");
        assert!(text.contains("failed=1") && !dir.path().join("first").exists(), "{text}");
    }
}

#[test]
fn an_agent_of_another_build_is_refused_before_any_host_is_asked() {
    let dir = directory(&[("hosts.ini", AWAY)]);
    for (agent, says) in [
        (env!("CARGO_BIN_EXE_kprov").to_owned() + ".not", "cannot read the agent"),
        ("/bin/true".to_owned(), "/bin/true is the agent of another build than this kprov"),
        (dir.path().join("hosts.ini").display().to_string(), "is not a program for Linux (ELF)"),
    ] {
        let output = command(dir.path(), &["plan", "-i", "hosts.ini"]).env("KPROV_AGENT", agent).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(says) && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn an_interrupted_run_finishes_the_task_in_hand_and_the_next_one_finishes_the_rest() {
    let _alone = alone();
    let dir = directory(&[
        ("hosts.ini", HERE),
        (
            "site.yml",
            "- hosts: all\n  tasks:\n    - shell: touch started && while ! [ -e go ]; do sleep 0.05; done && touch first\n      \
             args: {chdir: '{{ playbook_dir }}', creates: first}\n    - command: touch second\n      \
             args: {chdir: '{{ playbook_dir }}', creates: second}\n      register: done\n    - debug: {var: done.changed}\n",
        ),
    ]);
    let mut child = command(dir.path(), &APPLY).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&dir.path().join("started"));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let mut stderr = child.stderr.take().unwrap();
    let mut seen = String::new();
    while !seen.contains("finishing the tasks in flight") {
        let mut byte = [0];
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{seen}");
        seen.push(byte[0].into());
    }
    std::fs::write(dir.path().join("go"), "").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(99), "{text}");
    assert!(text.contains("n1 : ok="), "the recap is printed: {text}");
    assert!(dir.path().join("first").exists());
    let (code, text) = kprov(dir.path(), &APPLY);
    assert_eq!((code, dir.path().join("second").exists()), (0, true), "{text}");
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} did not come", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}
