//! Sizes of memory and disks as people write them: `512M`, `2G`, and per node `n3=512M`.

use crate::source::InputError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes. The units are powers of 1024, as in the kernel's own files: K, M, G, T.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub u64);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Size {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        let bad = || InputError::new(format!("`{text}` is not a size, write for example 512M or 2G"));
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text[number.len()..].to_ascii_uppercase();
        let mut letters = unit.chars();
        let letter = letters.next().ok_or_else(bad)?;
        let shift = UNITS.iter().find(|(name, _)| *name == letter).ok_or_else(bad)?.1;
        if !matches!(letters.as_str(), "" | "B" | "I" | "IB") {
            return Err(bad());
        }
        let count: u64 = number.parse().map_err(|_| bad())?;
        Ok(Self(count.checked_mul(1 << shift).ok_or_else(bad)?))
    }
}

/// In the largest unit that is exact, so that parsing gives the same number again.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// One `--memory` or `--disk`: for one node, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeFor {
    pub node: Option<String>,
    pub size: Size,
}

impl FromStr for SizeFor {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        match text.split_once('=') {
            Some((node, size)) => Ok(Self { node: Some(node.to_owned()), size: size.parse()? }),
            None => Ok(Self { node: None, size: text.parse()? }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("512M", 512 << 20), ("2G", 2 << 30), ("1gib", 1 << 30), ("131072K", 128 << 20), ("1T", 1 << 40)]
        {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
        for text in ["", "512", "M", "12X", "1.5G", "-1G", "2GG", "99999999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(Size(512 << 20).to_string(), "512M");
        assert_eq!(Size(3 << 30).to_string(), "3G");
        assert_eq!(Size(1536 << 20).to_string(), "1536M");
    }

    #[test]
    fn for_one_node_or_for_all() {
        let one: SizeFor = "n3=512M".parse().unwrap();
        assert_eq!((one.node.as_deref(), one.size), (Some("n3"), Size(512 << 20)));
        assert_eq!("2G".parse::<SizeFor>().unwrap().node, None);
        assert!("n3=".parse::<SizeFor>().is_err());
    }
}
