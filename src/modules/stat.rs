//! `stat`: what is at a path, for a later task. Changes nothing.
//!
//! Arguments and result (under `stat`) as in Ansible; `get_mime` and `get_attributes`, which run programs, are not
//! supported. In a plan, times and inodes of what is only planned are known after apply.

use super::{Applied, Diff, Failure, Module, Needs, attributes};
use crate::system::{Kind, Meta, SystemError, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use sha2::digest::Digest;
use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A path to be looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    pub path: PathBuf,
    pub follow: bool,
    pub checksum: Option<Algorithm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

#[cfg(feature = "controller")]
impl Stat {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        const NAMES: [&str; 5] = ["sha1", "sha224", "sha256", "sha384", "sha512"];
        let path = args.required(&["path", "dest", "name"])?;
        let mut algorithm = Algorithm::Sha1;
        for name in ["checksum_algorithm", "checksum", "checksum_algo"] {
            algorithm = match args.choice(name, &NAMES)? {
                None => continue,
                Some("sha224") => Algorithm::Sha224,
                Some("sha256") => Algorithm::Sha256,
                Some("sha384") => Algorithm::Sha384,
                Some("sha512") => Algorithm::Sha512,
                Some(_) => Algorithm::Sha1,
            };
        }
        let checksum = args.bool("get_checksum", true)?.then_some(algorithm);
        let follow = args.bool("follow", false)?;
        for name in ["get_mime", "get_attributes"] {
            if args.opt_bool(name)? == Some(true) {
                return Err(ArgError::new(name, format!("`{name}` is not supported")));
            }
        }
        args.finish()?;
        Ok(Self { path: path.into(), follow, checksum })
    }
}

impl Stat {
    fn facts(&self, view: View<'_>, meta: &Meta) -> Result<Map, Failure> {
        let mut facts = Map::new();
        let mut put = |key: &str, value: Value| facts.insert(key.to_owned(), value);
        put("exists", true.into());
        put("path", self.path.display().to_string().into());
        put("mode", attributes::octal(meta.mode).into());
        let kinds = [
            ("isdir", Kind::Directory),
            ("ischr", Kind::CharDevice),
            ("isblk", Kind::BlockDevice),
            ("isreg", Kind::File),
            ("isfifo", Kind::Fifo),
            ("issock", Kind::Socket),
        ];
        for (key, kind) in kinds {
            put(key, (meta.kind == kind).into());
        }
        put("islnk", meta.is_symlink().into());
        let [(owner, uid), (group, gid)] = attributes::owners(view, meta);
        put("uid", uid);
        put("gid", gid);
        let unknown = || Value::later();
        put("size", meta.size.map_or_else(unknown, Value::from));
        #[expect(clippy::cast_precision_loss, reason = "Ansible's times are floats too")]
        let seconds = |ns: i128| Value::Float(ns as f64 / 1e9);
        let stamp = |of: &dyn Fn(&crate::system::Stamp) -> Value| meta.stamp.as_ref().map_or_else(unknown, of);
        put("inode", stamp(&|stamp| stamp.ino.into()));
        put("dev", stamp(&|stamp| stamp.dev.into()));
        put("nlink", stamp(&|stamp| stamp.nlink.into()));
        put("atime", stamp(&|stamp| seconds(stamp.atime)));
        put("mtime", stamp(&|stamp| seconds(stamp.mtime)));
        put("ctime", stamp(&|stamp| seconds(stamp.ctime)));
        for (shift, who) in [(6, "usr"), (3, "grp"), (0, "oth")] {
            for (bit, what) in [(4, 'r'), (2, 'w'), (1, 'x')] {
                put(&format!("{what}{who}"), (meta.mode >> shift & bit != 0).into());
            }
        }
        put("isuid", (meta.mode & 0o4000 != 0).into());
        put("isgid", (meta.mode & 0o2000 != 0).into());
        put("pw_name", owner);
        put("gr_name", group);
        if let Kind::Symlink(target) = &meta.kind {
            put("lnk_source", view.fs().resolve(&self.path)?.display().to_string().into());
            put("lnk_target", target.display().to_string().into());
        }
        if let (Some(algorithm), true) = (self.checksum, meta.is_file()) {
            put("checksum", algorithm.of(view, &self.path)?);
        }
        Ok(facts)
    }
}

impl Algorithm {
    fn of(self, view: View<'_>, path: &Path) -> Result<Value, Failure> {
        // This one is known of some planned files that have no content yet.
        let digest = match self {
            Self::Sha256 => view.fs().sha256(path),
            Self::Sha1 => hash::<sha1::Sha1>(view, path),
            Self::Sha224 => hash::<sha2::Sha224>(view, path),
            Self::Sha384 => hash::<sha2::Sha384>(view, path),
            Self::Sha512 => hash::<sha2::Sha512>(view, path),
        };
        match digest {
            Err(SystemError::Unknown) => Ok(Value::later()),
            digest => Ok(digest?.into()),
        }
    }
}

