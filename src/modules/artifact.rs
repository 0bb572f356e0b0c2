//! `artifact`: files of a published release under a directory of that version.
//!
//! The controller has looked the release up in its catalogue: the module has the digest of the file as it was published,
//! and which members of it go where. Only a file that is missing or damaged is asked for, and each is moved into place
//! complete. What was installed is kept in [`STAMP`], which is rewritten after each file: a run that was killed leaves
//! nothing half, and the next one asks for the rest. Files that an earlier list had and this one has not are removed;
//! files that were never listed are left alone.
//!
//! [`STAMP`] is text, a line `kprov-artifact 1`, a line `digest DIGEST`, and for each installed file a line
//! `file SHA256 SIZE MTIME CTIME INODE PATH` (times in nanoseconds since 1970). While size, times and inode of a file are
//! as recorded it is taken to be intact; otherwise it is hashed.

use super::attributes::{self, Attributes};
use super::{Applied, Blob, Diff, Failure, Module, Needs};
use crate::system::{Content, Fs, Meta, Owner, Stamp, SystemError, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

/// The record of what is installed, in the directory where it is.
pub const STAMP: &str = ".kprov-artifact";

/// A release to be installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    pub dest: PathBuf,
    /// Of the file as it is published, `sha256:HEX` or `sha512:HEX`.
    pub digest: String,
    pub files: Vec<ArtifactFile>,
    /// Of the files; their modes are their own.
    pub attributes: Attributes,
}

/// One file to be installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArtifactFile {
    /// Path in the archive; `None`: the published file itself.
    pub member: Option<String>,
    /// Path below `dest`.
    pub path: String,
    pub mode: u32,
}

#[cfg(feature = "controller")]
impl Artifact {
    /// `dest`, `digest`, `files: [{member, path, mode}]`, and `owner` and `group` where they matter.
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, missing};
        let bad = |message: String| ArgError::new("files", message);
        let dest = args.str("dest")?;
        if !dest.starts_with('/') {
            return Err(ArgError::new("dest", format!("`dest` is `{dest}`, expected an absolute path")));
        }
        let Some(Value::List(list)) = args.take("files")? else { return Err(missing("files")) };
        let mut files: Vec<ArtifactFile> = Vec::new();
        for item in list {
            let text = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
            let path = text("path").ok_or_else(|| bad("each of `files` needs a `path`".to_owned()))?;
            if path == STAMP || !is_below(&path) {
                return Err(bad(format!("`{path}` is no path below `dest`")));
            }
            if files.iter().any(|file| file.path == path) {
                return Err(bad(format!("`{path}` is listed twice")));
            }
            let mode = match text("mode").map(|mode| attributes::Mode::parse(&mode)) {
                None => 0o755,
                Some(Some(attributes::Mode::Bits(bits))) => bits,
                Some(_) => return Err(bad(format!("the mode of `{path}` is no octal mode in quotes"))),
            };
            files.push(ArtifactFile { member: text("member"), path, mode });
        }
        let digest = args.str("digest")?;
        let attributes = Attributes { mode: None, owner: args.opt_str("owner")?, group: args.opt_str("group")? };
        args.finish()?;
        Ok(Self { dest: dest.into(), digest, files, attributes })
    }
}

/// Whether a relative path stays where it is joined, and fits in a line.
fn is_below(path: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(_));
    !path.is_empty() && !path.contains('\n') && Path::new(path).components().all(plain)
}

/// What [`STAMP`] says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    digest: String,
    files: Vec<Installed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Installed {
    path: String,
    sha256: String,
    size: u64,
    mtime: i128,
    ctime: i128,
    inode: u64,
}

impl Record {
    const HEAD: &str = "kprov-artifact 1";

