//! What `-i` names: files, directories of files, lists of hosts.

use super::build::Builder;
use super::{Inventory, hostname, ini, yaml};
use crate::source::{InputError, InputErrors, Source};
use crate::vars::{VarMap, Vault};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files of a directory that are no inventory: Ansible's `inventory_ignore_extensions`. `.ini` is read, though
/// Kubespray's `ansible.cfg` adds it to the list.
const IGNORED_EXTENSIONS: [&str; 14] =
    ["pyc", "pyo", "swp", "bak", "rpm", "md", "txt", "rst", "orig", "cfg", "retry", "j2", "pem", "conf"];

/// Directories that Kubespray or kprov keep beside an inventory and that hold none.
const IGNORED_DIRS: [&str; 9] = [
    "group_vars",
    "host_vars",
    "vars_plugins",
    "artifacts",
    "credentials",
    "patches",
    "playbooks",
    "roles",
    "templates",
];

impl Inventory {
    /// Reads every source in order and merges them. A path with a comma that does not exist is a list of hosts
    /// (`n1,n2` or `n1,`).
    pub fn load(paths: &[PathBuf], vault: &Vault) -> Result<Self, InputErrors> {
        read_all(paths, vault).finish()
    }

    /// Reads sources as [`Inventory::load`] does and adds the groups of a cluster that they do not declare:
    /// `kube_control_plane`, `kube_node`, `etcd`, `calico_rr` and, above all but `etcd`, `k8s_cluster`. Kubespray makes
    /// `k8s_cluster` at run time, so that an inventory need not have it.
    pub fn load_cluster(paths: &[PathBuf], vault: &Vault) -> Result<Self, InputErrors> {
        let mut builder = read_all(paths, vault);
        builder.add_cluster_groups();
        builder.finish()
    }
}

fn read_all(paths: &[PathBuf], vault: &Vault) -> Builder {
    let mut builder = Builder::new();
    for path in paths {
        read_source(path, vault, &mut builder);
    }
    builder
}

fn read_source(path: &Path, vault: &Vault, builder: &mut Builder) {
    let text = path.to_string_lossy();
    if path.is_dir() {
        builder.dirs.insert(path.to_owned());
        let before = builder.errors.len();
        if read_dir(path, vault, builder) == 0 && builder.errors.len() == before {
            let error = InputError::new(format!("no inventory file in {}", path.display()));
            builder.error(error.help("expected an .ini, .yml, .yaml or .json file or one without extension"));
        }
    } else if text.contains(',') && !path.exists() {
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match hostname::expand(entry) {
                Ok((names, port)) => builder.add_hosts(&names, port, &VarMap::new(), "ungrouped", None, None),
                Err(message) => builder.error(InputError::new(format!("in the host list: {message}"))),
            }
        }
    } else {
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        builder.dirs.insert(parent.to_owned());
        read_file(path, vault, builder);
    }
}

/// Reads the files of a directory in the order of their names; returns how many there were.
fn read_dir(dir: &Path, vault: &Vault, builder: &mut Builder) -> usize {
    let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => {
            builder.error(InputError::new(format!("cannot read {}: {error}", dir.display())));
            return 0;
        }
    };
    let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    let mut files = 0;
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') || IGNORED_EXTENSIONS.contains(&extension.as_str()) {
            continue;
        }
        if path.is_dir() {
            if !IGNORED_DIRS.contains(&name.as_str()) {
                files += read_dir(&path, vault, builder);
            }
        } else {
            files += 1;
            read_file(&path, vault, builder);
        }
    }
    files
}

fn read_file(path: &Path, vault: &Vault, builder: &mut Builder) {
    let source = match Source::open(path) {
        Ok(source) => source,
        Err(error) => return builder.error(error),
    };
    if Vault::is_encrypted(&source.text) {
        return builder.error(InputError::new(format!("{} is encrypted: an inventory file cannot be", path.display())));
    }
    let executable = path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
    if executable && source.text.starts_with("#!") {
        let error = InputError::new(format!("{} is an inventory script: scripts are not run", path.display()));
        return builder.error(error.help("run it and save what it prints"));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yml" | "yaml" | "json") => yaml::read(&source, vault, builder),
        Some("toml") => {
            let error = InputError::new(format!("{}: TOML inventories are not supported", path.display()));
            builder.error(error.help("write it as INI or YAML"));
        }
        None if looks_like_yaml(&source.text) => yaml::read(&source, vault, builder),
        _ => ini::read(&source, builder),
    }
}

/// Tells YAML from INI by the first line that says something.
fn looks_like_yaml(text: &str) -> bool {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    line.is_some_and(|line| line.starts_with("---") || line.starts_with('{') || line.ends_with(':'))
}
