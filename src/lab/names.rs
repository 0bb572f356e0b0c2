//! The name of a lab, and the names of what it makes on the machine.
//!
//! Everything a lab makes is named after it, so that labs live side by side and `down` finds what a killed `up` left.

use crate::source::InputError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A lab's name: 1 to 32 of `a-z 0-9 -`, neither end a hyphen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn bridge(&self) -> String {
        format!("kl-{}", self.tag())
    }

    /// The outer end of a node's cable, and its network namespace.
    pub(super) fn link(&self, node: &str) -> String {
        format!("kl-{}-{node}", self.tag())
    }

    /// The iptables chain, in `filter` and in `nat`.
    pub(super) fn chain(&self) -> String {
        format!("KPROV-LAB-{}", self.tag())
    }

    /// At most 8 characters: an interface name holds 15 (`IFNAMSIZ` - 1), and `kl-TAG-n99` has to fit.
    fn tag(&self) -> String {
        if self.0.len() <= 8 {
            return self.0.clone();
        }
        let digest = crate::lab::rootfs::hex_digest(self.0.as_bytes());
        format!("{}{}", self.0[..3].trim_end_matches('-'), &digest[..5])
    }
}

impl FromStr for LabName {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let letters = !text.is_empty() && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !letters || text.len() > 32 || text.starts_with('-') || text.ends_with('-') {
            return Err(InputError::new(format!(
                "`{text}` is not a name for a lab: 1 to 32 of a-z, 0-9 and `-`, no `-` at either end"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for LabName {
    type Error = InputError;

    fn try_from(text: String) -> Result<Self, InputError> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused() {
        for text in ["", "Lab", "a/b", "-a", "a-", "ä", ".", &"a".repeat(33)] {
            assert!(text.parse::<LabName>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_fit_an_interface_and_differ() {
        let names = ["lab", "conformance-a", "conformance-b", "a-very-long-name-for-a-lab"]
            .map(|n| n.parse::<LabName>().unwrap());
        let links: std::collections::BTreeSet<_> = names.iter().map(|name| name.link("n99")).collect();
        assert_eq!(links.len(), names.len());
        assert!(links.iter().all(|link| link.len() <= 15), "{links:?}");
        assert_eq!(names[0].bridge(), "kl-lab");
    }
}
