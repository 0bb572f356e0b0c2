//! `file`: kind, permissions and owner of a path.
//!
//! Arguments as in Ansible's `file`: `state` is `file`, `directory`, `link`, `hard`, `absent` or `touch`. With `follow`
//! (the default) attributes go to where a link leads, and a link to a directory is as good as a directory.

use super::attributes::{self, Attributes};
use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Content, Kind, Meta, Owner, Touch, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The desired state of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub path: PathBuf,
    /// `None`: whatever is there; else a directory with `recurse`, else a file.
    pub state: Option<FileState>,
    /// What a link leads to; for a symbolic one it may be relative to the link.
    pub src: Option<PathBuf>,
    pub attributes: Attributes,
    pub recurse: bool,
    /// Link although `src` does not exist, and although a file (or an empty directory) is there.
    pub force: bool,
    pub follow: bool,
    /// Which times `touch` sets.
    pub access_time: bool,
    pub modification_time: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileState {
    File,
    Directory,
    Link,
    Hard,
    Absent,
    Touch,
}

#[cfg(feature = "controller")]
const STATES: [(&str, FileState); 6] = [
    ("absent", FileState::Absent),
    ("directory", FileState::Directory),
    ("file", FileState::File),
    ("hard", FileState::Hard),
    ("link", FileState::Link),
    ("touch", FileState::Touch),
];

#[cfg(feature = "controller")]
impl File {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let path = args.required(&["path", "dest", "name"])?;
        if !path.starts_with('/') {
            return Err(ArgError::new("path", format!("`path` is `{path}`, expected an absolute path")));
        }
        let state = args.choice("state", &STATES.map(|(name, _)| name))?;
        let state = state.and_then(|name| STATES.into_iter().find(|(state, _)| *state == name)).map(|(_, state)| state);
        let mut time = |name| -> Result<bool, ArgError> {
            Ok(args.choice(name, &["now", "preserve"])? != Some("preserve"))
        };
        let module = Self {
            path: path.into(),
            state,
            access_time: time("access_time")?,
            modification_time: time("modification_time")?,
            src: args.opt_str("src")?.map(PathBuf::from),
            attributes: Attributes::from_args(&mut args)?,
            recurse: args.bool("recurse", false)?,
            force: args.bool("force", false)?,
            follow: args.bool("follow", true)?,
        };
        let wants = |name: &str, message: &str| Err(ArgError::new(name, message));
        match module.state {
            _ if module.attributes.mode == Some(attributes::Mode::Preserve) => {
                return wants("mode", "`mode: preserve` is for `copy`");
            }
            Some(FileState::Hard) if module.src.is_none() => return wants("src", "`state: hard` needs `src`"),
            Some(FileState::Link) if module.src.is_none() && !module.follow => {
                return wants("src", "`state: link` needs `src`");
            }
            Some(state) if module.recurse && state != FileState::Directory => {
                return wants("recurse", "`recurse` goes with `state: directory`");
            }
            Some(state) if module.src.is_some() && !matches!(state, FileState::Link | FileState::Hard) => {
                return wants("src", "`src` goes with `state: link` or `state: hard`");
            }
            None if module.src.is_some() => return wants("src", "`src` goes with `state: link` or `state: hard`"),
            _ => {}
        }
        args.finish()?;
        Ok(module)
    }
}

/// What was found, with the state that is desired filled in.
#[derive(Debug)]
pub struct Found {
    desired: FileState,
    /// Where it happens, which is where a link at `path` leads if that is followed.
    at: PathBuf,
    meta: Option<Meta>,
    owner: Owner,
    /// Everything else that gets the attributes: where a link leads, or what is in a directory.
    others: Vec<(PathBuf, Meta)>,
    /// A hard link's `src` is this file already.
    linked: bool,
    result: Map,
}

#[derive(Debug)]
pub struct Change {
    /// The path has to become what it is not (for `touch`: get new times).
    make: bool,
    attributes: Vec<attributes::Change>,
}

impl File {
    fn state(&self, meta: Option<&Meta>) -> FileState {
        self.state.unwrap_or(match meta.map(|meta| &meta.kind) {
            Some(Kind::Symlink(_)) => FileState::Link,
            Some(Kind::Directory) => FileState::Directory,
            Some(_) => FileState::File,
            None if self.recurse => FileState::Directory,
            None => FileState::File,
        })
    }

