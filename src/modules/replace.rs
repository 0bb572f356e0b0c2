//! Giving a file new content: what `copy`, `lineinfile` and `blockinfile` have in common.
//!
//! Knows attributes, backups and validation of the new content before it is put in place, and shows the difference. What
//! the new content is, and whether it may replace what is there, is the module's business.

use super::attributes::{self, Attributes};
use super::{Applied, Diff, Failure};
use crate::system::{Command, Content, Fs, Kind, Meta, Owner, SystemError, View, Writer};
use crate::value::{After, Value};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The arguments that these modules share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replace {
    pub attributes: Attributes,
    pub backup: bool,
    /// A program that accepts or rejects the new content; `%s` in an argument is the file that holds it.
    pub validate: Option<Vec<String>>,
}

/// What a file holds, as far as it has to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Bytes(Vec<u8>),
    /// Too long to be shown.
    Digest {
        sha256: String,
        size: Option<u64>,
    },
    /// Known after apply.
    Unknown,
}

/// What was found at a path. `meta` and `held` are `None` where nothing is; of a link, `held` is.
#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub meta: Option<Meta>,
    pub held: Option<Held>,
    owner: Owner,
}

/// What a file shall hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Bytes(Vec<u8>),
    /// The content of another file on the node, and what that is.
    CopyOf(PathBuf, Held, u32),
    /// Known after that task.
    Unknown(After),
}

#[derive(Debug)]
pub enum Change {
    Content(Wanted),
    Attributes(attributes::Change),
}

/// Content beyond this many bytes is compared by digest and not shown.
const SHOWN: u64 = 256 << 10;

impl Held {
    pub fn of(fs: &Fs, path: &Path) -> Result<Self, Failure> {
        let size = fs.stat(path)?.and_then(|meta| meta.size);
        let held = match size {
            Some(size) if size > SHOWN => fs.sha256(path).map(|sha256| Self::Digest { sha256, size: Some(size) }),
            None => fs.sha256(path).map(|sha256| Self::Digest { sha256, size }),
            Some(_) => fs.read(path).map(Self::Bytes),
        };
        match held {
            Err(SystemError::Unknown) => Ok(Self::Unknown),
            other => Ok(other?),
        }
    }

    fn sha256(&self) -> Option<String> {
        match self {
            Self::Bytes(bytes) => Some(sha256(bytes)),
            Self::Digest { sha256, .. } => Some(sha256.clone()),
            Self::Unknown => None,
        }
    }

    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => false,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            _ => self.sha256() == other.sha256(),
        }
    }

    /// The text, where it can be shown: not a program, nor a private key.
    fn text(&self) -> Option<&str> {
        let Self::Bytes(bytes) = self else { return None };
        std::str::from_utf8(bytes)
            .ok()
            .filter(|text| bytes.len() as u64 <= SHOWN && !text.contains('\0') && !text.contains("PRIVATE KEY-----"))
    }

    fn size(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Digest { size, .. } => *size,
            Self::Unknown => None,
        }
    }
}

impl Wanted {
    fn held(&self) -> Held {
        match self {
            Self::Bytes(bytes) => Held::Bytes(bytes.clone()),
            Self::CopyOf(_, held, _) => held.clone(),
            Self::Unknown(_) => Held::Unknown,
        }
    }
}

impl Replace {
    #[cfg(feature = "controller")]
    pub fn from_args(args: &mut super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let validate = args.opt_str("validate")?.map(|line| {
            let words = shlex::split(&line)
                .filter(|words| words.iter().any(|word| word.contains("%s")))
                .ok_or_else(|| ArgError::new("validate", "`validate` has to be a command with `%s` in it"))?;
            Ok(words)
        });
        Ok(Self {
            attributes: Attributes::from_args(args)?,
            backup: args.bool("backup", false)?,
            validate: validate.transpose()?,
        })
    }

    /// Looks at a path. Directories and devices cannot be given content: a failure.
    pub fn query(&self, view: View<'_>, path: &Path, follow: bool) -> Result<Found, Failure> {
        let path = if follow { view.fs().resolve(path)? } else { path.to_owned() };
        let meta = view.fs().lstat(&path)?;
        let held = match &meta {
            None | Some(Meta { kind: Kind::Symlink(_), .. }) => None,
            Some(Meta { kind: Kind::File, .. }) => Some(Held::of(view.fs(), &path)?),
            Some(Meta { kind: Kind::Directory, .. }) => {
                return Err(Failure::new(format!("{} is a directory, expected a file", path.display())));
            }
            Some(_) => return Err(Failure::new(format!("{} is not a regular file", path.display()))),
        };
        Ok(Found { path, meta, held, owner: self.attributes.owner(view)? })
    }

    /// `None` as `wanted` leaves the content as it is.
    pub fn diff(&self, found: &Found, wanted: Option<&Wanted>) -> Option<Change> {
        if let Some(wanted) = wanted
            && !found.held.as_ref().is_some_and(|held| held.same(&wanted.held()))
        {
            return Some(Change::Content(wanted.clone()));
        }
        let meta = found.meta.as_ref()?;
        self.settled(wanted).change(&found.path, meta, found.owner).map(Change::Attributes)
    }

    /// The attributes, with the mode of the file that is copied filled in.
    fn settled(&self, wanted: Option<&Wanted>) -> Attributes {
        let mut attributes = self.attributes.clone();
        if attributes.mode == Some(attributes::Mode::Preserve) {
            attributes.mode = match wanted {
                Some(Wanted::CopyOf(_, _, mode)) => Some(attributes::Mode::Bits(*mode)),
                _ => None,
            };
        }
        attributes
    }

