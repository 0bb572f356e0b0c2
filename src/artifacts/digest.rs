//! Digests of files.

use sha2::Digest as _;
use std::fmt;
use std::io::Read;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// An algorithm and a digest in lower-case hex; written `sha256:HEX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    pub fn sha256(hex: &str) -> Option<Self> {
        Self::new(Algorithm::Sha256, hex)
    }

    fn new(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let ok = hex.len() == algorithm.hex_len() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        ok.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, hex) = text.split_once(':').unwrap_or(("", text));
        [Algorithm::Sha256, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .and_then(|algorithm| Self::new(algorithm, hex))
            .ok_or_else(|| format!("`{text}` is not a digest, expected sha256: and 64 or sha512: and 128 hex digits"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Hashes bytes as they pass by: always SHA-256, which is what nodes are told, and SHA-512 where that is expected.
pub struct Hasher {
    sha256: sha2::Sha256,
    sha512: Option<sha2::Sha512>,
    size: u64,
}

/// The digests of a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub sha256: String,
    pub sha512: Option<String>,
    /// In bytes.
    pub size: u64,
}

impl Hasher {
    pub fn new(expected: Algorithm) -> Self {
        let sha512 = (expected == Algorithm::Sha512).then(sha2::Sha512::new);
        Self { sha256: sha2::Sha256::new(), sha512, size: 0 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    pub fn finish(self) -> Hashed {
        Hashed {
            sha256: hex(&self.sha256.finalize()),
            sha512: self.sha512.map(|hasher| hex(&hasher.finalize())),
            size: self.size,
        }
    }

    /// Reads to the end.
    pub fn read(expected: Algorithm, reader: &mut dyn Read) -> std::io::Result<Hashed> {
        let mut hasher = Self::new(expected);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Hashed {
    /// Compares with the expected digest; an error is the digest found.
    pub fn check(&self, expected: &Digest) -> Result<(), Digest> {
        let found = match (expected.algorithm, &self.sha512) {
            (Algorithm::Sha512, Some(hex)) => Digest { algorithm: Algorithm::Sha512, hex: hex.clone() },
            _ => Digest { algorithm: Algorithm::Sha256, hex: self.sha256.clone() },
        };
        if found == *expected { Ok(()) } else { Err(found) }
    }

    /// Whether the digest of that algorithm was computed.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        algorithm == Algorithm::Sha256 || self.sha512.is_some()
    }
}

pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_digests() {
        let text = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        assert_eq!(format!("sha256:{}", "AB".repeat(32)).parse::<Digest>().unwrap().to_string(), text);
        for wrong in ["ab", "sha256:abcd", &format!("sha512:{}", "ab".repeat(32)), &format!("md5:{}", "ab".repeat(16))]
        {
            assert!(wrong.parse::<Digest>().unwrap_err().contains("expected sha256:"), "{wrong}");
        }
    }

    /// The test vectors of FIPS 180-4 for "abc".
    #[test]
    fn hashes() {
        let hashed = Hasher::read(Algorithm::Sha512, &mut &b"abc"[..]).unwrap();
        assert_eq!(hashed.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(hashed.sha512.as_deref().unwrap().starts_with("ddaf35a193617abacc417349ae204131"));
        assert_eq!(hashed.size, 3);
    }
}
