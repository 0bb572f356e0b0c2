//! `mode`, `owner` and `group`: the arguments that every module for files has, and what they come to on a node.
//!
//! A mode is octal or symbolic as in chmod(1); owner and group are names or numbers. As in Ansible, a number that YAML
//! read is taken as it is (`0644` is octal in YAML 1.1, `644` is not what it looks like).

use super::{Diff, Failure};
use crate::system::{Fs, Meta, Owner, SystemError, View};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What of a file's metadata is desired; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub mode: Option<Mode>,
    pub owner: Option<String>,
    pub group: Option<String>,
}

/// Permission bits, or how to change them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Bits(u32),
    /// The clauses of chmod(1), such as `u=rw,g+r,o-rwx`.
    Symbolic(Vec<Clause>),
    /// Those of the file that is copied.
    Preserve,
}

/// `[ugoa]*[-+=][rwxXst]*` or `[ugoa]*[-+=][ugo]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    who: String,
    op: char,
    what: String,
}

/// New entries and clauses without a "who" count with this one, whatever the login shell set.
const UMASK: u32 = 0o022;

impl Mode {
    /// Reads an octal number or chmod(1)'s clauses; `None` where it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|m| *m <= 0o7777).map(Self::Bits);
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let start = part.find(['+', '-', '='])?;
            let who = &part[..start];
            let mut rest = &part[start..];
            if !who.chars().all(|c| "ugoa".contains(c)) {
                return None;
            }
            // One "who" may have several operations: `u=r+x`.
            while let Some(op) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                let what = &rest[1..end];
                if !what.chars().all(|c| "rwxXst".contains(c)) && !matches!(what, "u" | "g" | "o") {
                    return None;
                }
                clauses.push(Clause { who: who.to_owned(), op, what: what.to_owned() });
                rest = &rest[end..];
            }
        }
        Some(Self::Symbolic(clauses))
    }

    /// The bits that come of it for something with the bits `now`.
    pub fn bits(&self, now: u32, directory: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Preserve => now,
            Self::Symbolic(clauses) => {
                let execute = directory || now & 0o111 != 0;
                clauses.iter().fold(now, |mode, clause| clause.bits(mode, execute))
            }
        }
    }
}

impl Clause {
    fn bits(&self, mode: u32, execute: bool) -> u32 {
        let (users, mask) = if self.who.is_empty() { ("ugo", !UMASK) } else { (self.who.as_str(), !0) };
        users.chars().flat_map(|c| if c == 'a' { vec!['u', 'g', 'o'] } else { vec![c] }).fold(mode, |mode, user| {
            let (shift, special) = match user {
                'u' => (6, 0o4000),
                'g' => (3, 0o2000),
                _ => (0, 0o1000),
            };
            let bits = mask
                & self.what.chars().fold(0, |bits, c| {
                    bits | match c {
                        'r' => 4 << shift,
                        'w' => 2 << shift,
                        'x' => 1 << shift,
                        'X' if execute => 1 << shift,
                        's' if user != 'o' => special,
                        't' if user == 'o' => special,
                        'u' => (mode >> 6 & 7) << shift,
                        'g' => (mode >> 3 & 7) << shift,
                        'o' => (mode & 7) << shift,
                        _ => 0,
                    }
                });
            match self.op {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => mode & !(7 << shift | special) | bits,
            }
        })
    }
}

/// What has to be done to one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub path: PathBuf,
    pub mode: Option<u32>,
    pub owner: Owner,
    before: Meta,
}

impl Attributes {
    #[cfg(feature = "controller")]
    pub fn from_args(args: &mut super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let bad = |given: &Value| {
            let mut error = ArgError::new("mode", format!("`mode` is `{given}`, which is no mode"));
            error.help = Some("write an octal number in quotes (\"0644\") or chmod's symbols (u=rw,g=r,o=)".to_owned());
            error
        };
        let mode = match args.take("mode")? {
            None => None,
            Some(Value::String(text)) if text == "preserve" => Some(Mode::Preserve),
            Some(Value::String(text)) => Some(Mode::parse(&text).ok_or_else(|| bad(&Value::String(text)))?),
            Some(Value::Int(n)) => {
                let bits = u32::try_from(n).ok().filter(|bits| *bits <= 0o7777);
                Some(Mode::Bits(bits.ok_or_else(|| bad(&Value::Int(n)))?))
            }
            Some(other) => return Err(bad(&other)),
        };
        Ok(Self { mode, owner: args.opt_str("owner")?, group: args.opt_str("group")? })
    }

