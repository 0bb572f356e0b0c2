//! Variables that do not fit what kprov declares stop a run before it connects to a host.

use assert_cmd::Command;
use std::path::Path;
use tempfile::TempDir;

/// An inventory whose host does not answer: whoever connects takes longer and ends with code 4.
fn inventory(vars: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let hosts =
        "[kube_control_plane]\nn1 ansible_host=192.0.2.1\n[etcd:children]\nkube_control_plane\n[kube_node]\nn1\n";
    std::fs::write(dir.path().join("hosts.ini"), hosts).unwrap();
    std::fs::create_dir(dir.path().join("group_vars")).unwrap();
    std::fs::write(dir.path().join("group_vars/all.yml"), vars).unwrap();
    dir
}

fn stderr(dir: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kprov")).current_dir(dir).args(args).assert().code(1);
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

#[test]
fn apply_plan_and_validate_refuse_variables_that_do_not_fit() {
    let dir = inventory("minimal_node_memory_mb: lots\nkube_versoin: 1.36.0\nkube_network_plugin: calico\n");
    insta::allow_duplicates! {
        for verb in ["apply", "plan", "validate"] {
        insta::assert_snapshot!(stderr(dir.path(), &[verb, "-i", "hosts.ini"]), @r"
        error: wrong type of minimal_node_memory_mb: expected int, found str `lots`
         --> group_vars/all.yml:1:1
          |
        1 | minimal_node_memory_mb: lots
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        error: kube_network_plugin cannot be `calico`: expected one of bridge
         --> group_vars/all.yml:3:1
          |
        3 | kube_network_plugin: calico
          | ^^^^^^^^^^^^^^^^^^^^^^^^^^^
        error: unknown variable: kube_versoin
         --> group_vars/all.yml:2:1
          |
        2 | kube_versoin: 1.36.0
          | ^^^^^^^^^^^^^^^^^^^^
          = help: did you mean `kube_version`?
        3 errors
        ");
        }
    }
}

#[test]
fn a_float_where_a_version_belongs_is_refused() {
    let dir = inventory("");
    let error = stderr(dir.path(), &["plan", "-i", "hosts.ini", "-e", "{kube_version: 1.40}"]);
    insta::assert_snapshot!(error, @r"
    error: wrong type of kube_version: expected str, found float `1.4`
     --> -e:1:2
      |
    1 | {kube_version: 1.40}
      |  ^^^^^^^^^^^^^^^^^^
      = help: quote it: a float loses zeros at its end
    ");
}

#[test]
fn what_kubespray_has_and_kprov_has_not_is_reported_by_name() {
    let dir = inventory("docker_options: x\netcd_events_cluster_enabled: true\nsite: 3\nlabel: \"{{ site }}\"\n");
    let output = Command::new(env!("CARGO_BIN_EXE_kprov"))
        .current_dir(dir.path())
        .args(["inventory", "check", "-i", "hosts.ini"])
        .assert()
        .success();
    insta::assert_snapshot!(String::from_utf8_lossy(&output.get_output().stderr), @r#"
    warning: unknown variable: label; nothing reads it
     --> group_vars/all.yml:4:1
      |
    4 | label: "{{ site }}"
      | ^^^^^^^^^^^^^^^^^^^
    warning: not supported by kprov and ignored: docker_options, etcd_events_cluster_enabled
     --> group_vars/all.yml:1:1
      |
    1 | docker_options: x
      | ^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn the_sample_inventory_fits() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("inventory/sample");
    let output = Command::new(env!("CARGO_BIN_EXE_kprov"))
        .args(["inventory", "check", "-i"])
        .arg(sample.join("inventory.ini"))
        .assert()
        .success();
    assert_eq!(String::from_utf8_lossy(&output.get_output().stderr), "");
}
