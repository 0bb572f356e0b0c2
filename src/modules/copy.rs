//! `copy`: a file with content from the controller, or from another file on the node.
//!
//! Arguments as in Ansible's `copy`, for files; directories are not copied. `template` is a `copy` of `content` that the
//! controller rendered. A checksum is returned as `sha256`, and as Ansible's `checksum` (SHA-1).

use super::attributes;
use super::replace::{Change, Found, Held, Replace, Wanted, sha1, sha256};
use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{View, Writer};
use crate::value::{After, Map};
#[cfg(feature = "controller")]
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A file to be there with this content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// Ends in `/` where it is meant as a directory.
    pub dest: String,
    pub source: Source,
    pub replace: Replace,
    /// Replace a file that is there and different.
    pub force: bool,
    /// Write to where a link at `dest` leads, rather than replace the link.
    pub follow: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// Bytes from the controller; `name` is the file's there, which a directory as `dest` makes use of.
    Bytes {
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        name: Option<String>,
    },
    /// Plan: known only after that task.
    Unknown(After),
    /// A file on the node.
    Remote(PathBuf),
}

#[cfg(feature = "controller")]
impl Copy {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, missing};
        /// A task crosses the wire in one frame.
        const LONGEST: usize = 8 << 20;
        let dest = args.str("dest")?;
        if !dest.starts_with('/') {
            return Err(ArgError::new("dest", format!("`dest` is `{dest}`, expected an absolute path")));
        }
        let remote = args.bool("remote_src", false)?;
        let source = match args.take_unknown("content") {
            Some(after) => Source::Unknown(after),
            None => match (args.take("content")?, args.opt_str("src")?) {
                (Some(_), Some(_)) => return Err(ArgError::new("src", "`content` and `src` exclude each other")),
                (None, None) => return Err(missing("src")),
                (Some(content), None) => Source::Bytes { bytes: text(content).into_bytes(), name: None },
                (None, Some(src)) if remote => Source::Remote(src.into()),
                (None, Some(src)) => {
                    let (path, bytes) = args.files.read(&src)?;
                    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                    Source::Bytes { bytes, name }
                }
            },
        };
        if let Source::Bytes { bytes, .. } = &source
            && bytes.len() > LONGEST
        {
            let mut error = ArgError::new("src", format!("{} MiB are too much for `copy`", bytes.len() >> 20));
            error.help = Some("declare it as an artifact: those are streamed, and only where they are missing".into());
            return Err(error);
        }
        let module = Self {
            dest,
            source,
            replace: Replace::from_args(&mut args)?,
            force: args.bool("force", true)?,
            follow: args.bool("follow", false)?,
        };
        if module.replace.attributes.mode == Some(attributes::Mode::Preserve) && !matches!(module.source, Source::Remote(_)) {
            return Err(ArgError::new("mode", "`mode: preserve` is supported with `remote_src` only"));
        }
        args.finish()?;
        Ok(module)
    }
}

/// A string as it is; lists and mappings as JSON, the way Ansible writes them.
#[cfg(feature = "controller")]
fn text(content: Value) -> String {
    fn json(value: &Value, out: &mut String) {
        let list = |items: Vec<String>, open, close| format!("{open}{}{close}", items.join(", "));
        let one = |value: &Value| {
            let mut out = String::new();
            json(value, &mut out);
            out
        };
        out.push_str(&match value {
            Value::List(items) => list(items.iter().map(one).collect(), '[', ']'),
            Value::Map(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                let entry = |(key, value): (&String, &Value)| format!("{}: {}", serde_json::Value::from(key.as_str()), one(value));
                list(entries.into_iter().map(entry).collect(), '{', '}')
            }
            scalar => serde_json::Value::from(scalar).to_string(),
        });
    }
    match content {
        Value::List(_) | Value::Map(_) => {
            let mut out = String::new();
            json(&content, &mut out);
            out
        }
        scalar => scalar.to_string(),
    }
}

#[derive(Debug)]
pub struct State {
    found: Found,
    wanted: Wanted,
    /// The directory of the file, where `dest` asks for it and it is missing.
    missing: Option<PathBuf>,
    /// What `result` says.
    result: Map,
}

