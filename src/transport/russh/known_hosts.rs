//! Checks the key that a host shows against files of known_hosts(5): plain and hashed names, `@revoked`.
//!
//! Names with wildcards and `@cert-authority` are not read: such a host is unknown here, never trusted by mistake.

use crate::transport::advice::{changed_key, unknown_key};
use crate::transport::{ConnectError, HostKeys};
use russh::Preferred;
use russh::keys::known_hosts::{known_host_keys_path, learn_known_hosts_path};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use std::borrow::Cow;
use std::path::PathBuf;

pub(super) struct KnownHosts {
    name: String,
    port: u16,
    policy: HostKeys,
    files: Vec<PathBuf>,
    /// The keys of this host, each with `FILE:LINE`.
    keys: Vec<(String, PublicKey)>,
    /// The keys of any host that must not be trusted any more, as base64.
    revoked: Vec<String>,
}

impl KnownHosts {
    pub(super) fn read(name: String, port: u16, files: &[PathBuf], policy: HostKeys) -> Self {
        let mut known = Self { name, port, policy, files: files.to_vec(), keys: Vec::new(), revoked: Vec::new() };
        for file in files {
            // What cannot be read, or parsed, makes no key known.
            let text = std::fs::read_to_string(file).unwrap_or_default();
            for (_, key) in known_host_keys_path(&known.name, port, file).unwrap_or_default() {
                let line = text.lines().position(|line| encoded(&key).is_some_and(|key| line.contains(&key)));
                known.keys.push((format!("{}:{}", file.display(), line.map_or(1, |line| line + 1)), key));
            }
            let revoked = text.lines().filter_map(|line| line.strip_prefix("@revoked"));
            known.revoked.extend(revoked.filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned));
        }
        known
    }

    /// The algorithms with those of the known keys first, so that the host shows a key that can be compared.
    pub(super) fn preferred(&self) -> Preferred {
        let mut algorithms = Preferred::DEFAULT.key.to_vec();
        algorithms.sort_by_key(|algorithm| !self.keys.iter().any(|(_, key)| key.algorithm() == *algorithm));
        Preferred { key: Cow::Owned(algorithms), ..Preferred::DEFAULT }
    }

    pub(super) fn check(&self, shown: &PublicKeyOrCertificate) -> Result<(), ConnectError> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            let text =
                format!("{} shows a certificate, which russh does not check; use ansible_connection=ssh", self.name);
            return Err(ConnectError::HostKey(text));
        };
        if self.policy == HostKeys::Ignore {
            return Ok(());
        }
        if encoded(key).is_none_or(|key| self.revoked.contains(&key)) {
            return Err(ConnectError::HostKey(format!("the key of {} is revoked in known_hosts", self.name)));
        }
        if self.keys.iter().any(|(_, known)| known.key_data() == key.key_data()) {
            return Ok(());
        }
        if let Some((place, _)) = self.keys.first() {
            let place = format!(" (the known one: {place})");
            return Err(ConnectError::HostKey(changed_key(&self.name, Some(self.port), &place)));
        }
        match (self.policy, self.files.first()) {
            (HostKeys::AcceptNew, Some(file)) => {
                learn_known_hosts_path(&self.name, self.port, key, file).map_err(|error| {
                    ConnectError::HostKey(format!(
                        "the key of {} cannot be added to {}: {error}",
                        self.name,
                        file.display()
                    ))
                })
            }
            _ => {
                let fingerprint = format!(" ({})", key.fingerprint(HashAlg::Sha256));
                Err(ConnectError::HostKey(unknown_key(&self.name, Some(self.port), &fingerprint)))
            }
        }
    }
}

/// A key as it stands in files.
fn encoded(key: &PublicKey) -> Option<String> {
    key.to_openssh().ok()?.split(' ').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn check(text: &str, policy: HostKeys, shown: &str) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        fs::write(&file, text).unwrap();
        let shown = PublicKey::from_openssh(shown).unwrap().into();
        KnownHosts::read("n1".into(), 2222, &[file], policy).check(&shown).map_err(|error| error.to_string())
    }

    #[test]
    fn known_changed_unknown() {
        let known = format!("# n1\n[n1]:2222 {A}\n");
        assert!(check(&known, HostKeys::Strict, A).is_ok());
        let error = check(&known, HostKeys::Strict, B).unwrap_err();
        assert!(error.contains("has changed") && error.contains("known_hosts:2"), "{error}");
        assert!(check(&known, HostKeys::AcceptNew, B).unwrap_err().contains("has changed"));
        let error = check(&format!("n1 {A}\n"), HostKeys::Strict, A).unwrap_err();
        assert!(error.contains("not known (SHA256:"), "another port is another host: {error}");
        assert!(check("", HostKeys::AcceptNew, A).is_ok());
        assert!(check(&known, HostKeys::Ignore, B).is_ok());
    }

    #[test]
    fn a_revoked_key_is_refused_even_where_it_is_known() {
        let known = format!("[n1]:2222 {A}\n@revoked * {A}\n");
        assert!(check(&known, HostKeys::Strict, A).unwrap_err().contains("revoked"));
    }
}