fn hash<D: Digest>(view: View<'_>, path: &Path) -> Result<String, SystemError> {
    let mut file = view.fs().open(path)?;
    let mut hash = D::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(SystemError::file(path))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Module for Stat {
    type State = Map;
    type Change = Infallible;

    fn query(&self, view: View<'_>) -> Result<Map, Failure> {
        let meta = if self.follow { view.fs().stat(&self.path)? } else { view.fs().lstat(&self.path)? };
        Ok(match meta {
            None => Map::from_iter([("exists".to_owned(), false.into())]),
            Some(meta) => self.facts(view, &meta)?,
        })
    }

    fn diff(&self, _: &Map) -> Option<Infallible> {
        None
    }

    fn describe(&self, _: &Map, change: &Infallible) -> Vec<Diff> {
        match *change {}
    }

    fn apply(
        &self,
        _: Map,
        change: Infallible,
        _writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        match change {}
    }

    fn result(&self, state: &Map) -> Map {
        Map::from_iter([("stat".to_owned(), Value::Map(state.clone()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{check, text_args};
    use crate::system::{Content, Mode, System};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn facts(path: &Path, more: &[(&str, &str)]) -> Map {
        let path = path.display().to_string();
        let stat = Stat::from_args(text_args(more.iter().copied().chain([("path", path.as_str())]))).unwrap();
        let outcome = check(&stat, Path::new(&path).parent().unwrap());
        assert!(!outcome.changed);
        outcome.result["stat"].as_map().unwrap().clone()
    }

    #[test]
    fn says_what_the_kernel_and_the_programs_of_the_system_say() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(facts(&path, &[]), Map::from_iter([("exists".to_owned(), false.into())]));

        std::fs::write(&path, "hello\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4750)).unwrap();
        let found = facts(&path, &[]);
        let expected: [(&str, Value); 17] = [
            ("exists", true.into()),
            ("mode", "4750".into()),
            ("isreg", true.into()),
            ("isdir", false.into()),
            ("islnk", false.into()),
            ("size", 6i64.into()),
            ("uid", std::fs::metadata(&path).unwrap().uid().into()),
            ("pw_name", "root".into()),
            ("gr_name", "root".into()),
            ("nlink", 1i64.into()),
            ("isuid", true.into()),
            ("isgid", false.into()),
            ("rgrp", true.into()),
            ("wgrp", false.into()),
            ("xgrp", true.into()),
            ("roth", false.into()),
            // sha1sum(1)
            ("checksum", "f572d396fae9206628714fb2ce00f72e94f2258f".into()),
        ];
        for (key, value) in expected {
            assert_eq!(found[key], value, "{key}");
        }
        let Value::Float(mtime) = found["mtime"] else { panic!("{:?}", found["mtime"]) };
        assert_eq!(mtime as i64, std::fs::metadata(&path).unwrap().mtime());

        for (algorithm, program) in [("sha256", "sha256sum"), ("sha512", "sha512sum"), ("sha1", "sha1sum")] {
            let said = std::process::Command::new(program).arg(&path).output().unwrap();
            let expected = String::from_utf8(said.stdout).unwrap();
            let found = facts(&path, &[("checksum_algorithm", algorithm)]);
            assert_eq!(found["checksum"].as_str(), expected.split(' ').next());
        }
        assert!(!facts(&path, &[("get_checksum", "no")]).contains_key("checksum"));
        std::fs::create_dir(root.path().join("dir")).unwrap();
        assert_eq!(facts(&root.path().join("dir"), &[])["isdir"], Value::Bool(true));
    }

    #[test]
    fn links_are_followed_where_that_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        std::fs::write(&file, "x").unwrap();
        symlink("file", &link).unwrap();
        let found = facts(&link, &[]);
        assert_eq!(found["islnk"], Value::Bool(true));
        assert_eq!(found["lnk_target"], Value::from("file"));
        assert_eq!(found["lnk_source"], Value::from(file.canonicalize().unwrap().display().to_string()));
        assert_eq!(facts(&link, &[("follow", "yes")])["isreg"], Value::Bool(true));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(facts(&link, &[])["exists"], Value::Bool(true));
        assert_eq!(facts(&link, &[("follow", "yes")])["exists"], Value::Bool(false));
    }

    #[test]
    fn a_plan_knows_what_can_be_known() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let mut plan = System::new(Mode::Plan);
        let content = Content::Bytes(b"hello\n".to_vec());
        plan.writer().fs().write(&path, content, Some(0o600), Default::default()).unwrap();
        let stat = Stat { path: path.clone(), follow: false, checksum: Some(Algorithm::Sha1) };
        let found = stat.query(plan.view()).unwrap();
        assert_eq!(found["mode"], Value::from("0600"));
        assert_eq!(found["checksum"], Value::from("f572d396fae9206628714fb2ce00f72e94f2258f"));
        assert_eq!(found["mtime"], Value::later());
        plan.writer().fs().write(&path, Content::later(), None, Default::default()).unwrap();
        let found = stat.query(plan.view()).unwrap();
        assert_eq!((&found["checksum"], &found["size"]), (&Value::later(), &Value::later()));
    }

    #[test]
    fn mistakes_in_the_arguments_are_said() {
        let fails = |pairs: &[(&'static str, &'static str)]| Stat::from_args(text_args(pairs.iter().copied())).unwrap_err();
        assert_eq!(fails(&[]).message, "missing argument `path`");
        assert!(fails(&[("path", "/x"), ("checksum_algorithm", "md5")]).message.contains("expected one of sha1"));
        assert!(fails(&[("path", "/x"), ("get_mime", "yes")]).message.contains("not supported"));
    }
}
