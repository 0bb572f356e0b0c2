//! `certificate_authority`: a CA certificate and its key on this node. kprov's own module.
//!
//! Makes the pair where neither is there. A pair that is incomplete, damaged or does not belong together is a failure,
//! never a reason for a new CA: everything that the old one has signed would be void. A new key waits beside its place
//! (`KEY.new`) until the certificate is written, so that a run that is killed in between is told from a lost file.

use super::attributes::octal;
use super::{Applied, Diff, Failure, Module, Needs};
use crate::pki::{self, Certificate, Key, Stored, stored_certificate, stored_key};
use crate::system::{Content, Owner, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// The desired CA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateAuthority {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Of a new CA. One that is there keeps its name, whoever made it.
    pub common_name: String,
    /// How long a new CA lives.
    pub days: u32,
}

#[cfg(feature = "controller")]
impl CertificateAuthority {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let this = Self {
            certificate: args.str("certificate")?.into(),
            key: args.str("key")?.into(),
            common_name: args.str("common_name")?,
            days: super::certificate::days(&mut args, "days", 3650)?,
        };
        args.finish()?;
        Ok(this)
    }
}

pub enum State {
    Absent,
    /// Planned by an earlier task.
    Planned,
    Present { certificate: Box<Certificate>, key_mode: u32 },
    /// The certificate is there, and its key has not been moved into place.
    Interrupted,
}

pub enum Change {
    Make,
    Finish,
    /// The key can be read by others.
    KeyMode,
}

impl Module for CertificateAuthority {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let (certificate, key) = (stored_certificate(view, &self.certificate)?, stored_key(view, &self.key)?);
        let (certificate_path, key_path) = (self.certificate.display(), self.key.display());
        let fail = |what: String| {
            Err(Failure::new(format!(
                "{what}: restore both from a backup, or remove both to have a new CA made, which voids every certificate \
                 that the old one has signed"
            )))
        };
        match (certificate, key) {
            (Stored::Absent, Stored::Absent) => Ok(State::Absent),
            (Stored::Unknown, _) | (_, Stored::Unknown) => Ok(State::Planned),
            (Stored::Damaged, _) => fail(format!("{certificate_path} holds no certificate in PEM")),
            (_, Stored::Damaged) => fail(format!("{key_path} holds no private key in PEM")),
            (Stored::Absent, Stored::Is(_)) => {
                fail(format!("the CA's key {key_path} is there, its certificate {certificate_path} is missing"))
            }
            (Stored::Is(certificate), Stored::Absent) => {
                let pending = stored_key(view, &self.pending())?;
                if pending.known().is_some_and(|key| certificate.has_key(key)) {
                    return Ok(State::Interrupted);
                }
                fail(format!("the CA's certificate {certificate_path} is there, its key {key_path} is missing"))
            }
            (Stored::Is(certificate), Stored::Is(key)) => {
                if !certificate.has_key(&key) {
                    return fail(format!("{key_path} is not the key of {certificate_path}"));
                }
                if !certificate.authority {
                    return fail(format!("{certificate_path} is not the certificate of a CA"));
                }
                let key_mode = view.fs().stat(&self.key)?.map_or(KEY_MODE, |meta| meta.mode);
                Ok(State::Present { certificate: Box::new(certificate), key_mode })
            }
        }
    }

    fn diff(&self, state: &State) -> Option<Change> {
        match state {
            State::Absent => Some(Change::Make),
            State::Interrupted => Some(Change::Finish),
            State::Present { key_mode, .. } if *key_mode != KEY_MODE => Some(Change::KeyMode),
            State::Planned | State::Present { .. } => None,
        }
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        match change {
            Change::Make => {
                let field = |name: &str, value: String| (name.to_owned(), None, Some(value));
                vec![Diff::Fields {
                    subject: self.certificate.display().to_string(),
                    fields: vec![
                        field("subject", format!("CN={}", self.common_name)),
                        field("expires", format!("{} days after apply", self.days)),
                        field("key", self.key.display().to_string()),
                    ],
                }]
            }
            Change::Finish => {
                let (from, to) = (self.pending(), self.key.display());
                vec![Diff::Note(format!("move {} to {to}, which an interrupted run has left to do", from.display()))]
            }
            Change::KeyMode => {
                let before = match state {
                    State::Present { key_mode, .. } => Some(octal(*key_mode)),
                    State::Absent | State::Planned | State::Interrupted => None,
                };
                let fields = vec![("mode".to_owned(), before, Some(octal(KEY_MODE)))];
                vec![Diff::Fields { subject: self.key.display().to_string(), fields }]
            }
        }
    }

    fn apply(
        &self,
        state: State,
        change: Change,
        writer: &mut Writer<'_>,
        _needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        match change {
            Change::KeyMode => {
                let key = writer.view().fs().resolve(&self.key)?;
                writer.fs().chmod(&key, KEY_MODE)?;
                return Ok(Applied { result: self.result(&state), ..Applied::default() });
            }
            Change::Make if writer.planning() => {
                writer.fs().write(&self.certificate, Content::later(), Some(CERTIFICATE_MODE), Owner::default())?;
                writer.fs().write(&self.key, Content::later(), Some(KEY_MODE), Owner::default())?;
                // One that an interrupted run has left without a certificate is replaced, and moved.
                writer.fs().remove(&self.pending())?;
            }
            Change::Make => {
                let (certificate, key) = self.make()?;
                let (certificate, key) = (certificate.into_bytes(), key.to_pem().as_bytes().to_vec());
                let pending = self.pending();
                writer.fs().write(&pending, Content::Bytes(key), Some(KEY_MODE), Owner::default())?;
                let certificate = Content::Bytes(certificate);
                writer.fs().write(&self.certificate, certificate, Some(CERTIFICATE_MODE), Owner::default())?;
                self.finish(writer)?;
            }
            Change::Finish => self.finish(writer)?,
        }
        let state = self.query(writer.view())?;
        Ok(Applied { result: self.result(&state), ..Applied::default() })
    }

    fn result(&self, state: &State) -> Map {
        let unknown = || Value::later();
        let (pem, not_after, fingerprint) = match state {
            State::Present { certificate, .. } => {
                (certificate.to_pem().into(), certificate.expiry().into(), certificate.fingerprint().into())
            }
            State::Absent | State::Planned | State::Interrupted => (unknown(), unknown(), unknown()),
        };
        Map::from_iter([
            ("certificate".to_owned(), pem),
            ("not_after".to_owned(), not_after),
            ("fingerprint".to_owned(), fingerprint),
        ])
    }
}