impl Copy {
    /// Where the file goes, and the directory that has to be made for it.
    fn target(&self, view: View<'_>) -> Result<(PathBuf, Option<PathBuf>), Failure> {
        let dest = PathBuf::from(&self.dest);
        let directory = view.fs().stat(&dest)?.is_some_and(|meta| meta.is_dir());
        let meant = self.dest.ends_with('/');
        if !directory && !meant {
            if let Some(parent) = dest.parent()
                && !view.fs().exists(parent)?
            {
                return Err(Failure::new(format!("the directory {} does not exist", parent.display())));
            }
            return Ok((dest, None));
        }
        let name = match &self.source {
            Source::Bytes { name: Some(name), .. } => Some(name.clone()),
            Source::Remote(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            _ => None,
        };
        let name = name.ok_or_else(|| Failure::new(format!("{} is a directory, expected a file for `content`", self.dest)))?;
        Ok((dest.join(name), (!directory).then_some(dest)))
    }

    fn wanted(&self, view: View<'_>) -> Result<Wanted, Failure> {
        Ok(match &self.source {
            Source::Bytes { bytes, .. } => Wanted::Bytes(bytes.clone()),
            Source::Unknown(after) => Wanted::Unknown(after.clone()),
            Source::Remote(path) => {
                let meta = view.fs().stat(path)?;
                let meta = meta.ok_or_else(|| Failure::new(format!("src {} does not exist on this node", path.display())))?;
                if !meta.is_file() {
                    return Err(Failure::new(format!("src {} is no file; directories are not copied", path.display())));
                }
                Wanted::CopyOf(path.clone(), Held::of(view.fs(), path)?, meta.mode)
            }
        })
    }

    fn result(&self, view: View<'_>, path: &Path) -> Result<Map, Failure> {
        let mut result = Map::from_iter([("dest".to_owned(), path.display().to_string().into())]);
        if let Source::Remote(src) = &self.source {
            result.insert("src".to_owned(), src.display().to_string().into());
        }
        if let Source::Bytes { bytes, .. } = &self.source {
            result.insert("checksum".to_owned(), sha1(bytes).into());
            result.insert("sha256".to_owned(), sha256(bytes).into());
        }
        result.extend(attributes::info(view, path)?);
        Ok(result)
    }
}

impl Module for Copy {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let (path, missing) = self.target(view)?;
        let found = self.replace.query(view, &path, self.follow)?;
        let result = self.result(view, &found.path)?;
        Ok(State { found, wanted: self.wanted(view)?, missing, result })
    }

    fn diff(&self, state: &State) -> Option<Change> {
        let keep = !self.force && state.found.meta.is_some();
        self.replace.diff(&state.found, (!keep).then_some(&state.wanted))
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        let made = state.missing.as_ref().map(|path| Diff::Fields {
            subject: path.display().to_string(),
            fields: vec![("state".to_owned(), Some("absent".to_owned()), Some("directory".to_owned()))],
        });
        made.into_iter().chain(self.replace.describe(&state.found, change)).collect()
    }

    fn apply(
        &self,
        state: State,
        change: Change,
        writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        if let Some(directory) = &state.missing {
            writer.fs().mkdir_all(directory, None, Default::default())?;
        }
        let mut applied = self.replace.apply(&state.found, change, writer)?;
        let mut result = self.result(writer.view(), &state.found.path)?;
        result.extend(applied.result);
        applied.result = result;
        Ok(applied)
    }

