//! Writes the inventory directory of a lab, and removes it.
//!
//! `inventory.ini` (Kubespray's groups), `id_ed25519` (the key of the user in it), `known_hosts` (the nodes' real host keys,
//! so that they are verified from the first connection on) and `group_vars/all/lab.yml`. The host keys are named by
//! `-o UserKnownHostsFile=` in `ansible_ssh_common_args`: that is how Ansible is told, and what kprov's transports read.

use super::{Lab, LabError, cgroup, command::output, rootfs, state};
use crate::source::InputError;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `group_vars/all/lab.yml`: facts about lab nodes that cannot be found out on them, or that kprov wants said.
fn variables(lab: &Lab) -> String {
    let cgroup = "kubelet_fail_cgroup_v1: false # the machine under the nodes has cgroup v1\n";
    format!(
        "# What is true of nodes of `kprov lab` on this machine.\n\
         kubelet_fail_swap_on: false # /proc/swaps in a node shows the swap of the machine under it\n{}",
        if cgroup::is_v1(&lab.cgroups) { cgroup } else { "" },
    )
}

/// The public key of the lab's user, made when there is none.
pub fn user_key(lab: &Lab) -> Result<String, LabError> {
    fs::create_dir_all(&lab.inventory).map_err(LabError::io(&lab.inventory))?;
    let key = private_key(lab);
    if !key.exists() {
        output(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", &comment(lab), "-f"]).arg(&key),
        )?;
    }
    let public = key.with_extension("pub");
    let public = fs::read_to_string(&public).map_err(LabError::io(&public))?;
    Ok(public.trim().to_owned())
}

/// Writes everything but the key; `host_keys` are the nodes', in their order.
pub fn write(lab: &Lab, host_keys: &[String]) -> Result<(), LabError> {
    let lines = lab.nodes.iter().zip(host_keys).map(|(node, key)| format!("{} {key}\n", node.address));
    state::write_atomically(&known_hosts(lab), lines.collect::<String>().as_bytes())?;
    let vars = lab.inventory.join("group_vars/all");
    fs::create_dir_all(&vars).map_err(LabError::io(&vars))?;
    state::write_atomically(&vars.join("lab.yml"), variables(lab).as_bytes())?;
    state::write_atomically(&file(lab), render(lab).as_bytes())
}