    /// `None`: not ours, or of another version; then nothing is taken to be installed.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != Self::HEAD {
            return None;
        }
        let digest = lines.next()?.strip_prefix("digest ")?.to_owned();
        let files = lines
            .map(|line| {
                let mut fields = line.strip_prefix("file ")?.splitn(6, ' ');
                Some(Installed {
                    sha256: fields.next()?.to_owned(),
                    size: fields.next()?.parse().ok()?,
                    mtime: fields.next()?.parse().ok()?,
                    ctime: fields.next()?.parse().ok()?,
                    inode: fields.next()?.parse().ok()?,
                    path: fields.next().filter(|path| is_below(path))?.to_owned(),
                })
            })
            .collect::<Option<_>>()?;
        Some(Self { digest, files })
    }

    fn text(&self) -> String {
        let mut text = format!("{}\ndigest {}\n", Self::HEAD, self.digest);
        for Installed { path, sha256, size, mtime, ctime, inode } in &self.files {
            let _ = writeln!(text, "file {sha256} {size} {mtime} {ctime} {inode} {path}");
        }
        text
    }

    fn file(&self, path: &str) -> Option<&Installed> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl Installed {
    fn new(path: &str, sha256: String, meta: &Meta) -> Option<Self> {
        let Stamp { mtime, ctime, ino, .. } = meta.stamp?;
        Some(Self { path: path.to_owned(), sha256, size: meta.size?, mtime, ctime, inode: ino })
    }

    /// Whether the file still holds what was installed.
    fn intact(&self, fs: &Fs, path: &Path, meta: &Meta) -> Result<bool, Failure> {
        let now = Self::new(&self.path, self.sha256.clone(), meta);
        if now.as_ref() == Some(self) {
            return Ok(true);
        }
        // Of the planned files only an attribute can have changed; of a changed size there is nothing to hash.
        Ok(meta.size == Some(self.size) && fs.sha256(path)? == self.sha256)
    }
}

/// What was found.
#[derive(Debug)]
pub struct State {
    /// `None`: there is none, or it cannot be read.
    record: Option<Record>,
    /// For each file what is there.
    found: Vec<Found>,
    /// Recorded files that are no longer listed.
    stale: Vec<String>,
    owner: Owner,
}

#[derive(Debug)]
struct Found {
    meta: Option<Meta>,
    intact: bool,
}

#[derive(Debug)]
pub struct Change {
    /// Indices of files to ask for.
    fetch: Vec<usize>,
    attributes: Vec<(Attributes, attributes::Change)>,
    remove: Vec<String>,
}

impl Artifact {
    fn at(&self, file: &ArtifactFile) -> PathBuf {
        self.dest.join(&file.path)
    }

    fn attributes(&self, file: &ArtifactFile) -> Attributes {
        Attributes { mode: Some(attributes::Mode::Bits(file.mode)), ..self.attributes.clone() }
    }

    fn blob(&self, file: &ArtifactFile) -> Blob {
        Blob { digest: self.digest.clone(), member: file.member.clone() }
    }

    /// The SHA-256 that a file has to have, where that is known beforehand.
    fn expected<'a>(&'a self, file: &ArtifactFile) -> Option<&'a str> {
        self.digest.strip_prefix("sha256:").filter(|_| file.member.is_none())
    }

    fn result(&self, changed: &[usize]) -> Map {
        let files = changed.iter().map(|index| self.files[*index].path.as_str().into()).collect();
        [
            ("dest".to_owned(), self.dest.display().to_string().into()),
            ("digest".to_owned(), self.digest.as_str().into()),
            ("files".to_owned(), Value::List(files)),
        ]
        .into_iter()
        .collect()
    }

    fn install(&self, file: &ArtifactFile, owner: Owner, fs: &mut Fs, needs: &mut dyn Needs) -> Result<Installed, Failure> {
        let path = self.at(file);
        let near = path.parent().unwrap_or(&self.dest);
        fs.mkdir_all(near, None, Owner::default())?;
        let (staged, sha256) = needs.blob(&self.blob(file), near)?;
        if let Some(expected) = self.expected(file)
            && expected != sha256
        {
            fs.remove(&staged)?;
            return Err(Failure::new(format!("{}: received sha256:{sha256}, expected {}", path.display(), self.digest)));
        }
        fs.write(&path, Content::Staged { path: staged, sha256: sha256.clone() }, Some(file.mode), owner)?;
        let meta = fs.lstat(&path)?;
        let installed = meta.and_then(|meta| Installed::new(&file.path, sha256, &meta));
        installed.ok_or_else(|| Failure::new(format!("{}: vanished while it was installed", path.display())))
    }

    /// What a plan shows of an installed file.
    fn project(&self, file: &ArtifactFile, owner: Owner, fs: &mut Fs) -> Result<(), Failure> {
        let path = self.at(file);
        fs.mkdir_all(path.parent().unwrap_or(&self.dest), None, Owner::default())?;
        let content = match self.expected(file) {
            Some(sha256) => Content::Blob { sha256: sha256.to_owned() },
            None => Content::later(),
        };
        Ok(fs.write(&path, content, Some(file.mode), owner)?)
    }
}

