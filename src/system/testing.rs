//! Looks at directory trees for tests: exactly as the kernel has them, or as an [`Fs`] says they are.

use super::{Fs, Kind, Meta, SystemError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything about a tree on disk that a change could leave a trace in: metadata with inode and times, and content.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, (Meta, Option<Vec<u8>>)> {
    let disk = Fs::new(super::Mode::Apply);
    let mut found = BTreeMap::new();
    visit(&disk, root, &mut |path, mut meta| {
        if let Some(stamp) = &mut meta.stamp {
            // Reading is allowed.
            stamp.atime = 0;
        }
        let content = meta.is_file().then(|| disk.read(path).unwrap());
        found.insert(path.to_owned(), (meta, content));
    });
    found
}

/// One entry of a tree, in what a plan can know of it. A digest of `None`: known after apply, or no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub sha256: Option<String>,
}

/// A tree as `fs` sees it.
pub fn tree(fs: &Fs, root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    visit(fs, root, &mut |path, Meta { kind, mode, uid, gid, .. }| {
        let sha256 = (kind == Kind::File)
            .then(|| match fs.sha256(path) {
                Err(SystemError::Unknown) => None,
                other => Some(other.unwrap()),
            })
            .flatten();
        found.insert(path.to_owned(), Entry { kind, mode, uid, gid, sha256 });
    });
    found
}

/// Fails unless the planned tree is what the real one became. What the plan does not know is not compared.
pub fn assert_same(mut planned: BTreeMap<PathBuf, Entry>, real: &BTreeMap<PathBuf, Entry>, what: &str) {
    for (path, entry) in &mut planned {
        if entry.sha256.is_none() && entry.kind == Kind::File {
            entry.sha256 = real.get(path).and_then(|real| real.sha256.clone());
        }
    }
    assert_eq!(&planned, real, "{what}: the plan (left) is not what came of it (right)");
}

fn visit(fs: &Fs, path: &Path, see: &mut dyn FnMut(&Path, Meta)) {
    let Some(meta) = fs.lstat(path).unwrap() else { return };
    let directory = meta.is_dir();
    see(path, meta);
    if directory {
        for name in fs.list(path).unwrap() {
            visit(fs, &path.join(name), see);
        }
    }
}