    /// Refuses what Ansible refuses.
    fn refuse(&self, view: View<'_>, desired: FileState, at: &Path, meta: Option<&Meta>) -> Result<(), Failure> {
        let path = at.display();
        let fail = |message: String| Err(Failure::new(message));
        let name = meta.map_or("absent", |meta| kind(&meta.kind));
        match (desired, meta.map(|meta| &meta.kind)) {
            (FileState::File, Some(Kind::File)) => Ok(()),
            (FileState::File, None) => fail(format!("{path} is absent; `state: touch` or `copy` would make it")),
            (FileState::File, Some(_)) => fail(format!("{path} is a {name}, expected a file")),
            (FileState::Directory, None | Some(Kind::Directory)) => Ok(()),
            (FileState::Directory, Some(_)) => fail(format!("{path} is a {name}, expected a directory")),
            (FileState::Link, found) => {
                if let Some(src) = &self.src
                    && !self.force
                    && !view.fs().exists(&at.parent().unwrap_or(at).join(src))?
                {
                    return fail(format!("src {} does not exist; `force: true` links to it nevertheless", src.display()));
                }
                match found {
                    None if self.src.is_none() => fail(format!("{path} is absent, and without `src` it cannot be made")),
                    None | Some(Kind::Symlink(_)) => Ok(()),
                    Some(_) if !self.force => {
                        fail(format!("{path} is a {name}; `force: true` replaces it with a link"))
                    }
                    Some(Kind::Directory) if !view.fs().list(at)?.is_empty() => {
                        fail(format!("{path} is a directory with something in it, which a link does not replace"))
                    }
                    Some(_) => Ok(()),
                }
            }
            (FileState::Hard, found) => {
                let src = self.src.as_deref().unwrap_or(Path::new(""));
                match view.fs().lstat(src)? {
                    None => return fail(format!("src {} does not exist", src.display())),
                    Some(meta) if meta.is_dir() => return fail(format!("src {} is a directory", src.display())),
                    Some(_) => {}
                }
                match found {
                    Some(Kind::Directory) => fail(format!("{path} is a directory, which a link does not replace")),
                    Some(kind) if !matches!(kind, Kind::Symlink(_)) && !self.force && !view.fs().same_file(at, src)? => {
                        fail(format!("{path} is another file; `force: true` replaces it with a link"))
                    }
                    _ => Ok(()),
                }
            }
            (FileState::Absent | FileState::Touch, _) => Ok(()),
        }
    }

    /// What besides the path gets the attributes.
    fn others(&self, view: View<'_>, desired: FileState, at: &Path) -> Result<Vec<(PathBuf, Meta)>, Failure> {
        let mut others = Vec::new();
        if desired == FileState::Link && self.follow {
            let target = match &self.src {
                Some(src) => view.fs().resolve(&at.parent().unwrap_or(at).join(src))?,
                None => view.fs().resolve(at)?,
            };
            others.extend(view.fs().lstat(&target)?.map(|meta| (target, meta)));
        }
        if desired == FileState::Directory && self.recurse && view.fs().exists(at)? {
            self.descend(view, at, &mut others)?;
        }
        // Several links may lead to one file.
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        others.dedup_by(|(a, _), (b, _)| a == b);
        Ok(others)
    }

    fn descend(&self, view: View<'_>, directory: &Path, found: &mut Vec<(PathBuf, Meta)>) -> Result<(), Failure> {
        for name in view.fs().list(directory)? {
            let path = directory.join(name);
            let Some(meta) = view.fs().lstat(&path)? else { continue };
            let (descend, link) = (meta.is_dir(), meta.is_symlink());
            found.push((path.clone(), meta));
            if link && self.follow {
                let target = view.fs().resolve(&path)?;
                found.extend(view.fs().lstat(&target)?.map(|meta| (target, meta)));
            } else if descend {
                self.descend(view, &path, found)?;
            }
        }
        Ok(())
    }

    /// Whether what is there is not what it has to be, apart from attributes.
    fn make(&self, found: &Found) -> bool {
        let kind = found.meta.as_ref().map(|meta| &meta.kind);
        match found.desired {
            FileState::File => false,
            FileState::Directory => kind.is_none(),
            FileState::Link => match (kind, &self.src) {
                (Some(Kind::Symlink(target)), Some(src)) => target != src,
                (_, src) => src.is_some(),
            },
            FileState::Hard => !found.linked,
            FileState::Absent => kind.is_some(),
            FileState::Touch => kind.is_none() || self.access_time || self.modification_time,
        }
    }

    fn result(&self, view: View<'_>, desired: FileState, at: &Path) -> Result<Map, Failure> {
        let key = match desired {
            FileState::Link | FileState::Hard | FileState::Touch => "dest",
            _ => "path",
        };
        let mut result = Map::from_iter([(key.to_owned(), Value::from(at.display().to_string()))]);
        if let Some(src) = &self.src {
            result.insert("src".to_owned(), src.display().to_string().into());
        }
        result.extend(attributes::info(view, at)?);
        Ok(result)
    }
}

