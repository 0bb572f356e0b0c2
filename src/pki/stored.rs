//! Keys and certificates in files on the node, as an earlier task of the plan leaves them.

use super::{Certificate, Key, PkiError};
use crate::system::{SystemError, View};
use std::path::Path;
use zeroize::Zeroizing;

/// What a file was found to hold.
pub enum Stored<T> {
    Absent,
    /// A plan cannot know it.
    Unknown,
    /// Something is there, but not that.
    Damaged,
    Is(T),
}

impl<T> Stored<T> {
    pub fn as_ref(&self) -> Stored<&T> {
        match self {
            Self::Absent => Stored::Absent,
            Self::Unknown => Stored::Unknown,
            Self::Damaged => Stored::Damaged,
            Self::Is(value) => Stored::Is(value),
        }
    }

    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            _ => None,
        }
    }
}

/// The first certificate in a PEM file.
pub fn stored_certificate(view: View<'_>, path: &Path) -> Result<Stored<Certificate>, SystemError> {
    stored(view, path, Certificate::from_pem)
}

/// The private key in a PEM file.
pub fn stored_key(view: View<'_>, path: &Path) -> Result<Stored<Key>, SystemError> {
    stored(view, path, Key::from_pem)
}

fn stored<T>(
    view: View<'_>,
    path: &Path,
    parse: impl Fn(&str) -> Result<T, PkiError>,
) -> Result<Stored<T>, SystemError> {
    Ok(match view.fs().read_opt(path) {
        Err(SystemError::Unknown) => Stored::Unknown,
        Err(error) => return Err(error),
        Ok(None) => Stored::Absent,
        Ok(Some(bytes)) => {
            let bytes = Zeroizing::new(bytes);
            match std::str::from_utf8(&bytes).ok().and_then(|text| parse(text).ok()) {
                Some(value) => Stored::Is(value),
                None => Stored::Damaged,
            }
        }
    })
}
