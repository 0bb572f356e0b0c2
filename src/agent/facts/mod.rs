//! What a node tells about itself, in one pass.
//!
//! Names and shapes are those of Ansible's `setup` module (`ansible_*`), for the facts that roles use. What preconditions
//! need beyond it is under `kprov` (see `kube`). Everything is read from /proc, /sys and /etc; one program is started
//! (`systemctl --version`). There is no DNS and nothing that can hang on a dead server. Differs from Ansible:
//! `ansible_memtotal_mb` is what the node may use (its cgroup's limit, if that is less than the machine has), times are
//! in UTC, and there is no `ansible_python`.

mod hardware;
mod kube;
mod network;
mod os;
mod sockets;

use crate::modules::Failure;
use crate::system::View;
use crate::value::{Map, Value};
use std::path::{Path, PathBuf};

/// Gathers all facts of this node.
pub fn gather(view: View<'_>) -> Result<Value, Failure> {
    let root = Root(PathBuf::from("/"));
    let mut facts = Map::new();
    os::gather(&root, &mut facts);
    hardware::gather(&root, &mut facts);
    network::gather(&root, &mut facts)?;
    let mut kprov = kube::gather(&root, view);
    // The clock last: the controller compares it with its own.
    os::date_time(&mut facts, &mut kprov);
    facts.insert("kprov".to_owned(), kprov.into());
    Ok(facts.into())
}

/// The root directory that facts are read from; tests have others.
struct Root(PathBuf);

impl Root {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a file; empty where it cannot be read.
    fn read(&self, path: &str) -> String {
        std::fs::read(self.path(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The first line of a file, `None` where that is empty or cannot be read.
    fn line(&self, path: &str) -> Option<String> {
        let text = self.read(path);
        text.lines().next().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
    }

    /// The names in a directory, sorted; empty where there is none.
    fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Where a link points to, as it is written.
    fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = std::fs::read_link(self.0.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))).ok()?;
        Some(target.to_string_lossy().into_owned())
    }
}

/// Puts a fact where there is none, or one in place of another.
fn put(facts: &mut Map, name: &str, value: impl Into<Value>) {
    facts.insert(name.to_owned(), value.into());
}

fn strings<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Value {
    Value::List(items.into_iter().map(|item| Value::String(item.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Mode, System};

    /// A root with these files.
    pub(super) fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root(dir.path().to_owned());
        (dir, root)
    }

    #[test]
    fn gathers_this_machine() {
        let system = System::new(Mode::Plan);
        let facts = gather(system.view()).unwrap();
        let text = |name: &str| facts.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let int = |name: &str| facts.get(name).and_then(Value::as_int).unwrap_or_default();
        let uname = rustix::system::uname();
        assert_eq!(text("ansible_kernel"), uname.release().to_string_lossy());
        assert_eq!(text("ansible_nodename"), uname.nodename().to_string_lossy());
        assert!(int("ansible_memtotal_mb") > 100 && int("ansible_memtotal_mb") >= int("ansible_memfree_mb"));
        assert!(int("ansible_processor_vcpus") > 0);
        let interfaces = facts.get("ansible_interfaces").and_then(Value::as_list).unwrap();
        assert!(interfaces.contains(&"lo".into()));
        let lo = facts.get("ansible_lo").and_then(|lo| lo.get("ipv4")).and_then(|ipv4| ipv4.get("address"));
        assert_eq!(lo, Some(&"127.0.0.1".into()));
        assert!(facts.get("ansible_python").is_none());
        assert!(facts.get("kprov").and_then(|kprov| kprov.get("epoch_ns")).and_then(Value::as_int) > Some(0));
    }
}