impl Module for File {
    type State = Found;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let fs = view.fs();
        let desired = self.state(fs.lstat(&self.path)?.as_ref());
        let at = match desired {
            FileState::File | FileState::Directory | FileState::Touch if self.follow => fs.resolve(&self.path)?,
            _ => self.path.clone(),
        };
        let meta = fs.lstat(&at)?;
        self.refuse(view, desired, &at, meta.as_ref())?;
        let linked = match (&self.src, desired) {
            (Some(src), FileState::Hard) => fs.same_file(&at, src)?,
            _ => false,
        };
        Ok(Found {
            desired,
            owner: self.attributes.owner(view)?,
            others: self.others(view, desired, &at)?,
            linked,
            result: self.result(view, desired, &at)?,
            at,
            meta,
        })
    }

    fn diff(&self, found: &Found) -> Option<Change> {
        if found.desired == FileState::Absent {
            return found.meta.is_some().then(|| Change { make: true, attributes: Vec::new() });
        }
        let make = self.make(found);
        // What is replaced gets its attributes when it is made; the link itself has none where it is followed.
        let itself = match found.desired {
            FileState::Link if self.follow => None,
            FileState::Link | FileState::Hard if make => None,
            _ => found.meta.as_ref().map(|meta| (&found.at, meta)),
        };
        let attributes: Vec<_> = itself
            .into_iter()
            .chain(found.others.iter().map(|(path, meta)| (path, meta)))
            .filter_map(|(path, meta)| self.attributes.change(path, meta, found.owner))
            .collect();
        (make || !attributes.is_empty()).then_some(Change { make, attributes })
    }

    fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let mut diffs = Vec::new();
        if change.make {
            let mut fields = Vec::new();
            let before = found.meta.as_ref().map_or("absent", |meta| kind(&meta.kind));
            let after = match found.desired {
                FileState::Absent => "absent",
                FileState::Directory => "directory",
                FileState::Link => "link",
                FileState::Hard => "hard link",
                FileState::File | FileState::Touch => "file",
            };
            if before != after {
                fields.push(("state".to_owned(), Some(before.to_owned()), Some(after.to_owned())));
            }
            if let Some(src) = &self.src {
                let target = match found.meta.as_ref().map(|meta| &meta.kind) {
                    Some(Kind::Symlink(target)) => Some(target.display().to_string()),
                    _ => None,
                };
                fields.push(("src".to_owned(), target, Some(src.display().to_string())));
            }
            match found.desired {
                FileState::Touch if found.meta.is_some() => {
                    fields.push(("times".to_owned(), None, Some("now".to_owned())));
                }
                FileState::Directory => fields.extend(self.attributes.fresh_fields(true)),
                FileState::Touch => fields.extend(self.attributes.fresh_fields(false)),
                _ => {}
            }
            diffs.push(Diff::Fields { subject: found.at.display().to_string(), fields });
        }
        diffs.extend(change.attributes.iter().map(|change| change.diff(&self.attributes)));
        diffs
    }

    fn apply(
        &self,
        found: Found,
        change: Change,
        writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        let at = &found.at;
        let src = self.src.as_deref().unwrap_or(Path::new(""));
        if change.make {
            let fs = writer.fs();
            match found.desired {
                FileState::Absent => fs.remove(at)?,
                // As in Ansible, directories that are missing above it get the same attributes.
                FileState::Directory => fs.mkdir_all(at, self.attributes.fresh_mode(true), found.owner)?,
                FileState::Link => {
                    if found.meta.as_ref().is_some_and(Meta::is_dir) {
                        fs.remove(at)?;
                    }
                    fs.symlink(at, src)?;
                    if !self.follow {
                        fs.chown(at, found.owner)?;
                    }
                }
                FileState::Hard => {
                    fs.hard_link(at, src)?;
                    if let Some(meta) = fs.lstat(at)?
                        && let Some(change) = self.attributes.change(at, &meta, found.owner)
                    {
                        change.apply(&self.attributes, fs)?;
                    }
                }
                FileState::Touch if found.meta.is_none() => {
                    let empty = Content::Bytes(Vec::new());
                    fs.write(at, empty, self.attributes.fresh_mode(false), found.owner)?;
                }
                FileState::Touch => {
                    fs.touch(at, Touch { access: self.access_time, modification: self.modification_time })?;
                }
                FileState::File => {}
            }
        }
        for change in &change.attributes {
            change.apply(&self.attributes, writer.fs())?;
        }
        Ok(Applied { result: self.result(writer.view(), found.desired, at)?, ..Applied::default() })
    }

    fn result(&self, found: &Found) -> Map {
        found.result.clone()
    }
}

fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink(_) => "link",
        Kind::BlockDevice => "block device",
        Kind::CharDevice => "character device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{text_args, check, check_fails};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// `file`, `dir/inner/deep`, `empty/`, and links to a file, a directory and nothing.
    fn fixture() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("dir/inner")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        fs::write(at("file"), "x").unwrap();
        fs::write(at("other"), "y").unwrap();
        fs::write(at("dir/inner/deep"), "z").unwrap();
        symlink("file", at("to-file")).unwrap();
        symlink("dir", at("to-dir")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        root
    }

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    /// `path`, and `src` where it begins with `/`, are below the fixture.
    fn module(root: &Path, path: &str, pairs: &[(&str, &str)]) -> File {
        let below = |name: &str| root.join(name.trim_start_matches('/')).display().to_string();
        let pairs = pairs.iter().map(|(key, value)| match (*key, value.starts_with('/')) {
            ("src", true) => ("src", below(value)),
            (key, _) => (key, (*value).to_owned()),
        });
        File::from_args(text_args(pairs.chain([("path", below(path))]))).unwrap()
    }

    fn mode(path: PathBuf) -> String {
        attributes::octal(fs::symlink_metadata(path).unwrap().mode() & 0o7777)
    }

    #[test]
    fn every_state_is_planned_done_and_then_left_alone() {
        #[rustfmt::skip]
        let cases: &[(&str, Pairs<'_>)] = &[
            ("file", &[("mode", "0600")]),
            ("file", &[("mode", "u=rw,g=,o="), ("owner", "nobody"), ("group", "daemon")]),
            ("file", &[("mode", "4755"), ("owner", "65534"), ("state", "file")]),
            ("to-file", &[("mode", "0600"), ("state", "file")]),
            ("to-file", &[("mode", "0600")]),
            ("new/a/b", &[("state", "directory"), ("mode", "0750"), ("owner", "nobody")]),
            ("new", &[("recurse", "yes")]),
            ("to-dir", &[("state", "directory"), ("mode", "0700")]),
            ("dir", &[("state", "directory"), ("recurse", "yes"), ("mode", "u=rwX,g=rX,o="), ("owner", "nobody")]),
            ("dir", &[("mode", "g+s")]),
            ("link", &[("state", "link"), ("src", "file")]),
            ("link", &[("state", "link"), ("src", "/file"), ("mode", "0600")]),
            ("to-file", &[("state", "link"), ("src", "other")]),
            ("link", &[("state", "link"), ("src", "absent"), ("force", "yes")]),
            ("file", &[("state", "link"), ("src", "other"), ("force", "yes")]),
            ("empty", &[("state", "link"), ("src", "other"), ("force", "yes")]),
            ("link", &[("state", "link"), ("src", "file"), ("follow", "no"), ("owner", "nobody")]),
            ("to-file", &[("state", "link"), ("mode", "0600")]),
            ("hard", &[("state", "hard"), ("src", "/file"), ("mode", "0600")]),
            ("other", &[("state", "hard"), ("src", "/file"), ("force", "yes")]),
            ("to-file", &[("state", "hard"), ("src", "/other")]),
            ("file", &[("state", "absent")]),
            ("dir", &[("state", "absent")]),
            ("to-dir", &[("state", "absent")]),
            ("dangling", &[("state", "absent")]),
            ("new", &[("state", "touch"), ("mode", "0600"), ("access_time", "preserve"), ("modification_time", "preserve")]),
        ];
        for (path, pairs) in cases {
            let root = fixture();
            let outcome = check(&module(root.path(), path, pairs), root.path());
            assert!(outcome.changed && !outcome.diff.is_empty(), "{path} {pairs:?}: {outcome:?}");
        }
    }

    #[test]
    fn what_is_so_already_is_left_alone() {
        #[rustfmt::skip]
        let cases: &[(&str, Pairs<'_>)] = &[
            ("file", &[("state", "file")]),
            ("dir", &[("state", "directory")]),
            ("to-dir", &[("state", "directory")]),
            ("absent", &[("state", "absent")]),
            ("absent/below", &[("state", "absent")]),
            ("to-file", &[("state", "link"), ("src", "file")]),
            ("dangling", &[("state", "link"), ("src", "nowhere"), ("force", "yes")]),
            ("file", &[("state", "touch"), ("access_time", "preserve"), ("modification_time", "preserve")]),
        ];
        for (path, pairs) in cases {
            let root = fixture();
            assert!(!check(&module(root.path(), path, pairs), root.path()).changed, "{path} {pairs:?}");
        }
    }

    #[test]
    fn what_ansible_refuses_is_refused() {
        #[rustfmt::skip]
        let cases: &[(&str, Pairs<'_>, &str)] = &[
            ("absent", &[("state", "file")], "absent is absent"),
            ("absent", &[("mode", "0600")], "absent is absent"),
            ("dir", &[("state", "file")], "dir is a directory, expected a file"),
            ("file", &[("state", "directory")], "file is a file, expected a directory"),
            ("file/below", &[("state", "directory")], "Not a directory"),
            ("link", &[("state", "link"), ("src", "absent")], "src absent does not exist"),
            ("file", &[("state", "link"), ("src", "other")], "`force: true` replaces it with a link"),
            ("dir", &[("state", "link"), ("src", "file"), ("force", "yes")], "a directory with something in it"),
            ("hard", &[("state", "hard"), ("src", "/absent")], "does not exist"),
            ("other", &[("state", "hard"), ("src", "/file")], "is another file"),
            ("file", &[("owner", "nobody-of-that-name")], "there is no user `nobody-of-that-name`"),
            ("file", &[("group", "nobody-of-that-name")], "there is no group `nobody-of-that-name`"),
        ];
        for (path, pairs, expected) in cases {
            let root = fixture();
            let message = check_fails(&module(root.path(), path, pairs), root.path());
            assert!(message.contains(expected), "{path} {pairs:?}: {message}");
        }
    }

    #[test]
    fn attributes_go_where_they_should() {
        let root = fixture();
        let at = |name: &str| root.path().join(name);
        check(&module(root.path(), "dir", &[("state", "directory"), ("recurse", "yes"), ("mode", "u=rwX,go=")]), root.path());
        assert_eq!((mode(at("dir")), mode(at("dir/inner")), mode(at("dir/inner/deep"))), ("0700".into(), "0700".into(), "0600".into()));
        check(&module(root.path(), "a/b", &[("state", "directory"), ("mode", "0711")]), root.path());
        assert_eq!((mode(at("a")), mode(at("a/b"))), ("0711".into(), "0711".into()));
        check(&module(root.path(), "to-file", &[("mode", "0640"), ("state", "file")]), root.path());
        assert_eq!(mode(at("file")), "0640");
        assert!(at("to-file").is_symlink());
    }

    #[test]
    fn touch_always_changes() {
        let root = fixture();
        let path = root.path().join("file");
        fs::File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let touch = module(root.path(), "file", &[("state", "touch")]);
        let mut system = crate::system::System::new(crate::system::Mode::Apply);
        let mut needs = crate::modules::testing::TestNeeds::default();
        assert!(crate::modules::converge(&touch, &mut system, &mut needs).unwrap().changed);
        assert!(fs::metadata(&path).unwrap().mtime() > 0);
        assert!(crate::modules::converge(&touch, &mut system, &mut needs).unwrap().changed);
    }

    #[test]
    fn the_result_says_what_is_there() {
        let root = fixture();
        fs::set_permissions(root.path().join("file"), fs::Permissions::from_mode(0o604)).unwrap();
        let result = check(&module(root.path(), "file", &[("mode", "0604")]), root.path()).result;
        assert_eq!((&result["mode"], &result["state"]), (&Value::from("0604"), &Value::from("file")));
        assert_eq!((&result["owner"], &result["uid"], &result["size"]), (&"root".into(), &0i64.into(), &1i64.into()));
        let result = check(&module(root.path(), "file", &[("state", "absent")]), root.path()).result;
        assert_eq!(result["state"], Value::from("absent"));
    }

    #[test]
    fn mistakes_in_the_arguments_are_said() {
        let fails = |pairs: &[(&'static str, &'static str)]| File::from_args(text_args(pairs.iter().copied())).unwrap_err();
        assert_eq!(fails(&[]).message, "missing argument `path`");
        assert!(fails(&[("path", "x")]).message.contains("expected an absolute path"));
        assert_eq!(fails(&[("path", "/x"), ("state", "dir")]).argument.as_deref(), Some("state"));
        assert!(fails(&[("path", "/x"), ("mode", "rw-r--r--")]).message.contains("which is no mode"));
        assert!(fails(&[("path", "/x"), ("state", "hard")]).message.contains("needs `src`"));
        assert!(fails(&[("path", "/x"), ("recurse", "yes"), ("state", "file")]).message.contains("`recurse`"));
        assert_eq!(fails(&[("path", "/x"), ("onwer", "a")]).help.as_deref(), Some("did you mean `owner`?"));
    }
}
