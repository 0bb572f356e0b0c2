//! The agent's binary: found, read and digested once per run.

use crate::agent::BUILD;
use crate::agent::needs::hex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The file that nodes run, in memory.
#[derive(Debug)]
pub struct AgentBinary {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// Digest in hex; names the agent's build and its directory on a node.
    pub sha256: String,
    /// What `uname -m` prints where it runs; `None` where this is not known.
    pub(super) machine: Option<&'static str>,
}

/// The agent's binary cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("cannot read the agent {path}: {source}; build it (cargo build --bin kprov-agent) or name it in KPROV_AGENT", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a program for Linux (ELF)", path = path.display())]
    NotElf { path: PathBuf },
    #[error("{path} is the agent of another build than this kprov; build both together (make build), or name the right one in KPROV_AGENT", path = path.display())]
    OtherBuild { path: PathBuf },
}

impl AgentBinary {
    /// Reads the file that `KPROV_AGENT` names, else `kprov-agent` beside this program. It has to be of this build: the
    /// two ends of the wire have no version to agree on.
    pub fn locate() -> Result<Self, BinaryError> {
        let path = match std::env::var_os("KPROV_AGENT") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()
                .map_err(|source| BinaryError::Read { path: "kprov-agent".into(), source })?
                .with_file_name("kprov-agent"),
        };
        let binary = Self::read(&path)?;
        if !contains(&binary.bytes, BUILD.as_bytes()) {
            return Err(BinaryError::OtherBuild { path });
        }
        Ok(binary)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, BinaryError> {
        let path = path.to_owned();
        match std::fs::read(&path) {
            Err(source) => Err(BinaryError::Read { path, source }),
            Ok(bytes) if !bytes.starts_with(b"\x7fELF") => Err(BinaryError::NotElf { path }),
            Ok(bytes) => Ok(Self { path, sha256: hex(&Sha256::digest(&bytes)), machine: machine(&bytes), bytes }),
        }
    }
}

/// Reads `e_machine` of an ELF header, see elf(5).
fn machine(elf: &[u8]) -> Option<&'static str> {
    match elf.get(18..20)? {
        [62, 0] => Some("x86_64"),
        [183, 0] => Some("aarch64"),
        [243, 0] => Some("riscv64"),
        _ => None,
    }
}

/// Whether `needle` is somewhere in `bytes`: Horspool's search, which skips most of them.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let last = needle.len() - 1;
    let mut at = 0;
    while let Some(window) = bytes.get(at..=at + last) {
        if window == needle {
            return true;
        }
        at += needle[..last].iter().rposition(|byte| *byte == window[last]).map_or(needle.len(), |i| last - i);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_is() {
        for text in ["needle", "xneedle", "xxneeneedlex", "needneedle", &format!("{}needle", "e".repeat(99))] {
            assert!(contains(text.as_bytes(), b"needle"), "{text}");
        }
        for text in ["", "needl", "needlneedl", "eedle needl e"] {
            assert!(!contains(text.as_bytes(), b"needle"), "{text}");
        }
    }
}