    /// Looks the owner and group up on the node. One who is only planned has a provisional number.
    pub fn owner(&self, view: View<'_>) -> Result<Owner, Failure> {
        let id = |name: &Option<String>, look_up: &dyn Fn(&str) -> Result<u32, SystemError>| match name {
            None => Ok(None),
            Some(name) => match look_up(name) {
                Err(SystemError::Unknown) => Ok(Some(provisional(name))),
                id => id.map(Some),
            },
        };
        Ok(Owner {
            uid: id(&self.owner, &|name| view.accounts().uid(name))?,
            gid: id(&self.group, &|name| view.accounts().gid(name))?,
        })
    }

    /// The mode for something that does not exist yet.
    pub fn fresh_mode(&self, directory: bool) -> Option<u32> {
        let default = if directory { 0o777 & !UMASK } else { 0o666 & !UMASK };
        self.mode.as_ref().map(|mode| mode.bits(default, directory))
    }

    /// What has to change at a path that exists; `owner` is what [`Attributes::owner`] found. A link has no mode.
    pub fn change(&self, path: &Path, meta: &Meta, owner: Owner) -> Option<Change> {
        let mode = (self.mode.as_ref())
            .filter(|_| !meta.is_symlink())
            .map(|mode| mode.bits(meta.mode, meta.is_dir()))
            .filter(|mode| *mode != meta.mode);
        let owner =
            Owner { uid: owner.uid.filter(|uid| *uid != meta.uid), gid: owner.gid.filter(|gid| *gid != meta.gid) };
        (mode.is_some() || owner != Owner::default()).then(|| Change {
            path: path.to_owned(),
            mode,
            owner,
            before: meta.clone(),
        })
    }

    /// The desired attributes of something new, for a diff.
    pub fn fresh_fields(&self, directory: bool) -> Vec<(String, Option<String>, Option<String>)> {
        [("mode", self.fresh_mode(directory).map(octal)), ("owner", self.owner.clone()), ("group", self.group.clone())]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), None, Some(value?))))
            .collect()
    }
}

impl Change {
    pub fn fields(&self, attributes: &Attributes) -> Vec<(String, Option<String>, Option<String>)> {
        let mut fields = Vec::new();
        if let Some(mode) = self.mode {
            fields.push(("mode".to_owned(), Some(octal(self.before.mode)), Some(octal(mode))));
        }
        if self.owner.uid.is_some() {
            fields.push(("owner".to_owned(), Some(self.before.uid.to_string()), attributes.owner.clone()));
        }
        if self.owner.gid.is_some() {
            fields.push(("group".to_owned(), Some(self.before.gid.to_string()), attributes.group.clone()));
        }
        fields
    }

    pub fn diff(&self, attributes: &Attributes) -> Diff {
        Diff::Fields { subject: self.path.display().to_string(), fields: self.fields(attributes) }
    }

    /// Owner first: that may clear mode bits.
    pub fn apply(&self, attributes: &Attributes, fs: &mut Fs) -> Result<(), Failure> {
        fs.chown(&self.path, self.owner)?;
        let wanted = attributes.mode.as_ref().map(|mode| mode.bits(self.before.mode, self.before.is_dir()));
        if let (Some(mode), Some(now)) = (wanted, fs.lstat(&self.path)?)
            && now.mode != mode
            && !now.is_symlink()
        {
            fs.chmod(&self.path, mode)?;
        }
        Ok(())
    }
}

/// As Ansible prints a mode: four octal digits.
pub fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

/// Numbers from here on stand for users and groups who are only planned. Nobody has such a number (systemd's UIDS-GIDS.md).
const PROVISIONAL: u32 = 0xff00_0000;

/// The same number for the same name, so that a plan sees whether a file belongs to somebody already.
fn provisional(name: &str) -> u32 {
    let sum = name.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    PROVISIONAL + sum % 0xff_fff0
}

/// Name and number of an owner; the name is empty where there is none, as Ansible has it.
fn known(id: u32, name: Result<Option<String>, SystemError>) -> (Value, Value) {
    match (id >= PROVISIONAL, name) {
        (true, _) => (Value::later(), Value::later()),
        (false, name) => (name.ok().flatten().unwrap_or_default().into(), id.into()),
    }
}

/// Gives owners of files the names that they have on the node, where a diff has their numbers.
pub fn name_owners(view: View<'_>, diffs: &mut [Diff]) {
    for diff in diffs {
        let Diff::Fields { subject, fields } = diff else { continue };
        for (field, before, _) in fields.iter_mut().filter(|_| subject.starts_with('/')) {
            let Some(id) = before.as_deref().and_then(|before| before.parse().ok()) else { continue };
            let name = match field.as_str() {
                "owner" => view.accounts().user_name(id),
                "group" => view.accounts().group_name(id),
                _ => continue,
            };
            if let Ok(Some(name)) = name {
                *before = Some(name);
            }
        }
    }
}

