//! `service_account_key`: the key pair with which service account tokens are signed and verified. kprov's own module.
//!
//! Makes an ECDSA P-256 pair (tokens are then ES256) where the private key is missing. All API servers of a cluster need the
//! same pair; bringing it to further control-plane nodes is not done here. A private key that cannot be read, or is missing
//! while its public key is there, is a failure: with a new one every token would be void.

use super::attributes::octal;
use super::{Applied, Diff, Failure, Module, Needs};
use crate::pki::{Key, Stored, stored_key};
use crate::system::{Content, Owner, SystemError, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const PRIVATE_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// Where the pair is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceAccountKey {
    /// PKCS#8, for `--service-account-signing-key-file`.
    pub private: PathBuf,
    /// PKIX, for `--service-account-key-file`.
    pub public: PathBuf,
}

#[cfg(feature = "controller")]
impl ServiceAccountKey {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let this = Self { private: args.str("private")?.into(), public: args.str("public")?.into() };
        args.finish()?;
        Ok(this)
    }
}

pub struct State {
    private: Stored<Key>,
    public: Stored<String>,
    private_mode: Option<u32>,
}

pub struct Change {
    private: bool,
    public: bool,
    private_mode: bool,
}

impl Module for ServiceAccountKey {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let private = stored_key(view, &self.private)?;
        let public = match view.fs().read_opt(&self.public) {
            Err(SystemError::Unknown) => Stored::Unknown,
            Err(error) => return Err(error.into()),
            Ok(None) => Stored::Absent,
            Ok(Some(bytes)) => String::from_utf8(bytes).map_or(Stored::Damaged, Stored::Is),
        };
        let advice = "restore it from a backup, or remove both files to have a new pair made, which voids every token";
        match (&private, &public) {
            (Stored::Damaged, _) => {
                Err(Failure::new(format!("{} holds no private key in PEM: {advice}", self.private.display())))
            }
            (Stored::Absent, Stored::Is(_) | Stored::Damaged) => Err(Failure::new(format!(
                "the public key {} is there, its private key {} is missing: {advice}",
                self.public.display(),
                self.private.display()
            ))),
            _ => {
                let private_mode = view.fs().stat(&self.private)?.map(|meta| meta.mode);
                Ok(State { private, public, private_mode })
            }
        }
    }

    fn diff(&self, state: &State) -> Option<Change> {
        let change = Change {
            private: matches!(state.private, Stored::Absent),
            public: match (&state.private, &state.public) {
                // The file may hold keys of before a rotation too.
                (Stored::Is(private), Stored::Is(public)) => !public.contains(private.public_pem().trim_end()),
                (_, Stored::Unknown) => false,
                _ => true,
            },
            private_mode: state.private_mode.is_some_and(|mode| mode != PRIVATE_MODE),
        };
        (change.private || change.public || change.private_mode).then_some(change)
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        let mut diffs = Vec::new();
        let mut field = |path: &PathBuf, name: &str, before: Option<String>, after: String| {
            let fields = vec![(name.to_owned(), before, Some(after))];
            diffs.push(Diff::Fields { subject: path.display().to_string(), fields });
        };
        if change.private {
            field(&self.private, "key", None, "ECDSA P-256, made on this node".to_owned());
        }
        if change.private_mode {
            let before = state.private_mode.map(octal);
            field(&self.private, "mode", before, octal(PRIVATE_MODE));
        }
        if change.public {
            let before = (!matches!(state.public, Stored::Absent)).then(|| "another".to_owned());
            field(&self.public, "key", before, format!("of {}", self.private.display()));
        }
        diffs
    }

    fn apply(
        &self,
        state: State,
        change: Change,
        writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        if change.private_mode {
            let path = writer.view().fs().resolve(&self.private)?;
            writer.fs().chmod(&path, PRIVATE_MODE)?;
        }
        let key = match state.private {
            Stored::Is(key) => Some(key),
            _ if writer.planning() => None,
            _ => Some(Key::generate().map_err(|error| Failure::new(format!("{}: {error}", self.private.display())))?),
        };
        if change.private {
            let content = key.as_ref().map_or_else(Content::later, |key| Content::Bytes(key.to_pem().as_bytes().to_vec()));
            writer.fs().write(&self.private, content, Some(PRIVATE_MODE), Owner::default())?;
        }
        if change.public {
            let content = key.map_or_else(Content::later, |key| Content::Bytes(key.public_pem().into_bytes()));
            writer.fs().write(&self.public, content, Some(PUBLIC_MODE), Owner::default())?;
        }
        Ok(Applied { result: self.result(&self.query(writer.view())?), ..Applied::default() })
    }

    fn result(&self, state: &State) -> Map {
        let public = state.private.known().map_or(Value::later(), |key| key.public_pem().into());
        Map::from_iter([("public_key".to_owned(), public)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{check, check_fails};
    use std::os::unix::fs::PermissionsExt;

    fn pair(root: &std::path::Path) -> ServiceAccountKey {
        ServiceAccountKey { private: root.join("sa.key"), public: root.join("sa.pub") }
    }

    #[test]
    fn makes_a_pair_that_openssl_signs_and_verifies_with() {
        let root = tempfile::tempdir().unwrap();
        let outcome = check(&pair(root.path()), root.path());
        assert!(outcome.changed);
        let public = std::fs::read_to_string(root.path().join("sa.pub")).unwrap();
        assert_eq!(outcome.result["public_key"], Value::from(public));
        let mode = |name: &str| std::fs::metadata(root.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("sa.key"), mode("sa.pub")), (0o600, 0o644));
        let script = "echo token > t && openssl dgst -sha256 -sign sa.key -out s t && \
                      openssl dgst -sha256 -verify sa.pub -signature s t >&2";
        let status = std::process::Command::new("sh").args(["-c", script]).current_dir(root.path()).status().unwrap();
        assert!(status.success());
        assert!(!check(&pair(root.path()), root.path()).changed);
    }

    #[test]
    fn the_public_key_follows_the_private_one() {
        let root = tempfile::tempdir().unwrap();
        check(&pair(root.path()), root.path());
        let private = std::fs::read(root.path().join("sa.key")).unwrap();
        let public = std::fs::read_to_string(root.path().join("sa.pub")).unwrap();
        for damage in [None, Some("garbage".to_owned()), Some(Key::generate().unwrap().public_pem())] {
            match damage {
                Some(text) => std::fs::write(root.path().join("sa.pub"), text).unwrap(),
                None => std::fs::remove_file(root.path().join("sa.pub")).unwrap(),
            }
            assert!(check(&pair(root.path()), root.path()).changed);
            assert_eq!(std::fs::read_to_string(root.path().join("sa.pub")).unwrap(), public);
            assert_eq!(std::fs::read(root.path().join("sa.key")).unwrap(), private);
        }
        // A key of before a rotation stays.
        let both = Key::generate().unwrap().public_pem() + &public;
        std::fs::write(root.path().join("sa.pub"), both).unwrap();
        assert!(!check(&pair(root.path()), root.path()).changed);
    }

    #[test]
    fn never_replaces_a_private_key() {
        let root = tempfile::tempdir().unwrap();
        check(&pair(root.path()), root.path());
        std::fs::write(root.path().join("sa.key"), "garbage").unwrap();
        assert!(check_fails(&pair(root.path()), root.path()).contains("no private key"));
        std::fs::remove_file(root.path().join("sa.key")).unwrap();
        assert!(check_fails(&pair(root.path()), root.path()).contains("is missing"));
    }
}
