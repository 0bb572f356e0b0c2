//! Authenticates with the keys that ssh would try: those of the agent, then key files with their certificates.

use super::{Client, Settings};
use crate::transport::ConnectError;
use crate::transport::advice::refused;
use russh::client::Handle;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{self, Algorithm, PrivateKeyWithHashAlg, PublicKey, load_openssh_certificate, load_secret_key};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was tried, to be told when nothing was accepted.
#[derive(Default)]
struct Tried(Vec<String>);

pub(super) async fn authenticate(handle: &mut Handle<Client>, settings: &Settings) -> Result<(), ConnectError> {
    let mut tried = Tried::default();
    if with_agent(handle, settings, &mut tried).await? || with_files(handle, settings, &mut tried).await? {
        return Ok(());
    }
    let what = if tried.0.is_empty() { "there was no key to offer".to_owned() } else { tried.0.join(", ") };
    let who = format!("{}@{}: permission denied ({what})", settings.user, settings.hostname);
    Err(ConnectError::Authentication(refused(&who)))
}

async fn with_agent(handle: &mut Handle<Client>, settings: &Settings, tried: &mut Tried) -> Result<bool, ConnectError> {
    let Some(socket) = &settings.identity_agent else { return Ok(false) };
    // An agent that does not answer is as good as none.
    let Ok(mut agent) = AgentClient::connect_uds(socket).await else { return Ok(false) };
    let Ok(mut identities) = agent.request_identities().await else { return Ok(false) };
    if settings.identities_only {
        let wanted: Vec<_> = settings.identity_files.iter().filter_map(|file| public_key(file)).collect();
        identities.retain(|identity| wanted.iter().any(|key| key.key_data() == identity.public_key().key_data()));
    }
    let rsa = handle.best_supported_rsa_hash().await.ok().flatten().flatten();
    for identity in identities {
        let hash = if matches!(identity.public_key().algorithm(), Algorithm::Rsa { .. }) { rsa } else { None };
        let user = settings.user.as_str();
        let accepted = match identity {
            AgentIdentity::PublicKey { key, comment } => {
                tried.0.push(format!("{comment} of the agent"));
                handle.authenticate_publickey_with(user, key, hash, &mut agent).await
            }
            AgentIdentity::Certificate { certificate, comment } => {
                tried.0.push(format!("certificate {comment} of the agent"));
                handle.authenticate_certificate_with(user, certificate, hash, &mut agent).await
            }
        };
        match accepted {
            Ok(result) if result.success() => return Ok(true),
            // The agent may not be able to use a key that it lists.
            Ok(_) | Err(_) if !handle.is_closed() => {}
            _ => return Err(closed(settings)),
        }
    }
    Ok(false)
}

async fn with_files(handle: &mut Handle<Client>, settings: &Settings, tried: &mut Tried) -> Result<bool, ConnectError> {
    for file in settings.identity_files.iter().filter(|file| file.exists()) {
        let name = file.display();
        let key = match load_secret_key(file, None) {
            Ok(key) => Arc::new(key),
            Err(keys::Error::KeyIsEncrypted) => {
                tried.0.push(format!("{name} needs a passphrase: add it to the agent with ssh-add"));
                continue;
            }
            Err(error) => {
                tried.0.push(format!("{name}: {error}"));
                continue;
            }
        };
        if matches!(key.algorithm(), Algorithm::Rsa { .. }) {
            tried.0.push(format!("{name} is an RSA key, which needs ansible_connection=ssh"));
            continue;
        }
        if let Ok(certificate) = load_openssh_certificate(beside(file, "-cert.pub")) {
            tried.0.push(format!("certificate of {name}"));
            let accepted = handle.authenticate_openssh_cert(&settings.user, key.clone(), certificate).await;
            if accepted.map_err(|_| closed(settings))?.success() {
                return Ok(true);
            }
        }
        tried.0.push(name.to_string());
        let accepted = handle.authenticate_publickey(&settings.user, PrivateKeyWithHashAlg::new(key, None)).await;
        if accepted.map_err(|_| closed(settings))?.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn closed(settings: &Settings) -> ConnectError {
    let who = format!("{}@{}: the host closed the connection", settings.user, settings.hostname);
    ConnectError::Authentication(refused(&who))
}

/// The public key of a key file, from the file beside it.
fn public_key(file: &Path) -> Option<PublicKey> {
    keys::load_public_key(beside(file, ".pub")).ok().or_else(|| keys::load_public_key(file).ok())
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