impl CertificateAuthority {
    fn pending(&self) -> PathBuf {
        let mut name = self.key.clone().into_os_string();
        name.push(".new");
        name.into()
    }

    /// Moves the new key into its place.
    fn finish(&self, writer: &mut Writer<'_>) -> Result<(), Failure> {
        let path = self.pending();
        let content = if writer.planning() {
            Content::Bytes(writer.view().fs().read(&path)?)
        } else {
            Content::Staged { sha256: writer.view().fs().sha256(&path)?, path: path.clone() }
        };
        writer.fs().write(&self.key, content, Some(KEY_MODE), Owner::default())?;
        Ok(writer.fs().remove(&path)?)
    }

    fn make(&self) -> Result<(String, Key), Failure> {
        pki::create_authority(&self.common_name, self.days)
            .map_err(|error| Failure::new(format!("cannot make the CA {}: {error}", self.certificate.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{check, check_fails};
    use std::os::unix::fs::PermissionsExt;

    fn authority(root: &std::path::Path) -> CertificateAuthority {
        CertificateAuthority {
            certificate: root.join("ca.crt"),
            key: root.join("ca.key"),
            common_name: "kubernetes-ca".into(),
            days: 3650,
        }
    }

    #[test]
    fn is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let outcome = check(&authority(root.path()), root.path());
        assert!(outcome.changed);
        assert!(!format!("{outcome:?}").contains("PRIVATE"));
        let pem = std::fs::read_to_string(root.path().join("ca.crt")).unwrap();
        assert_eq!(outcome.result["certificate"], Value::from(pem.clone()));
        let certificate = Certificate::from_pem(&pem).unwrap();
        assert_eq!(outcome.result["fingerprint"], Value::from(certificate.fingerprint()));
        assert_eq!((certificate.subject.common_name.as_str(), certificate.days_left()), ("kubernetes-ca", 3649));
        let mode = |name: &str| std::fs::metadata(root.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("ca.crt"), mode("ca.key")), (0o644, 0o600));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
        let mut renamed = authority(root.path());
        renamed.common_name = "other".into();
        assert!(!check(&renamed, root.path()).changed);
    }

    #[test]
    fn an_interrupted_run_is_finished() {
        let root = tempfile::tempdir().unwrap();
        check(&authority(root.path()), root.path());
        let key = std::fs::read(root.path().join("ca.key")).unwrap();
        // Killed after the certificate was written.
        std::fs::rename(root.path().join("ca.key"), root.path().join("ca.key.new")).unwrap();
        assert!(check(&authority(root.path()), root.path()).changed);
        assert_eq!(std::fs::read(root.path().join("ca.key")).unwrap(), key);
        // Killed before: nothing has been signed with that key.
        std::fs::rename(root.path().join("ca.key"), root.path().join("ca.key.new")).unwrap();
        std::fs::remove_file(root.path().join("ca.crt")).unwrap();
        assert!(check(&authority(root.path()), root.path()).changed);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_key_that_others_can_read_is_closed() {
        let root = tempfile::tempdir().unwrap();
        check(&authority(root.path()), root.path());
        std::fs::set_permissions(root.path().join("ca.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(check(&authority(root.path()), root.path()).changed);
    }

    #[test]
    fn is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (certificate, key) = (root.path().join("ca.crt"), root.path().join("ca.key"));
        check(&authority(root.path()), root.path());
        let (pem, key_pem) = (std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap());
        let fails = |expected: &str| {
            let message = check_fails(&authority(root.path()), root.path());
            assert!(message.contains(expected) && message.contains("restore both from a backup"), "{message}");
        };
        std::fs::remove_file(&key).unwrap();
        fails("its key");
        std::fs::write(&key, Key::generate().unwrap().to_pem()).unwrap();
        fails("is not the key of");
        std::fs::write(&key, "garbage").unwrap();
        fails("no private key");
        std::fs::write(&key, key_pem).unwrap();
        std::fs::remove_file(&certificate).unwrap();
        fails("its certificate");
        std::fs::write(&certificate, &pem[..pem.len() / 2]).unwrap();
        fails("no certificate in PEM");
    }
}
