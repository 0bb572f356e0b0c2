//! Private keys: ECDSA P-256, PKCS#8.

use super::PkiError;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// A private key in memory. It cannot be printed, and is wiped when dropped.
pub struct Key(KeyPair);

impl Key {
    /// Makes a new ECDSA P-256 key.
    pub fn generate() -> Result<Self, PkiError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Reads PKCS#8, SEC1 or PKCS#1, of which the last two are what other tools leave behind.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        KeyPair::from_pem(private_key_pem(pem).ok_or(PkiError::Key)?).map(Self).map_err(|_| PkiError::Key)
    }

    /// The private key as PKCS#8 in PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The public key as PKIX in PEM (`PUBLIC KEY`), which `--service-account-key-file` reads.
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub(super) fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// The block of a PEM text that holds the private key. `openssl ecparam` writes the curve's parameters before it.
fn private_key_pem(text: &str) -> Option<&str> {
    let label = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]
        .into_iter()
        .find(|label| text.contains(&format!("-----BEGIN {label}-----")))?;
    let end = format!("-----END {label}-----");
    let start = text.find(&format!("-----BEGIN {label}-----"))?;
    let stop = start + text[start..].find(&end)? + end.len();
    Some(&text[start..stop])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_pem() {
        let key = Key::generate().unwrap();
        let again = Key::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.public_pem(), again.public_pem());
        assert!(key.to_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert!(key.public_pem().starts_with("-----BEGIN PUBLIC KEY-----\n"));
        assert_eq!(format!("{key:?}"), "Key(***)");
    }

    #[test]
    fn reads_what_openssl_writes() {
        for arguments in [
            &["ecparam", "-name", "prime256v1", "-genkey"][..],
            &["genrsa", "-traditional", "2048"],
            &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ] {
            let output = std::process::Command::new("openssl").args(arguments).output().unwrap();
            let pem = String::from_utf8(output.stdout).unwrap();
            assert!(Key::from_pem(&pem).is_ok(), "openssl {arguments:?}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let pem = Key::generate().unwrap().to_pem();
        for text in ["", "x", &pem[..pem.len() / 2], &pem.replace('M', "!")] {
            assert!(matches!(Key::from_pem(text), Err(PkiError::Key)), "{}", text.len());
        }
    }
}