/// `(owner, uid)` and `(group, gid)` of a path for a result.
pub fn owners(view: View<'_>, meta: &Meta) -> [(Value, Value); 2] {
    [known(meta.uid, view.accounts().user_name(meta.uid)), known(meta.gid, view.accounts().group_name(meta.gid))]
}

/// What Ansible's modules for files return about the path: `state`, `mode`, `owner`, `group`, `uid`, `gid`, `size`.
pub fn info(view: View<'_>, path: &Path) -> Result<Map, Failure> {
    use crate::system::Kind;
    let Some(meta) = view.fs().lstat(path)? else {
        return Ok([("state".to_owned(), "absent".into())].into_iter().collect());
    };
    let state = match meta.kind {
        Kind::Directory => "directory",
        Kind::Symlink(_) => "link",
        _ if meta.stamp.is_some_and(|stamp| stamp.nlink > 1) => "hard",
        _ => "file",
    };
    let [(owner, uid), (group, gid)] = owners(view, &meta);
    let map: [(&str, Value); 7] = [
        ("state", state.into()),
        ("mode", octal(meta.mode).into()),
        ("owner", owner),
        ("group", group),
        ("uid", uid),
        ("gid", gid),
        ("size", meta.size.map_or(Value::later(), Value::from)),
    ];
    Ok(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::file::File;
    use crate::modules::testing::{TestNeeds, text_args};
    use crate::system::{System, UserSpec};

    #[test]
    fn a_user_who_is_only_planned_can_own_files() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, "").unwrap();
        let pairs = [("path", path.display().to_string()), ("owner", "kprov-planned".to_owned())];
        let file = File::from_args(text_args(pairs)).unwrap();
        let mut plan = System::new(crate::system::Mode::Plan);
        let run = |plan: &mut System| crate::modules::converge(&file, plan, &mut TestNeeds::default());
        assert!(run(&mut plan).unwrap_err().message.contains("there is no user `kprov-planned`"));
        plan.writer().accounts().set_user("kprov-planned", &UserSpec::default()).unwrap();
        let outcome = run(&mut plan).unwrap();
        assert!(outcome.changed);
        assert_eq!(outcome.result["uid"], Value::later());
        let owner = ("owner".to_owned(), Some("root".to_owned()), Some("kprov-planned".to_owned()));
        let [Diff::Fields { fields, .. }] = &outcome.diff[..] else { panic!("{outcome:?}") };
        assert_eq!(fields, &[owner]);
        assert!(!run(&mut plan).unwrap().changed);
    }

    #[test]
    fn modes_are_those_of_chmod() {
        #[rustfmt::skip]
        let cases = [
            ("0644", 0, false, 0o644), ("755", 0, false, 0o755), ("0o600", 0, false, 0o600), ("4755", 0, true, 0o4755),
            ("u=rw,g=r,o=", 0o777, false, 0o640), ("a=rX", 0o600, false, 0o444), ("a=rX", 0o600, true, 0o555),
            ("u+x", 0o644, false, 0o744), ("go-rwx", 0o755, true, 0o700), ("+w", 0o444, false, 0o644),
            ("a+w", 0o444, false, 0o666), ("u=rwx,g=u", 0o600, false, 0o770), ("u+s,g+s", 0o755, false, 0o6755),
            ("o+t", 0o777, true, 0o1777), ("u=r+x", 0o200, false, 0o500), ("u=", 0o4755, false, 0o055),
            ("g+X", 0o744, false, 0o754), ("o=u-w", 0o640, false, 0o644),
        ];
        for (text, now, directory, expected) in cases {
            let mode = Mode::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(octal(mode.bits(now, directory)), octal(expected), "{text} on {now:o}");
        }
        for bad in ["", "rw", "u", "z+r", "u+q", "9", "77777", "0888", "u=rw g=r", "u+r,", "u+ug"] {
            assert_eq!(Mode::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn symbolic_modes_agree_with_chmod_itself() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        for text in ["u=rwX,go=", "a+X", "ug+s", "go=u", "u-w,o+rw", "g=o", "a-x", "u+t", "o+s", "+x", "=r", "-w"] {
            for now in [0o640, 0o755, 0o6711, 0o7777, 0] {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(now)).unwrap();
                let script = "umask 022; exec chmod -- \"$0\" \"$1\"";
                // chmod complains where it leaves a bit to the umask; what it does is what counts.
                std::process::Command::new("sh").args(["-c", script, text]).arg(&path).output().unwrap();
                let expected = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                let found = Mode::parse(text).unwrap().bits(now, false);
                assert_eq!(octal(found), octal(expected), "{text} on {now:o}");
            }
        }
    }
}
