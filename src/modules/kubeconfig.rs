//! `kubeconfig`: a file with which a component reaches the API server. kprov's own module.
//!
//! The file names a server, the CA and a client certificate with its key, by path or, with `embed`, by content. It is
//! always written the same way, 0600, and a diff never shows a key.

use super::attributes::octal;
use super::{Applied, Diff, Failure, Module, Needs};
use crate::pki::{Credential, Kubeconfig as Config};
use crate::system::{Content, Owner, SystemError, View, Writer};
use crate::value::Map;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MODE: u32 = 0o600;

/// The desired kubeconfig.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kubeconfig {
    pub path: PathBuf,
    /// `https://HOST:PORT`
    pub server: String,
    pub ca_certificate: String,
    pub client_certificate: String,
    pub client_key: String,
    /// Holds the contents of the three files instead of their paths.
    pub embed: bool,
    pub user: String,
    pub cluster: String,
    pub context: String,
}

#[cfg(feature = "controller")]
impl Kubeconfig {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        let (user, cluster) = (args.str("user")?, args.opt_str("cluster")?.unwrap_or_else(|| "kubernetes".to_owned()));
        let this = Self {
            path: args.str("path")?.into(),
            server: args.str("server")?,
            ca_certificate: args.str("ca_certificate")?,
            client_certificate: args.str("client_certificate")?,
            client_key: args.str("client_key")?,
            embed: args.bool("embed", false)?,
            context: args.opt_str("context")?.unwrap_or_else(|| format!("{user}@{cluster}")),
            user,
            cluster,
        };
        args.finish()?;
        if !this.server.starts_with("https://") {
            let message = format!("`server` is {}, expected https://HOST:PORT", this.server);
            return Err(super::args::ArgError::new("server", message));
        }
        Ok(this)
    }
}

pub struct State {
    /// `None`: known after apply, which only `embed` makes so.
    desired: Option<Zeroizing<String>>,
    /// What is there; an inner `None` is known after apply.
    found: Option<Option<Zeroizing<String>>>,
    mode: Option<u32>,
}

pub struct Change {
    text: bool,
    mode: bool,
}

impl Module for Kubeconfig {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let found = match view.fs().read_opt(&self.path) {
            Err(SystemError::Unknown) => Some(None),
            Err(error) => return Err(error.into()),
            // What is not text is replaced like any other text.
            Ok(bytes) => bytes.map(|bytes| Some(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))),
        };
        let mode = view.fs().stat(&self.path)?.map(|meta| meta.mode);
        Ok(State { desired: self.text(view)?, found, mode })
    }

    fn diff(&self, state: &State) -> Option<Change> {
        let text = match (&state.desired, &state.found) {
            (_, None) => true,
            // Written by an earlier task of the plan: by this one, when it is asked a second time.
            (_, Some(None)) => false,
            (None, Some(Some(_))) => true,
            (Some(desired), Some(Some(found))) => desired != found,
        };
        let mode = state.mode.is_some_and(|mode| mode != MODE);
        (text || mode).then_some(Change { text, mode })
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        let path = self.path.display().to_string();
        let mut diffs = Vec::new();
        if change.text {
            let before = state.found.as_ref().and_then(Option::as_ref).map(|text| Config::redacted(text));
            match state.desired.as_ref().map(|text| Config::redacted(text)) {
                None => diffs.push(Diff::Fields {
                    subject: path.clone(),
                    fields: vec![("embedded".to_owned(), None, Some("known after apply".to_owned()))],
                }),
                after if after == before => diffs.push(Diff::Note(format!("{path}: what is not shown of it changes"))),
                after => diffs.push(Diff::Text { path: path.clone(), before, after }),
            }
        }
        if change.mode {
            let before = state.mode.map(octal);
            let fields = vec![("mode".to_owned(), before, Some(octal(MODE)))];
            diffs.push(Diff::Fields { subject: path, fields });
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
        let mut after = None;
        if change.text {
            let content = match &state.desired {
                Some(text) => Content::Bytes(text.as_bytes().to_vec()),
                None => {
                    let unknown = self.paths().map(|path| writer.view().fs().after(Path::new(path)));
                    let unknown = unknown.into_iter().collect::<Result<Vec<_>, _>>()?;
                    Content::Unknown(after.insert(unknown.into_iter().flatten().next().unwrap_or_default()).clone())
                }
            };
            writer.fs().write(&self.path, content, Some(MODE), Owner::default())?;
        } else if change.mode {
            let path = writer.view().fs().resolve(&self.path)?;
            writer.fs().chmod(&path, MODE)?;
        }
        Ok(Applied::known_after(after, self.result(&state)))
    }

    fn result(&self, _state: &State) -> Map {
        Map::from_iter([("path".to_owned(), self.path.display().to_string().into())])
    }
}