    fn result(&self, state: &State) -> Map {
        state.result.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{args, text_args, check, check_fails};
    use crate::modules::{Grade, args::Files};
    use crate::system::{Mode as Run, System};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn module(root: &Path, pairs: Pairs<'_>) -> Copy {
        let pairs = pairs.iter().map(|(key, value)| match value.strip_prefix("@/") {
            Some(path) => (*key, root.join(path).display().to_string() + if path.ends_with('/') { "/" } else { "" }),
            None => (*key, value.replace("@/", &format!("{}/", root.display()))),
        });
        Copy::from_args(text_args(pairs)).unwrap()
    }

    fn fixture() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "old\n").unwrap();
        fs::set_permissions(root.path().join("file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        symlink("file", root.path().join("link")).unwrap();
        root
    }

    #[test]
    fn content_is_planned_put_in_place_and_then_left_alone() {
        #[rustfmt::skip]
        let cases: &[(Pairs<'_>, &str, &str, u32)] = &[
            (&[("dest", "@/new"), ("content", "x")], "new", "x", 0o644),
            (&[("dest", "@/new"), ("content", "x"), ("mode", "0600"), ("owner", "nobody")], "new", "x", 0o600),
            (&[("dest", "@/file"), ("content", "x")], "file", "x", 0o640),
            (&[("dest", "@/file"), ("content", "x"), ("mode", "u+x")], "file", "x", 0o740),
            (&[("dest", "@/file"), ("content", "old\n"), ("mode", "0600")], "file", "old\n", 0o600),
            (&[("dest", "@/link"), ("content", "old\n")], "link", "old\n", 0o644),
            (&[("dest", "@/link"), ("content", "x"), ("follow", "yes")], "file", "x", 0o640),
            (&[("dest", "@/new"), ("content", "x"), ("force", "no")], "new", "x", 0o644),
            (&[("dest", "@/file"), ("content", "x"), ("force", "no"), ("mode", "0600")], "file", "old\n", 0o600),
            (&[("dest", "@/copy"), ("src", "@/file"), ("remote_src", "yes")], "copy", "old\n", 0o644),
            (&[("dest", "@/copy"), ("src", "@/link"), ("remote_src", "yes"), ("mode", "preserve")], "copy", "old\n", 0o640),
            (&[("dest", "@/dir"), ("src", "@/file"), ("remote_src", "yes")], "dir/file", "old\n", 0o644),
            (&[("dest", "@/a/b/"), ("src", "@/file"), ("remote_src", "yes")], "a/b/file", "old\n", 0o644),
            (&[("dest", "@/file"), ("content", "x"), ("validate", "grep -q x %s")], "file", "x", 0o640),
        ];
        for (pairs, name, content, mode) in cases {
            let root = fixture();
            let outcome = check(&module(root.path(), pairs), root.path());
            assert!(outcome.changed && !outcome.diff.is_empty(), "{pairs:?}");
            let path = root.path().join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), *content, "{pairs:?}");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, *mode, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_so_already_is_left_alone() {
        let root = fixture();
        for pairs in [
            &[("dest", "@/file"), ("content", "old\n")][..],
            &[("dest", "@/file"), ("content", "x"), ("force", "no")],
            &[("dest", "@/link"), ("content", "x"), ("force", "no")],
            &[("dest", "@/link"), ("content", "old\n"), ("follow", "yes")],
            &[("dest", "@/file"), ("src", "@/link"), ("remote_src", "yes"), ("mode", "preserve")],
        ] {
            assert!(!check(&module(root.path(), pairs), root.path()).changed, "{pairs:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_said_in_the_plan_too() {
        #[rustfmt::skip]
        let cases: &[(Pairs<'_>, &str)] = &[
            (&[("dest", "@/no/new"), ("content", "x")], "does not exist"),
            (&[("dest", "@/dir"), ("content", "x")], "is a directory, expected a file"),
            (&[("dest", "@/x"), ("src", "@/absent"), ("remote_src", "yes")], "does not exist on this node"),
            (&[("dest", "@/x"), ("src", "@/dir"), ("remote_src", "yes")], "directories are not copied"),
            (&[("dest", "@/x"), ("content", "x"), ("owner", "no-such-user")], "there is no user `no-such-user`"),
        ];
        for (pairs, expected) in cases {
            let root = fixture();
            let message = check_fails(&module(root.path(), pairs), root.path());
            assert!(message.contains(expected), "{pairs:?}: {message}");
        }
    }

    #[test]
    fn content_that_is_not_valid_never_gets_in_place() {
        let root = fixture();
        let copy = module(root.path(), &[("dest", "@/file"), ("content", "bad"), ("validate", "ls %s /no/such/file")]);
        let mut needs = crate::modules::testing::TestNeeds::default();
        let error = crate::modules::converge(&copy, &mut System::new(Run::Apply), &mut needs).unwrap_err();
        assert!(error.message.contains("was not put in place: `ls` failed with exit code 2"), "{error}");
        assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "old\n");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3, "the staged file is left");
    }

    #[test]
    fn a_backup_is_kept_under_another_name() {
        let root = fixture();
        let copy = module(root.path(), &[("dest", "@/file"), ("content", "x"), ("backup", "yes")]);
        let mut needs = crate::modules::testing::TestNeeds::default();
        let planned = crate::modules::converge(&copy, &mut System::new(Run::Plan), &mut needs).unwrap();
        assert_eq!(planned.result["backup_file"], Value::later());
        let outcome = crate::modules::converge(&copy, &mut System::new(Run::Apply), &mut needs).unwrap();
        let backup = outcome.result["backup_file"].as_str().unwrap();
        assert_eq!(fs::read_to_string(backup).unwrap(), "old\n");
        assert_eq!(fs::metadata(backup).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn content_known_after_apply_is_a_change_that_is_not_shown() {
        let root = fixture();
        let dest = root.path().join("file").display().to_string();
        let copy = Copy::from_args(args([("dest", dest.into()), ("content", Value::Unknown("etcd : Make".into()))])).unwrap();
        assert_eq!(copy.source, Source::Unknown("etcd : Make".into()));
        let mut system = System::new(Run::Plan);
        let mut needs = crate::modules::testing::TestNeeds::default();
        let outcome = crate::modules::converge(&copy, &mut system, &mut needs).unwrap();
        assert!(outcome.changed);
        assert_eq!((outcome.grade, outcome.after), (Grade::KnownAfterApply, Some("etcd : Make".into())));
        assert!(matches!(&outcome.diff[..], [Diff::Note(note)] if note.ends_with("content known after apply")));
        // And an edit of it is one as well.
        let line = [("path", root.path().join("file").display().to_string()), ("line", "x".to_owned())];
        let line = crate::modules::lineinfile::Lineinfile::from_args(text_args(line)).unwrap();
        system.begin("etcd : Edit".into());
        let outcome = crate::modules::converge(&line, &mut system, &mut needs).unwrap();
        assert_eq!((outcome.changed, outcome.grade), (true, Grade::KnownAfterApply));
        assert_eq!(outcome.after, Some("etcd : Make".into()));
    }

    #[test]
    fn differences_show_text_and_nothing_else() {
        let root = fixture();
        let shown = |content: &str| {
            let copy = module(root.path(), &[("dest", "@/file"), ("content", content)]);
            let mut needs = crate::modules::testing::TestNeeds::default();
            crate::modules::converge(&copy, &mut System::new(Run::Plan), &mut needs).unwrap().diff.remove(0)
        };
        assert!(matches!(shown("new"), Diff::Text { before: Some(a), after: Some(b), .. } if a == "old\n" && b == "new"));
        assert!(matches!(shown("a\0b"), Diff::Fields { .. }));
        assert!(matches!(shown(&"x".repeat(300 << 10)), Diff::Fields { .. }));
        let key = shown("-----BEGIN EC PRIVATE KEY-----\nsecret\n");
        assert!(!format!("{key:?}").contains("secret"), "{key:?}");
    }

    #[test]
    fn containers_are_written_as_json() {
        let map: Value = [("b", Value::List(vec![1i64.into(), Value::Null])), ("a", "ä\"".into())].into_iter().collect();
        assert_eq!(text(map), r#"{"a": "ä\"", "b": [1, null]}"#);
        assert_eq!(text(Value::Bool(true)), "True");
    }

    #[test]
    fn files_of_the_role_keep_their_name() {
        struct Role;
        impl Files for Role {
            fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), super::super::args::ArgError> {
                Ok((PathBuf::from("roles/x/files").join(name), b"from the role".to_vec()))
            }
        }
        let root = fixture();
        let map = Map::from_iter([
            ("src".to_owned(), "motd".into()),
            ("dest".to_owned(), root.path().join("dir").display().to_string().into()),
        ]);
        let copy = Copy::from_args(super::super::args::Args::new(map, None, &Role)).unwrap();
        let outcome = check(&copy, root.path());
        assert_eq!(fs::read_to_string(root.path().join("dir/motd")).unwrap(), "from the role");
        assert_eq!(outcome.result["checksum"], Value::from(sha1(b"from the role")));
    }

    #[test]
    fn mistakes_in_the_arguments_are_said() {
        let fails = |pairs: &[(&'static str, &'static str)]| Copy::from_args(text_args(pairs.iter().copied())).unwrap_err();
        assert_eq!(fails(&[("content", "x")]).message, "missing argument `dest`");
        assert_eq!(fails(&[("dest", "/x")]).message, "missing argument `src`");
        assert!(fails(&[("dest", "/x"), ("content", "a"), ("src", "b")]).message.contains("exclude each other"));
        assert!(fails(&[("dest", "/x"), ("content", "a"), ("validate", "true")]).message.contains("with `%s` in it"));
        assert!(fails(&[("dest", "/x"), ("content", "a"), ("mode", "preserve")]).message.contains("`remote_src` only"));
        assert!(fails(&[("dest", "/x"), ("src", "absent")]).message.contains("no file absent"));
    }
}
