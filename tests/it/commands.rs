//! Verbs that need no host, or only ask one: `lint`, `graph`, `facts`, `init`, `completion`.

use assert_cmd::Command;
use std::path::Path;

fn kprov(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
    let output = command.current_dir(dir).args(args).env_remove("KPROV_AGENT").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn init_writes_an_inventory_that_lint_and_graph_take() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = kprov(dir.path(), &["init", "mine"]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(dir.path().join("mine/group_vars/all/all.yml").exists());
    assert!(stderr.contains("kprov apply -i mine/inventory.ini"), "{stderr}");
    let (code, _, stderr) = kprov(dir.path(), &["init", "mine"]);
    assert_eq!((code, stderr.as_str()), (1, "error: mine: the directory is not empty\n"));

    let (code, stdout, stderr) = kprov(dir.path(), &["lint", "-i", "mine/inventory.ini"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.contains(" hosts, ") && stdout.ends_with(" tasks, 0 warnings\n"), "{stdout}");
    let (code, stdout, stderr) = kprov(dir.path(), &["inventory", "check", "-i", "mine/inventory.ini"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "3 hosts, 0 warnings\n", ""));

    let (code, stdout, stderr) = kprov(dir.path(), &["graph", "-i", "mine/inventory.ini"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("digraph kprov {") && stdout.contains("etcd : ") && stdout.contains(" -> "), "{stdout}");
}

#[test]
fn lint_tells_every_mistake_of_every_stage_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("hosts.ini", "[web]\nn1\n");
    write("group_vars/all.yml", "port: http\nlabel: '{{ a b }}'\n");
    write("site.yml", "- hosts: wbe\n  roles: [web]\n");
    write("roles/web/meta/argument_specs.yml", "argument_specs: {main: {options: {port: {type: int}}}}");
    write("roles/web/tasks/main.yml", "- template: {src: x.j2, dest: /x}\n  when: port is\n");
    write("roles/web/templates/x.j2", "one\n{{ port | }}\n");
    let (code, stdout, stderr) = kprov(dir.path(), &["lint", "-i", "hosts.ini", "--playbook", "site.yml"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    for place in [
        "site.yml:1:",
        "group_vars/all.yml:1:",
        "group_vars/all.yml:2:",
        "roles/web/tasks/main.yml:2:",
        "roles/web/templates/x.j2:2:",
    ] {
        assert!(stderr.contains(place), "{place} in\n{stderr}");
    }
    // Without an inventory, kprov's own playbook.
    let (code, stdout, stderr) = kprov(dir.path(), &["lint"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
}

#[test]
fn facts_are_printed_by_host() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = "[web]\nn1 ansible_connection=local\n[other]\nn2 ansible_connection=local\n";
    std::fs::write(dir.path().join("hosts.ini"), hosts).unwrap();
    let (code, stdout, stderr) = kprov(dir.path(), &["facts", "-i", "hosts.ini", "web"]);
    assert_eq!(code, 0, "{stderr}");
    let facts: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(facts.as_object().unwrap().len(), 1);
    assert_eq!(facts["n1"]["ansible_system"], "Linux", "{stdout}");
    let (code, stdout, stderr) = kprov(dir.path(), &["facts", "-i", "hosts.ini", "wbe"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    // A host that cannot be asked is told, and the others are printed.
    let away = "[web]\nn1 ansible_connection=local\nn3 ansible_host=127.0.0.1 ansible_port=1\n";
    std::fs::write(dir.path().join("hosts.ini"), away).unwrap();
    let (code, stdout, stderr) = kprov(dir.path(), &["facts", "-i", "hosts.ini"]);
    assert_eq!((code, stdout.contains("\"n1\"")), (4, true), "{stderr}");
    assert!(stderr.starts_with("n3: unreachable: ") && stderr.lines().count() == 1, "{stderr}");
    let nobody =
        "n1 ansible_connection=local\nn2 ansible_connection=local ansible_become=true ansible_become_user=nope\n";
    std::fs::write(dir.path().join("hosts.ini"), nobody).unwrap();
    let (code, stdout, stderr) = kprov(dir.path(), &["facts", "-i", "hosts.ini"]);
    assert_eq!((code, stdout.contains("\"n1\"")), (2, true), "{stderr}");
    assert!(stderr.starts_with("n2: failed: ") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn completions_name_the_verbs() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, stderr) = kprov(dir.path(), &["completion", shell]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("apply") && stdout.contains("artifacts"), "{shell}");
        let file = dir.path().join(shell);
        std::fs::write(&file, stdout).unwrap();
        // Of the shells, only bash is sure to be there.
        match std::process::Command::new(shell).arg("-n").arg(file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => assert!(shell != "bash", "{error}"),
        }
    }
    for (words, expected) in [("kprov ap", "apply"), ("kprov runs s", "show"), ("kprov plan --max", "--max-disruption")]
    {
        let script = format!(
            "source ./bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _kprov kprov \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        Command::new("bash").current_dir(dir.path()).args(["-c", &script]).assert().stdout(format!("{expected}\n"));
    }
    assert_eq!(kprov(dir.path(), &["completion", "nosh"]).0, 1);
}

#[test]
fn a_verb_that_needs_an_inventory_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for verb in [&["apply"][..], &["plan"], &["validate"], &["facts"], &["graph"], &["runs", "list"], &["lock", "show"]]
    {
        let (code, stdout, stderr) = kprov(dir.path(), verb);
        let expected = "error: there is no inventory: name one with -i\n";
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (1, "", expected), "{verb:?}");
    }
    let (code, _, stderr) = kprov(dir.path(), &["apply", "--plan", "nope"]);
    assert_eq!((code, stderr.contains("nope: No such file")), (1, true), "{stderr}");
}

#[test]
fn help_is_no_error_and_nothing_asked_is_one() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["apply", "plan", "validate", "lint", "graph", "facts", "init", "completion", "lock", "runs", "lab"] {
        let (code, stdout, stderr) = kprov(dir.path(), &[verb, "--help"]);
        assert!(code == 0 && stderr.is_empty() && stdout.contains(&format!("Usage: kprov {verb}")), "{stdout}{stderr}");
    }
    assert_eq!(kprov(dir.path(), &[]).0, 1);
    assert_eq!(kprov(dir.path(), &["aply"]).0, 1);
}