impl Kubeconfig {
    /// The files with the credentials.
    fn paths(&self) -> [&String; 3] {
        [&self.ca_certificate, &self.client_certificate, &self.client_key]
    }

    /// The desired text; `None` where an embedded file is only planned.
    fn text(&self, view: View<'_>) -> Result<Option<Zeroizing<String>>, Failure> {
        let paths = self.paths();
        let mut embedded = Vec::new();
        if self.embed {
            for path in paths {
                match view.fs().read(Path::new(path)) {
                    Ok(bytes) => {
                        let text = String::from_utf8(bytes).map_err(|_| Failure::new(format!("{path} is not PEM")))?;
                        embedded.push(Zeroizing::new(text));
                    }
                    Err(SystemError::Unknown) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let credentials = match embedded.as_slice() {
            [authority, certificate, key] => {
                [authority, certificate, key].map(|text| Credential::Embedded(text.as_str()))
            }
            _ => paths.map(|path| Credential::Path(path)),
        };
        let [certificate_authority, client_certificate, client_key] = credentials;
        let config = Config {
            server: &self.server,
            cluster: &self.cluster,
            user: &self.user,
            context: &self.context,
            certificate_authority,
            client_certificate,
            client_key,
        };
        Ok(Some(config.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::converge;
    use crate::modules::testing::{TestNeeds, check, check_fails};
    use crate::pki::{Key, create_authority};
    use crate::system::{Mode, System};
    use std::os::unix::fs::PermissionsExt;

    fn desired(root: &Path, embed: bool) -> Kubeconfig {
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        Kubeconfig {
            path: path("kubelet.conf").into(),
            server: "https://10.0.0.1:6443".into(),
            ca_certificate: path("ca.crt"),
            client_certificate: path("ca.crt"),
            client_key: path("ca.key"),
            embed,
            user: "kubelet".into(),
            cluster: "kubernetes".into(),
            context: "kubelet@kubernetes".into(),
        }
    }

    fn put_pair(root: &Path) {
        let (certificate, key) = create_authority("x", 10).unwrap();
        std::fs::write(root.join("ca.crt"), certificate).unwrap();
        std::fs::write(root.join("ca.key"), key.to_pem()).unwrap();
    }

    #[test]
    fn refers_to_files_and_is_private() {
        let root = tempfile::tempdir().unwrap();
        let mut config = desired(root.path(), false);
        assert!(check(&config, root.path()).changed);
        let mode = std::fs::metadata(&config.path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert!(!check(&config, root.path()).changed);
        config.server = "https://10.0.0.2:6443".into();
        let Diff::Text { before, after, .. } = &check(&config, root.path()).diff[0] else { panic!() };
        assert!(before.as_ref().unwrap().contains("10.0.0.1") && after.as_ref().unwrap().contains("10.0.0.2"));
        std::fs::set_permissions(&config.path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(check(&config, root.path()).changed);
    }

    #[test]
    fn embeds_and_follows_the_files_without_showing_the_key() {
        let root = tempfile::tempdir().unwrap();
        let config = desired(root.path(), true);
        assert!(check_fails(&config, root.path()).contains("ca.crt"));
        for _ in 0..2 {
            put_pair(root.path());
            let outcome = check(&config, root.path());
            assert!(outcome.changed);
            let text = std::fs::read_to_string(&config.path).unwrap();
            let data = text.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
            assert!(!format!("{outcome:?}").contains(&data[40..80]));
        }
        std::fs::write(root.path().join("ca.key"), Key::generate().unwrap().to_pem()).unwrap();
        assert!(matches!(check(&config, root.path()).diff.as_slice(), [Diff::Note(_)]));
    }

    #[test]
    fn in_a_plan_what_is_embedded_may_be_unknown() {
        let root = tempfile::tempdir().unwrap();
        put_pair(root.path());
        let mut plan = System::new(Mode::Plan);
        plan.writer().fs().write(&root.path().join("ca.key"), Content::later(), None, Owner::default()).unwrap();
        let outcome = converge(&desired(root.path(), true), &mut plan, &mut TestNeeds::default()).unwrap();
        assert!(outcome.changed);
        assert_eq!(outcome.grade, crate::modules::Grade::KnownAfterApply);
    }
}
