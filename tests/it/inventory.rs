//! `kprov inventory` and `kprov vars`: against what Ansible prints, and with input that is wrong.
//!
//! Each directory of `tests/inventories` holds an inventory and what `ansible-inventory --list` and `--graph` of
//! ansible-core 2.19.14 print for it.

use assert_cmd::Command;
use std::path::{Path, PathBuf};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inventories").join(name)
}

fn kprov(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
    command.current_dir(dir).args(args).env_remove("ANSIBLE_VAULT_PASSWORD_FILE");
    command
}

fn stdout(dir: &Path, args: &[&str]) -> String {
    let output = kprov(dir, args).assert().success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

/// What is printed on stderr for an input error, which ends with code 1 and prints nothing on stdout.
fn refused(dir: &Path, args: &[&str]) -> String {
    let output = kprov(dir, args).assert().code(1);
    assert_eq!(output.get_output().stdout, b"");
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

#[test]
fn list_and_graph_print_what_ansible_prints() {
    let cases: [(&str, &[&str]); 7] = [
        ("ini_values", &["-i", "hosts.ini"]),
        ("yaml_precedence", &["-i", "inventory.yml"]),
        ("kubespray", &["-i", "inventory.ini"]),
        ("directory", &["-i", "inv"]),
        ("depth", &["-i", "deep.yml"]),
        ("playbook_dir", &["-i", "inv/hosts", "--playbook-dir", "plays"]),
        ("several", &["-i", "../yaml_precedence/inventory.yml", "-i", "../directory/inv"]),
    ];
    for (name, args) in cases {
        let dir = case(name);
        for (verb, expected) in [("list", "expected-list.json"), ("graph", "expected-graph.txt")] {
            let expected = std::fs::read_to_string(dir.join(expected)).unwrap();
            assert_eq!(stdout(&dir, &[&["inventory", verb], args].concat()), expected, "{name} {verb}");
        }
    }
}

#[test]
fn host_prints_the_variables_of_one_host() {
    let dir = case("playbook_dir");
    let args = ["inventory", "host", "db1", "-i", "inv/hosts", "--playbook-dir", "plays"];
    insta::assert_snapshot!(stdout(&dir, &args), @r#"
    {
        "both": "inventory db",
        "from_inv_all": 1,
        "level": "host",
        "only": "inventory"
    }
    "#);
    let error = refused(&dir, &["inventory", "host", "all", "-i", "inv/hosts"]);
    assert_eq!(error, "error: expected one host, `all` matches 2\n");
}

#[test]
fn a_limit_keeps_groups_and_drops_hosts() {
    let text = stdout(&case("kubespray"), &["inventory", "list", "-i", "inventory.ini", "-l", "kube_node:!node5"]);
    assert!(text.contains("\"node4\"") && !text.contains("\"node5\"") && !text.contains("\"node1\""), "{text}");
}

#[test]
fn explain_shows_what_was_overridden_in_order() {
    let dir = case("playbook_dir");
    let args = ["vars", "explain", "level", "-i", "inv/hosts", "--playbook-dir", "plays"];
    insta::assert_snapshot!(stdout(&dir, &args), @r#"
    db1:
    level = "host"
        inv/hosts:2 (inventory, host)
      overrides "play_db"
        plays/group_vars/db.yml:1 (playbook group_vars)
      overrides "inv_db"
        inv/group_vars/db.yml:1 (inventory group_vars)
      overrides "inv_all"
        inv/group_vars/all.yml:1 (inventory group_vars/all)
      overrides "inventory_group"
        inv/hosts:5 (inventory, group)
      overrides "inventory_all"
        inv/hosts:8 (inventory, group)

    db2:
    level = "play_db"
        plays/group_vars/db.yml:1 (playbook group_vars)
      overrides "inv_db"
        inv/group_vars/db.yml:1 (inventory group_vars)
      overrides "inv_all"
        inv/group_vars/all.yml:1 (inventory group_vars/all)
      overrides "inventory_group"
        inv/hosts:5 (inventory, group)
      overrides "inventory_all"
        inv/hosts:8 (inventory, group)
    "#);
    let args = ["vars", "explain", "only", "-i", "inv/hosts", "--host", "db1", "-e", "only=mine", "-e", "{only: [1]}"];
    insta::assert_snapshot!(stdout(&dir, &args), @r#"
    db1:
    only = [1]
        -e:1 (extra vars (-e))
      overrides "mine"
        -e:1 (extra vars (-e))
      overrides "inventory"
        inv/hosts:6 (inventory, group)
    "#);
}

#[test]
fn the_check_says_what_there_is() {
    insta::assert_snapshot!(
        stdout(&case("../../inventory/sample"), &["inventory", "check", "-i", "inventory.ini"]),
        @"3 hosts, 0 warnings"
    );
}

#[test]
fn every_node_is_in_k8s_cluster_without_being_listed_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("group_vars")).unwrap();
    std::fs::write(dir.path().join("hosts.ini"), "[kube_control_plane]\nn1\n[kube_node]\nn2\n[bastion]\nb1\n").unwrap();
    std::fs::write(dir.path().join("group_vars/k8s_cluster.yml"), "kube_log_level: 4\n").unwrap();
    insta::assert_snapshot!(stdout(dir.path(), &["vars", "-i", "hosts.ini"]), @r"
    n1: kube_log_level = 4  # group_vars/k8s_cluster.yml:1 (inventory group_vars)
    n2: kube_log_level = 4  # group_vars/k8s_cluster.yml:1 (inventory group_vars)
    ");
    insta::with_settings!({filters => vec![(r"all/cluster\.yml:\d+", "all/cluster.yml:N")]}, {
    insta::assert_snapshot!(stdout(dir.path(), &["vars", "explain", "kube_log_level", "-i", "hosts.ini", "--host", "!n2"]), @r"
    b1:
    kube_log_level = 2
        kprov:group_vars/all/cluster.yml:N (defaults)

    n1:
    kube_log_level = 4
        group_vars/k8s_cluster.yml:1 (inventory group_vars)
      overrides 2
        kprov:group_vars/all/cluster.yml:N (defaults)
    ");
    });
}

#[test]
fn bad_input_points_at_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        refused(dir.path(), &["inventory", "check", "-i", name])
    };
    insta::assert_snapshot!(check("hosts.ini", "[etcd]\nn1 ansible_host=10.0.0.1\n[kube_node]\nn2 ansible_host=10.0.0.1\n"), @r"
    error: two hosts with one address: n2 and n1 (hosts.ini:2) both have ansible_host 10.0.0.1 port 22
     --> hosts.ini:4:4
      |
    4 | n2 ansible_host=10.0.0.1
      |    ^^^^^^^^^^^^^^^^^^^^^
      = help: give each host an address of its own, or list the host once, in several groups
    ");
    insta::assert_snapshot!(check("groups.ini", "[kube_node]\nn1\n[k8s_cluster:children]\nkube_nodes\n"), @r"
    error: undefined group: kube_nodes (a child of k8s_cluster)
     --> groups.ini:4:1
      |
    4 | kube_nodes
      | ^^^^^^^^^^
      = help: did you mean `kube_node`?
    ");
    insta::assert_snapshot!(check("hosts.yml", "all:\n  hosts:\n    n1:\n      ip: {{ address }}\n"), @r#"
    error: a value cannot begin with an unquoted `{{`: YAML reads a mapping
     --> hosts.yml:4:11
      |
    4 |       ip: {{ address }}
      |           ^^^^^^^^^^^^^
      = help: quote the expression: "{{ address }}"
    "#);
    insta::assert_snapshot!(refused(dir.path(), &["inventory", "list", "-i", "nowhere.ini"]), @"error: cannot read nowhere.ini: no such file");
    std::fs::create_dir(dir.path().join("group_vars")).unwrap();
    std::fs::write(dir.path().join("group_vars/all.yml"), "a: 1\nb: [1,\n").unwrap();
    insta::assert_snapshot!(check("one.ini", "n1\n"), @r"
    error: invalid YAML: unclosed bracket '['
     --> group_vars/all.yml:2:4
      |
    2 | b: [1,
      |    ^
      = help: close the `[`
    ");
}

#[test]
fn vaulted_values_are_decrypted_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("group_vars")).unwrap();
    write("hosts.ini", "[all]\nn1\n");
    write("password", "kestrel-42\n");
    write("group_vars/all.yml", VAULTED);
    let explain = |name: &'static str, flags: &[&str]| {
        stdout(dir.path(), &[&["vars", "explain", name, "-i", "hosts.ini"], flags].concat())
    };
    let flags = ["--vault-password-file", "password"];
    assert!(explain("token", &flags).starts_with("n1:\ntoken = ***\n    group_vars/all.yml:2 "));
    assert!(explain("plain", &flags).starts_with("n1:\nplain = \"x\"\n"));
    let error = refused(dir.path(), &["vars", "-i", "hosts.ini"]);
    assert!(
        error.starts_with(
            "error: encrypted with ansible-vault, and there is no vault password\n --> group_vars/all.yml:3:"
        ),
        "{error}"
    );
    write("password", "wrong\n");
    let error = refused(dir.path(), &[&["vars", "-i", "hosts.ini"], flags.as_slice()].concat());
    assert!(error.contains("none of the vault passwords decrypts this"), "{error}");
}

/// Made by `ansible-vault encrypt_string` with the password `kestrel-42`.
const VAULTED: &str = "\
plain: x
token: !vault |
  $ANSIBLE_VAULT;1.1;AES256
  61653566306262386131633130373037343865626361636434643663373831616430343736366230
  6437313865653762366538386433343433346133666466340a353935373437346239316630646264
  30626630653862666534633430396535303462343661303936343135393631393163653031636439
  3930373536633363330a393766366664383239386434646466643630383765343031626634643930
  6431
";