    pub fn describe(&self, found: &Found, change: &Change) -> Vec<Diff> {
        let subject = found.path.display().to_string();
        let wanted = match change {
            Change::Attributes(change) => return vec![change.diff(&self.attributes)],
            Change::Content(wanted) => wanted,
        };
        let mut diffs = vec![difference(&subject, found.held.as_ref(), &wanted.held())];
        let attributes = self.settled(Some(wanted));
        let mut fields = match &found.meta {
            Some(meta) if meta.is_file() => {
                attributes.change(&found.path, meta, found.owner).map_or_else(Vec::new, |c| c.fields(&attributes))
            }
            _ => attributes.fresh_fields(false),
        };
        if let Some(Meta { kind: Kind::Symlink(target), .. }) = &found.meta {
            fields.insert(0, ("link".to_owned(), Some(target.display().to_string()), None));
        }
        if !fields.is_empty() {
            diffs.push(Diff::Fields { subject, fields });
        }
        diffs
    }

    /// Validates, keeps a backup, puts the content in place. The result is that of [`attributes::info`], and `backup_file`.
    pub fn apply(&self, found: &Found, change: Change, writer: &mut Writer<'_>) -> Result<Applied, Failure> {
        let mut unknown = None;
        let mut backup = None;
        match change {
            Change::Attributes(change) => change.apply(&self.attributes, writer.fs())?,
            Change::Content(wanted) => {
                let attributes = self.settled(Some(&wanted));
                let existing = found.meta.as_ref().filter(|meta| meta.is_file());
                let mode = match existing {
                    Some(meta) => attributes.mode.map(|mode| mode.bits(meta.mode, false)),
                    None => attributes.fresh_mode(false),
                };
                let content = match wanted {
                    Wanted::Bytes(bytes) => Content::Bytes(bytes),
                    Wanted::CopyOf(path, ..) => Content::CopyOf(path),
                    Wanted::Unknown(after) => {
                        unknown = Some(after.clone());
                        Content::Unknown(after)
                    }
                };
                let content = self.validated(&found.path, content, writer)?;
                if self.backup
                    && let Some(meta) = existing
                {
                    backup = Some(keep(&found.path, meta, writer)?);
                }
                writer.fs().write(&found.path, content, mode, found.owner)?;
            }
        }
        let mut result = attributes::info(writer.view(), &found.path)?;
        result.extend(backup.map(|name| ("backup_file".to_owned(), name)));
        Ok(Applied::known_after(unknown, result))
    }

    fn validated(&self, path: &Path, content: Content, writer: &mut Writer<'_>) -> Result<Content, Failure> {
        let Some(validate) = &self.validate else { return Ok(content) };
        let content = writer.fs().stage(path, content)?;
        let Content::Staged { path: staged, .. } = &content else { return Ok(content) };
        let name = staged.display().to_string();
        let argv = validate.iter().map(|word| word.replace("%s", &name));
        let verdict = writer
            .processes()
            .run(&Command::new(argv))
            .and_then(|output| output.map_or(Ok(()), |o| o.checked().map(drop)));
        if let Err(error) = verdict {
            writer.fs().remove(staged)?;
            let said = error.to_string().replace(&name, &path.display().to_string());
            return Err(Failure::new(format!(
                "{}: the new content is not valid and was not put in place: {said}",
                path.display()
            )));
        }
        Ok(content)
    }
}

/// Copies the file to a name that Ansible would give it: `NAME.PID.YYYY-MM-DD@HH:MM:SS~`.
fn keep(path: &Path, meta: &Meta, writer: &mut Writer<'_>) -> Result<Value, Failure> {
    if writer.planning() {
        // It has the time of the run in it.
        return Ok(Value::later());
    }
    let now = time::OffsetDateTime::now_utc();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(
        ".{}.{}@{:02}:{:02}:{:02}~",
        std::process::id(),
        now.date(),
        now.hour(),
        now.minute(),
        now.second()
    ));
    let name = PathBuf::from(name);
    let owner = Owner { uid: Some(meta.uid), gid: Some(meta.gid) };
    writer.fs().write(&name, Content::CopyOf(path.to_owned()), Some(meta.mode), owner)?;
    Ok(name.display().to_string().into())
}

/// Shows what a file holds now and then: text as text, everything else by size and digest.
pub fn difference(path: &str, before: Option<&Held>, after: &Held) -> Diff {
    let shown =
        |held: Option<&Held>| held.map(|held| held.text().map(str::to_owned)).map_or(Some(None), |text| text.map(Some));
    if let (Some(before), Some(after)) = (shown(before), after.text()) {
        return Diff::Text { path: path.to_owned(), before, after: Some(after.to_owned()) };
    }
    if before.is_none_or(|held| *held != Held::Unknown) && *after == Held::Unknown {
        return Diff::Note(format!("{path}: content known after apply"));
    }
    let field = |name: &str, of: &dyn Fn(&Held) -> Option<String>| (name.to_owned(), before.and_then(of), of(after));
    Diff::Fields {
        subject: path.to_owned(),
        fields: vec![field("sha256", &Held::sha256), field("size", &|held| held.size().map(|size| size.to_string()))],
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// What Ansible calls `checksum`.
pub fn sha1(bytes: &[u8]) -> String {
    use sha1::Digest;
    hex(&sha1::Sha1::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
