//! What can go wrong between a source and a verified file.

use super::digest::Digest;
use std::io;
use std::path::PathBuf;

/// Why an artifact cannot be had. Says where it was looked for, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("{artifact}: {location} has the wrong digest: expected {expected}, found {found}")]
    WrongDigest { artifact: String, location: String, expected: Digest, found: Digest },

    #[error("{artifact}: {} is listed in SHA256SUMS, but it is not there", path.display())]
    Missing { artifact: String, path: PathBuf },

    #[error("{artifact} cannot be had from any source: {}", reasons.join("; "))]
    Unavailable { artifact: String, reasons: Vec<String> },

    #[error("{} has no file `{member}`{}", archive.display(), near.as_ref().map(|n| format!(", but `{n}`")).unwrap_or_default())]
    NoMember { archive: PathBuf, member: String, near: Option<String> },

    #[error("{} is not a tar archive that can be read: {source}", archive.display())]
    Archive { archive: PathBuf, source: io::Error },

    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error("no artifact with the digest {0} was resolved in this run")]
    Unknown(String),
}

impl ArtifactError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::WrongDigest { .. } => {
                "somebody changed the file, or it was made anew without its list: fetch or build it again, and never \
                 install it as it is"
                    .to_owned()
            }
            Self::Missing { .. } => "half a directory is no source: build or copy it again".to_owned(),
            Self::Unavailable { .. } => {
                "make one of the sources reachable, or name another one in artifact_sources".to_owned()
            }
            Self::NoMember { .. } | Self::Archive { .. } => {
                "compare the members and the path of this artifact in the variable `artifacts` with the file".to_owned()
            }
            Self::Io { .. } => {
                "look at the permissions and the free space there; XDG_CACHE_HOME moves the cache".to_owned()
            }
            Self::Unknown(_) => "this is a mistake in kprov: please report it".to_owned(),
        }
    }
}