impl Module for Artifact {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let fs = view.fs();
        let stamp = self.dest.join(STAMP);
        // A record that is not known is one that this plan has written.
        let (record, planned) = match fs.read_opt(&stamp) {
            Err(SystemError::Unknown) => (None, true),
            bytes => (bytes?.and_then(|bytes| Record::parse(&String::from_utf8(bytes).ok()?)), false),
        };
        let current = record.as_ref().filter(|record| record.digest == self.digest);
        let mut found = Vec::new();
        for file in &self.files {
            let path = self.at(file);
            let meta = fs.lstat(&path)?;
            let intact = match (&meta, current.and_then(|record| record.file(&file.path))) {
                (Some(meta), _) if meta.is_dir() => {
                    return Err(Failure::new(format!("{} is a directory, expected a file", path.display())));
                }
                (Some(meta), _) if planned => meta.is_file(),
                (Some(meta), Some(installed)) if meta.is_file() => installed.intact(fs, &path, meta)?,
                _ => false,
            };
            found.push(Found { meta, intact });
        }
        let mut stale = Vec::new();
        for old in record.iter().flat_map(|record| &record.files) {
            let is_file = || Ok::<_, Failure>(fs.lstat(&self.dest.join(&old.path))?.is_some_and(|meta| meta.is_file()));
            if !self.files.iter().any(|file| file.path == old.path) && is_file()? {
                stale.push(old.path.clone());
            }
        }
        Ok(State { record, found, stale, owner: self.attributes.owner(view)? })
    }

    fn diff(&self, state: &State) -> Option<Change> {
        let mut fetch = Vec::new();
        let mut attributes = Vec::new();
        for (index, (file, found)) in self.files.iter().zip(&state.found).enumerate() {
            match &found.meta {
                Some(meta) if found.intact => {
                    let wanted = self.attributes(file);
                    attributes.extend(wanted.change(&self.at(file), meta, state.owner).map(|change| (wanted, change)));
                }
                _ => fetch.push(index),
            }
        }
        let nothing = fetch.is_empty() && attributes.is_empty() && state.stale.is_empty();
        (!nothing).then(|| Change { fetch, attributes, remove: state.stale.clone() })
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        let before = state.record.as_ref().map(|record| record.digest.clone());
        let fetched = change.fetch.iter().map(|index| {
            let (file, found) = (&self.files[*index], &state.found[*index]);
            let was = match (&found.meta, &before) {
                (None, _) => "absent",
                (Some(_), Some(digest)) if *digest == self.digest => "damaged",
                (Some(_), _) => "another version",
            };
            Diff::Fields {
                subject: self.at(file).display().to_string(),
                fields: vec![
                    ("state".to_owned(), Some(was.to_owned()), Some("installed".to_owned())),
                    ("from".to_owned(), before.clone().filter(|digest| *digest != self.digest), Some(self.digest.clone())),
                    ("mode".to_owned(), found.meta.as_ref().map(|m| attributes::octal(m.mode)), Some(attributes::octal(file.mode))),
                ],
            }
        });
        let removed = change.remove.iter().map(|path| Diff::Fields {
            subject: self.dest.join(path).display().to_string(),
            fields: vec![("state".to_owned(), Some("installed".to_owned()), Some("absent".to_owned()))],
        });
        let changed = change.attributes.iter().map(|(attributes, change)| change.diff(attributes));
        fetched.chain(removed).chain(changed).collect()
    }

    fn apply(
        &self,
        state: State,
        change: Change,
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        let planning = writer.planning();
        let fs = writer.fs();
        for path in &change.remove {
            fs.remove(&self.dest.join(path))?;
        }
        for (attributes, change) in &change.attributes {
            change.apply(attributes, fs)?;
        }
        if planning {
            for index in &change.fetch {
                self.project(&self.files[*index], state.owner, fs)?;
            }
            fs.write(&self.dest.join(STAMP), Content::later(), Some(0o644), Owner::default())?;
            return Ok(Applied { result: self.result(&change.fetch), ..Applied::default() });
        }

        let mut record = Record { digest: self.digest.clone(), files: Vec::new() };
        for (file, _) in self.files.iter().zip(&state.found).filter(|(_, found)| found.intact) {
            // Read anew: an attribute may have changed above.
            let old = state.record.as_ref().and_then(|record| record.file(&file.path));
            if let (Some(old), Some(meta)) = (old, fs.lstat(&self.at(file))?) {
                record.files.extend(Installed::new(&file.path, old.sha256.clone(), &meta));
            }
        }
        let keep = |record: &Record, fs: &mut Fs| {
            let text = Content::Bytes(record.text().into_bytes());
            fs.write(&self.dest.join(STAMP), text, Some(0o644), Owner::default())
        };
        if change.fetch.is_empty() {
            keep(&record, fs)?;
        }
        for index in &change.fetch {
            if needs.cancelled() {
                return Err(Failure::new("stopped; the next run asks for the files that are missing"));
            }
            record.files.push(self.install(&self.files[*index], state.owner, fs, needs)?);
            keep(&record, fs)?;
        }
        Ok(Applied { result: self.result(&change.fetch), ..Applied::default() })
    }

    fn result(&self, _: &State) -> Map {
        self.result(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::converge;
    use crate::modules::testing::{TestNeeds, args, check_with, sha256};
    use crate::system::{Mode, System};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const DIGEST: &str = "sha512:aa";

    /// An archive with the members `bin/a` and `bin/b`, to be installed as `a` and `sub/b`.
    fn needs(digest: &str, version: &str) -> TestNeeds {
        let blob = |member: &str| Blob { digest: digest.to_owned(), member: Some(member.to_owned()) };
        let bytes = |name: &str| format!("{name} of {version}").into_bytes();
        let blobs = ["bin/a", "bin/b"].map(|member| (blob(member), bytes(member)));
        TestNeeds { blobs: blobs.into_iter().collect(), asked: Vec::new() }
    }

    fn module(root: &Path, digest: &str, files: &[(&str, &str, &str)]) -> Artifact {
        let file = |(member, path, mode): &(&str, &str, &str)| -> Value {
            [("member", *member), ("path", *path), ("mode", *mode)].into_iter().collect()
        };
        Artifact::from_args(args([
            ("dest", root.join("opt/x/1.0").display().to_string().into()),
            ("digest", digest.into()),
            ("files", Value::List(files.iter().map(file).collect())),
        ]))
        .unwrap()
    }

    const BOTH: [(&str, &str, &str); 2] = [("bin/a", "a", "0755"), ("bin/b", "sub/b", "0644")];

    /// Both files installed, and what asked for them.
    fn installed() -> (tempfile::TempDir, Artifact, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let module = module(root.path(), DIGEST, &BOTH);
        converge(&module, &mut System::new(Mode::Apply), &mut needs(DIGEST, "1")).unwrap();
        let dest = root.path().join("opt/x/1.0");
        (root, module, dest)
    }

    fn asked(needs: &TestNeeds) -> Vec<&str> {
        needs.asked.iter().filter_map(|blob| blob.member.as_deref()).collect()
    }

    #[test]
    fn installs_once() {
        let root = tempfile::tempdir().unwrap();
        let mut needs = needs(DIGEST, "1");
        let module = module(root.path(), DIGEST, &BOTH);
        let outcome = check_with(&module, root.path(), &mut needs);
        assert!(outcome.changed);
        assert_eq!(asked(&needs), ["bin/a", "bin/b"], "each file is asked for once in two runs");
        let dest = root.path().join("opt/x/1.0");
        assert_eq!(fs::read_to_string(dest.join("a")).unwrap(), "bin/a of 1");
        assert_eq!(fs::read_to_string(dest.join("sub/b")).unwrap(), "bin/b of 1");
        assert_eq!(fs::metadata(dest.join("sub/b")).unwrap().mode() & 0o7777, 0o644);
        let record = Record::parse(&fs::read_to_string(dest.join(STAMP)).unwrap()).unwrap();
        assert_eq!(record.digest, DIGEST);
        assert_eq!(record.file("sub/b").unwrap().sha256, sha256(b"bin/b of 1"));
    }

    #[test]
    fn only_what_is_damaged_is_asked_for_again() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage, &[&str], bool); 9] = [
            ("nothing", |_| {}, &[], false),
            ("removed", |dest| fs::remove_file(dest.join("a")).unwrap(), &["bin/a"], true),
            ("cut", |dest| fs::write(dest.join("a"), "bin/a").unwrap(), &["bin/a"], true),
            ("same size", |dest| fs::write(dest.join("sub/b"), "bin/B of 1").unwrap(), &["bin/b"], true),
            ("a link", |dest| {
                fs::remove_file(dest.join("a")).unwrap();
                std::os::unix::fs::symlink("sub/b", dest.join("a")).unwrap();
            }, &["bin/a"], true),
            ("written anew as it was", |dest| fs::write(dest.join("a"), "bin/a of 1").unwrap(), &[], false),
            ("mode", |dest| fs::set_permissions(dest.join("a"), fs::Permissions::from_mode(0o600)).unwrap(), &[], true),
            ("no record", |dest| fs::remove_file(dest.join(STAMP)).unwrap(), &["bin/a", "bin/b"], true),
            ("half a record", |dest| {
                let text = fs::read_to_string(dest.join(STAMP)).unwrap();
                fs::write(dest.join(STAMP), &text[..text.len() - 20]).unwrap();
            }, &["bin/a", "bin/b"], true),
        ];
        for (what, damage, expected, changed) in cases {
            let (root, module, dest) = installed();
            damage(&dest);
            let mut needs = needs(DIGEST, "1");
            let outcome = check_with(&module, root.path(), &mut needs);
            assert_eq!((asked(&needs), outcome.changed), (expected.to_vec(), changed), "{what}");
            assert_eq!(fs::read_to_string(dest.join("a")).unwrap(), "bin/a of 1", "{what}");
            assert_eq!(fs::read_to_string(dest.join("sub/b")).unwrap(), "bin/b of 1", "{what}");
            assert_eq!(fs::symlink_metadata(dest.join("a")).unwrap().mode(), 0o100_755, "{what}");
        }
    }

    #[test]
    fn an_intact_file_is_not_read() {
        let (_root, module, dest) = installed();
        let fs = System::new(Mode::Apply);
        let fs = fs.view().fs();
        let record = Record::parse(&fs.read_to_string(&dest.join(STAMP)).unwrap()).unwrap();
        let meta = fs.lstat(&module.at(&module.files[0])).unwrap().unwrap();
        let nowhere = Path::new("/no/such/file");
        assert!(record.files[0].intact(fs, nowhere, &meta).unwrap());
        let mut touched = meta;
        touched.stamp.as_mut().unwrap().ctime += 1;
        record.files[0].intact(fs, nowhere, &touched).unwrap_err();
    }

    #[test]
    fn a_run_that_was_ended_is_finished_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let module = module(root.path(), DIGEST, &BOTH);
        let mut half = needs(DIGEST, "1");
        half.blobs.retain(|blob, _| blob.member.as_deref() == Some("bin/a"));
        converge(&module, &mut System::new(Mode::Apply), &mut half).unwrap_err();
        let left = root.path().join("opt/x/1.0/.kprov-a1B2c3");
        fs::write(&left, "half").unwrap();
        let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        fs::File::open(&left).unwrap().set_modified(an_hour_ago).unwrap();
        let mut rest = needs(DIGEST, "1");
        let outcome = check_with(&module, root.path(), &mut rest);
        assert_eq!(asked(&rest), ["bin/b"]);
        assert!(!left.exists());
        assert!(outcome.changed);
    }

    #[test]
    fn files_that_are_no_longer_listed_are_removed_and_others_left_alone() {
        let (root, _, dest) = installed();
        fs::write(dest.join("foreign"), "x").unwrap();
        let mut needs = needs(DIGEST, "1");
        let outcome = check_with(&module(root.path(), DIGEST, &BOTH[..1]), root.path(), &mut needs);
        assert!(outcome.changed && asked(&needs).is_empty());
        assert!(!dest.join("sub/b").exists() && dest.join("foreign").exists() && dest.join("a").exists());
    }

    #[test]
    fn another_release_replaces_every_file() {
        let (root, _, dest) = installed();
        let mut needs = needs("sha512:bb", "2");
        let outcome = check_with(&module(root.path(), "sha512:bb", &BOTH), root.path(), &mut needs);
        assert_eq!(asked(&needs), ["bin/a", "bin/b"]);
        assert!(outcome.changed);
        assert_eq!(fs::read_to_string(dest.join("a")).unwrap(), "bin/a of 2");
    }

    #[test]
    fn a_single_published_file_has_to_have_its_digest() {
        let root = tempfile::tempdir().unwrap();
        let module = |digest: &str| {
            let file: Value = [("member", Value::Null), ("path", "runc".into()), ("mode", "0755".into())].into_iter().collect();
            let dest = root.path().join("opt").display().to_string();
            Artifact::from_args(args([("dest", dest.into()), ("digest", digest.into()), ("files", Value::List(vec![file]))]))
                .unwrap()
        };
        let serve = |digest: &str| TestNeeds {
            blobs: [(Blob { digest: digest.to_owned(), member: None }, b"program".to_vec())].into_iter().collect(),
            asked: Vec::new(),
        };
        let wrong = format!("sha256:{}", sha256(b"another"));
        let error = converge(&module(&wrong), &mut System::new(Mode::Apply), &mut serve(&wrong)).unwrap_err();
        assert!(error.message.contains("expected sha256:"), "{error}");
        assert_eq!(fs::read_dir(root.path().join("opt")).unwrap().count(), 0, "the file is left");
        let right = format!("sha256:{}", sha256(b"program"));
        assert!(check_with(&module(&right), root.path(), &mut serve(&right)).changed);
    }

    #[test]
    fn a_record_that_leads_out_of_its_directory_is_not_believed() {
        let text = Record {
            digest: DIGEST.to_owned(),
            files: vec![Installed { path: "../../etc/passwd".into(), sha256: "x".into(), size: 1, mtime: 1, ctime: 1, inode: 1 }],
        }
        .text();
        assert_eq!(Record::parse(&text), None);
    }

    #[test]
    fn mistakes_in_the_arguments_are_said() {
        let fails = |path: &str| {
            let file: Value = [("path", path)].into_iter().collect();
            let files = Value::List(vec![file]);
            Artifact::from_args(args([("dest", "/opt".into()), ("digest", "d".into()), ("files", files)])).unwrap_err()
        };
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a\nb", STAMP] {
            assert!(fails(bad).message.contains("is no path below `dest`"), "{bad}");
        }
    }
}
