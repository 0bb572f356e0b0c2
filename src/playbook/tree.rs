//! Where roles, playbooks and default variables are found: directories of the user first, then those built into kprov.

use crate::source::{self, InputError, Source};
use rust_embed::RustEmbed;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

macro_rules! built_in {
    ($($name:ident = $folder:literal;)*) => {
        $(#[derive(RustEmbed)]
        #[folder = $folder]
        #[prefix = $folder]
        struct $name;)*

        fn built_in_names() -> Vec<String> {
            let mut names = Vec::new();
            $(names.extend($name::iter().map(|path| path.to_string()));)*
            names
        }

        fn built_in(path: &str) -> Option<Vec<u8>> {
            $(if path.starts_with($folder) {
                return $name::get(path).map(|file| file.data.into_owned());
            })*
            None
        }
    };
}

built_in! {
    Roles = "roles/";
    Playbooks = "playbooks/";
    GroupVars = "group_vars/";
    Sample = "inventory/sample/";
}

/// Files by relative path ("roles/etcd/tasks/main.yml"). A user's `roles/NAME` replaces the built-in role as a whole.
#[derive(Debug, Default)]
pub struct Tree {
    dirs: Vec<PathBuf>,
}

impl Tree {
    /// Looks in `dirs` in this order, then among the built-in files.
    pub fn new(dirs: Vec<PathBuf>) -> Arc<Self> {
        Arc::new(Self { dirs })
    }

    /// Reads a file; `None` where there is none. The path returned is what to show to the user.
    pub fn read_bytes(&self, path: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, InputError> {
        if path.is_absolute() {
            return read(path);
        }
        let owner = self.owner(path);
        for dir in &self.dirs {
            if owner.is_some_and(|owner| owner != dir) {
                continue;
            }
            if let Some(found) = read(&dir.join(path))? {
                return Ok(Some(found));
            }
        }
        if owner.is_some() {
            return Ok(None);
        }
        Ok(built_in(&name(path)).map(|bytes| (Path::new("kprov:").join(path), bytes)))
    }

    /// Reads a text file.
    pub fn read(&self, path: &Path) -> Result<Option<Arc<Source>>, InputError> {
        let Some((path, bytes)) = self.read_bytes(path)? else { return Ok(None) };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(Source::new(path, text))),
            Err(_) => Err(InputError::new(format!("{}: not UTF-8", path.display()))),
        }
    }

    /// Names of all roles, for near misses.
    pub fn roles(&self) -> Vec<String> {
        let mut names: BTreeSet<String> = built_in_names()
            .iter()
            .filter_map(|path| {
                path.strip_prefix("roles/").and_then(|rest| rest.split_once('/')).map(|(name, _)| name.to_owned())
            })
            .collect();
        for dir in &self.dirs {
            let entries = std::fs::read_dir(dir.join("roles")).into_iter().flatten().flatten();
            names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        names.into_iter().collect()
    }

    /// Built-in files below `prefix`, with their bytes.
    pub fn built_in(prefix: &str) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = built_in_names()
            .into_iter()
            .filter(|path| path.starts_with(prefix))
            .filter_map(|path| built_in(&path).map(|bytes| (path, bytes)))
            .collect();
        files.sort();
        files
    }

    /// The user's directory that holds the role of `path`, if one of theirs does.
    fn owner(&self, path: &Path) -> Option<&PathBuf> {
        let role: PathBuf = path.components().take(2).collect();
        if !role.starts_with("roles") || role.components().count() < 2 {
            return None;
        }
        self.dirs.iter().find(|dir| dir.join(&role).is_dir())
    }
}

fn name(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.iter().filter_map(|part| part.to_str()) {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

fn read(path: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, InputError> {
    match source::read(path) {
        Ok(bytes) => Ok(Some((path.to_owned(), bytes))),
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory | std::io::ErrorKind::IsADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(InputError::new(format!("{}: {e}", path.display()))),
    }
}