/// Removes what [`user_key`] and [`write`] made, and directories that are then empty; nothing where another owner wrote.
pub fn remove(lab: &Lab) -> Result<(), LabError> {
    let dir = &lab.inventory;
    if !is_ours(lab) {
        // An empty one is of an `up` that was killed; anything else stays.
        let _ = fs::remove_dir(dir);
        return Ok(());
    }
    for path in files(lab) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(LabError::io(&path)(error)),
            _ => {}
        }
    }
    for path in [dir.join("group_vars/all"), dir.join("group_vars"), dir.clone()] {
        match fs::remove_dir(&path) {
            // An `up` that was killed has not made all of them.
            Err(error) if error.kind() != ErrorKind::NotFound => break,
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a directory that holds somebody else's inventory, and a path that ssh options cannot express.
pub fn check(lab: &Lab) -> Result<(), LabError> {
    let dir = lab.inventory.display();
    let help = "choose another directory with --dir";
    if lab.inventory.to_string_lossy().contains(|c: char| c.is_whitespace() || "'\"%\\{}".contains(c)) {
        let message = format!("directory {dir}: blanks, quotes, braces, `%` and `\\` cannot stand in an ssh option");
        return Err(InputError::new(message).help(help).into());
    }
    let there = files(lab).into_iter().find(|path| path.exists());
    if let Some(path) = there.filter(|_| !is_ours(lab)) {
        return Err(InputError::new(format!("{} was not written for lab {}", path.display(), lab.name))
            .help(help)
            .into());
    }
    Ok(())
}

pub fn file(lab: &Lab) -> PathBuf {
    lab.inventory.join("inventory.ini")
}

pub fn private_key(lab: &Lab) -> PathBuf {
    lab.inventory.join("id_ed25519")
}

pub fn known_hosts(lab: &Lab) -> PathBuf {
    lab.inventory.join("known_hosts")
}

/// The first line of an inventory of this lab.
fn mark(lab: &Lab) -> String {
    format!(
        "# Written by `kprov lab up --name {}`, which writes it anew each time; `kprov lab down` removes it.\n",
        lab.name
    )
}

fn comment(lab: &Lab) -> String {
    format!("kprov lab {}", lab.name)
}

/// All files that we write; the inventory, by which the rest is known to be ours, is the last to be removed.
fn files(lab: &Lab) -> [PathBuf; 5] {
    let key = private_key(lab);
    let public = key.with_extension("pub");
    [known_hosts(lab), lab.inventory.join("group_vars/all/lab.yml"), key, public, file(lab)]
}

/// Whether the directory's files are this lab's: by the inventory, or by the key when `up` was killed before writing it.
fn is_ours(lab: &Lab) -> bool {
    match fs::read_to_string(file(lab)) {
        Ok(text) => text.starts_with(&mark(lab)),
        Err(_) => fs::read_to_string(private_key(lab).with_extension("pub"))
            .is_ok_and(|key| key.trim_end().ends_with(&format!(" {}", comment(lab)))),
    }
}

fn render(lab: &Lab) -> String {
    let hosts: String = lab.nodes.iter().map(|node| format!("{} ansible_host={}\n", node.name, node.address)).collect();
    let names: Vec<_> = lab.nodes.iter().map(|node| node.name.as_str()).collect();
    // One machine is both; else the first one is the control plane alone.
    let workers = if names.len() > 1 { &names[1..] } else { &names };
    let path = |path: PathBuf| path.display().to_string();
    format!(
        "{mark}[all]\n{hosts}\n\
         [all:vars]\n\
         ansible_user={user}\n\
         ansible_become=true\n\
         ansible_ssh_private_key_file={key}\n\
         ansible_ssh_common_args='-o UserKnownHostsFile={known_hosts}'\n\n\
         [kube_control_plane]\n{first}\n\n[etcd]\n{first}\n\n[kube_node]\n{workers}\n\n\
         [k8s_cluster:children]\nkube_control_plane\nkube_node\n",
        mark = mark(lab),
        user = rootfs::USER,
        key = path(private_key(lab)),
        known_hosts = path(known_hosts(lab)),
        first = names.first().copied().unwrap_or_default(),
        workers = workers.join("\n"),
    )
}

/// `dir` from where the user stands, without asking that it exists.
pub fn absolute(dir: &Path) -> Result<PathBuf, LabError> {
    std::path::absolute(dir).map_err(LabError::io(dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{NodeSpec, Size};
    use std::os::unix::fs::PermissionsExt;

    fn lab(dir: &Path, nodes: u8) -> Lab {
        let node = |i: u8| NodeSpec {
            name: format!("n{i}"),
            address: [10, 77, 0, 10 + i].into(),
            memory: Size(1 << 30),
            disk: None,
        };
        Lab {
            name: "lab".parse().unwrap(),
            subnet: "10.77.0.0/24".parse().unwrap(),
            inventory: dir.to_owned(),
            rootfs: "/r".into(),
            nodes: (1..=nodes).map(node).collect(),
            cgroups: Vec::new(),
        }
    }

    #[test]
    fn groups_are_kubesprays() {
        insta::assert_snapshot!(render(&lab(Path::new("/w/lab"), 3)), @r"
        # Written by `kprov lab up --name lab`, which writes it anew each time; `kprov lab down` removes it.
        [all]
        n1 ansible_host=10.77.0.11
        n2 ansible_host=10.77.0.12
        n3 ansible_host=10.77.0.13

        [all:vars]
        ansible_user=kprov
        ansible_become=true
        ansible_ssh_private_key_file=/w/lab/id_ed25519
        ansible_ssh_common_args='-o UserKnownHostsFile=/w/lab/known_hosts'

        [kube_control_plane]
        n1

        [etcd]
        n1

        [kube_node]
        n2
        n3

        [k8s_cluster:children]
        kube_control_plane
        kube_node
        ");
        assert!(render(&lab(Path::new("/w"), 1)).contains("[kube_node]\nn1\n"));
    }

    #[test]
    fn what_was_written_is_removed_and_what_others_wrote_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let lab = lab(&dir.path().join("lab"), 2);
        let key = user_key(&lab).unwrap();
        assert_eq!(user_key(&lab).unwrap(), key, "a second up keeps the key");
        write(&lab, &["ssh-ed25519 AAAA".into(), "ssh-ed25519 BBBB".into()]).unwrap();
        let known = fs::read_to_string(known_hosts(&lab)).unwrap();
        assert_eq!(known, "10.77.0.11 ssh-ed25519 AAAA\n10.77.0.12 ssh-ed25519 BBBB\n");
        assert_eq!(private_key(&lab).metadata().unwrap().permissions().mode() & 0o777, 0o600);

        let own = lab.inventory.join("group_vars/all/own.yml");
        fs::write(&own, "a: 1\n").unwrap();
        remove(&lab).unwrap();
        assert!(own.exists() && !file(&lab).exists() && !private_key(&lab).exists());

        fs::write(private_key(&lab), "somebody's").unwrap();
        remove(&lab).unwrap();
        assert!(private_key(&lab).exists(), "a key that we did not make stays");
        fs::remove_file(private_key(&lab)).unwrap();

        fs::write(file(&lab), "[all]\n").unwrap();
        assert!(check(&lab).unwrap_err().to_string().contains("was not written for lab"));
        remove(&lab).unwrap();
        assert!(file(&lab).exists());
    }

    #[test]
    fn a_path_that_ssh_would_take_apart_is_refused() {
        assert!(check(&lab(Path::new("/a b/lab"), 1)).is_err());
    }
}
