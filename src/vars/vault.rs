//! Ansible Vault: decrypts files and `!vault` values. Encrypting is left to `ansible-vault`.
//!
//! Format (Ansible's user guide, "Format of files encrypted with Ansible Vault"): a header line
//! `$ANSIBLE_VAULT;1.1;AES256`, then hex of three hex texts on lines of their own: salt, HMAC, ciphertext. PBKDF2 with
//! SHA-256 and 10,000 rounds makes the cipher key, the HMAC key and the counter block from the password and the salt.

use super::Secret;
use aes::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const HEADER: &str = "$ANSIBLE_VAULT;";
const ROUNDS: u32 = 10_000;

/// The passwords that vaulted text is tried with.
#[derive(Clone, Debug, Default)]
pub struct Vault {
    passwords: Vec<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("encrypted with ansible-vault, and there is no vault password")]
    NoPassword,
    #[error("none of the vault passwords decrypts this")]
    WrongPassword,
    #[error("not in the format of ansible-vault: {0}")]
    Malformed(&'static str),
    #[error("cannot read the vault password file {0}: {1}")]
    PasswordFile(String, String),
}

impl Vault {
    /// Passwords from files, as `--vault-password-file` names them. An executable file is run and prints the password.
    pub fn from_files<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<Self, VaultError> {
        let read = |path: &Path| -> std::io::Result<String> {
            if std::fs::metadata(path)?.permissions().mode() & 0o111 == 0 {
                return std::fs::read_to_string(path);
            }
            let output = std::process::Command::new(path.canonicalize()?).output()?;
            if !output.status.success() {
                return Err(std::io::Error::other(format!("the script ended with {}", output.status)));
            }
            String::from_utf8(output.stdout).map_err(std::io::Error::other)
        };
        let mut passwords = Vec::new();
        for path in files {
            let text =
                read(path).map_err(|error| VaultError::PasswordFile(path.display().to_string(), error.to_string()))?;
            passwords.push(Secret::new(text.trim()));
        }
        Ok(Self { passwords })
    }

    /// Whether a text is encrypted.
    pub fn is_encrypted(text: &str) -> bool {
        text.starts_with(HEADER)
    }

    pub fn decrypt(&self, text: &str) -> Result<String, VaultError> {
        let sealed = Sealed::parse(text)?;
        if self.passwords.is_empty() {
            return Err(VaultError::NoPassword);
        }
        let plain =
            self.passwords.iter().find_map(|password| sealed.open(password)).ok_or(VaultError::WrongPassword)?;
        String::from_utf8(plain).map_err(|_| VaultError::Malformed("the content is not UTF-8 text"))
    }
}

struct Sealed {
    salt: Vec<u8>,
    hmac: Vec<u8>,
    ciphertext: Vec<u8>,
}

impl Sealed {
    fn parse(text: &str) -> Result<Self, VaultError> {
        let (header, body) =
            text.trim().split_once('\n').ok_or(VaultError::Malformed("no content after the header"))?;
        let mut header = header.trim().split(';').skip(1);
        if !matches!(header.next(), Some("1.1" | "1.2")) || header.next() != Some("AES256") {
            return Err(VaultError::Malformed("expected version 1.1 or 1.2 and cipher AES256"));
        }
        let hex: String = body.split_whitespace().collect();
        let inner = unhex(hex.as_bytes()).ok_or(VaultError::Malformed("expected hexadecimal digits"))?;
        let parts: Option<Vec<_>> = inner.split(|&b| b == b'\n').map(unhex).collect();
        match <[Vec<u8>; 3]>::try_from(parts.unwrap_or_default()) {
            Ok([salt, hmac, ciphertext]) => Ok(Self { salt, hmac, ciphertext }),
            Err(_) => Err(VaultError::Malformed("expected salt, HMAC and ciphertext")),
        }
    }

    /// The plain text, when the password is the right one.
    fn open(&self, password: &Secret) -> Option<Vec<u8>> {
        let mut derived = [0u8; 80];
        pbkdf2::pbkdf2_hmac::<Sha256>(password.expose().as_bytes(), &self.salt, ROUNDS, &mut derived);
        let (cipher_key, rest) = derived.split_at(32);
        let (hmac_key, counter) = rest.split_at(32);
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(hmac_key).ok()?;
        mac.update(&self.ciphertext);
        mac.verify_slice(&self.hmac).ok()?;
        let mut plain = self.ciphertext.clone();
        ctr::Ctr128BE::<aes::Aes256>::new_from_slices(cipher_key, counter).ok()?.apply_keystream(&mut plain);
        // PKCS#7 padding; authenticated above.
        let padding = usize::from(*plain.last()?);
        plain.truncate(plain.len().checked_sub(padding)?);
        Some(plain)
    }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |b: u8| char::from(b).to_digit(16);
    let pair = |pair: &[u8]| Some((nibble(*pair.first()?)? * 16 + nibble(*pair.get(1)?)?) as u8);
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by ansible-vault of ansible-core 2.19.14 with the password `kestrel-42`.
    const ENCRYPTED: &str = "$ANSIBLE_VAULT;1.1;AES256\n\
        35623132326466616231306539353230346339356364646131343430646330376266323664316631\n\
        3462336366386332613064383139666661616132306363620a626261333435653137323637313231\n\
        61343332303336653032386561303032303738376465663632393537323633356331396137646166\n\
        6332346563643733310a613536386536656331303765336464346666313737613435303466323564\n\
        35323333626162346262303734323964343564636163316632326663666330323864";

    fn vault(password: &str) -> Vault {
        Vault { passwords: vec![Secret::new("another"), Secret::new(password)] }
    }

    #[test]
    fn decrypts_what_ansible_vault_wrote() {
        assert_eq!(vault("kestrel-42").decrypt(ENCRYPTED).unwrap(), "db_password: s3cret\nport: 5432\n");
    }

    #[test]
    fn says_why_it_cannot_decrypt() {
        assert_eq!(vault("wrong").decrypt(ENCRYPTED), Err(VaultError::WrongPassword));
        assert_eq!(Vault::default().decrypt(ENCRYPTED), Err(VaultError::NoPassword));
        assert!(matches!(vault("x").decrypt("$ANSIBLE_VAULT;1.1;AES256\nzz"), Err(VaultError::Malformed(_))));
        assert!(matches!(vault("x").decrypt("$ANSIBLE_VAULT;1.0;AES\n61"), Err(VaultError::Malformed(_))));
        let damaged = ENCRYPTED.replacen("3", "4", 1);
        assert!(vault("kestrel-42").decrypt(&damaged).is_err());
    }

    #[test]
    fn a_password_comes_from_a_file_or_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "kestrel-42\n").unwrap();
        assert!(Vault::from_files([file.as_path()]).unwrap().decrypt(ENCRYPTED).is_ok());
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\necho kestrel-42\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Vault::from_files([script.as_path()]).unwrap().decrypt(ENCRYPTED).is_ok());
        assert!(Vault::from_files([dir.path().join("none").as_path()]).is_err());
    }
}
