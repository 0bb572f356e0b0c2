//! What kprov tells ssh about a host, and what ssh makes of it together with the user's files.
//!
//! Both SSH transports start from the same generated ssh_config(5): `openssh` hands it to ssh, `russh` asks `ssh -G` for the
//! settings that come out (`Match`, `Include` and tokens evaluated) and follows them itself.

use super::{ConnectError, HostKeys, Target};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Writes the configuration for a target.
///
/// What is said about this host stands under its own name, because ssh hands the file on to the ssh that makes a jump.
pub(super) fn write(target: &Target) -> Result<String, ConnectError> {
    if target.address.is_empty() || target.address.starts_with('-') || target.address.contains(char::is_whitespace) {
        return Err(ConnectError::Other(format!("`{}` is not the name or address of a host", target.address)));
    }
    let mut text = format!("Host {}\n    LogLevel INFO\n", target.address);
    if target.host_keys == HostKeys::Ignore {
        text.push_str("    UserKnownHostsFile /dev/null\n");
    } else if !target.known_hosts.is_empty() {
        let files: Result<Vec<_>, _> = target.known_hosts.iter().map(|file| quoted(file)).collect();
        let _ = writeln!(text, "    UserKnownHostsFile {}", files?.join(" "));
    }
    for (key, value) in &target.options {
        let _ = writeln!(text, "    {key} {value}");
    }
    // The ssh that makes a jump must not ask anything either.
    text.push_str("Host *\n    BatchMode yes\n");
    match &target.ssh_config {
        Some(file) => drop(writeln!(text, "    Include {}", quoted(file)?)),
        None => text.push_str("    Include ~/.ssh/config\n    Include /etc/ssh/ssh_config\n"),
    }
    // Ours where the user has said nothing: a link that is dead is noticed after 15 s.
    text.push_str("Host *\n    ServerAliveInterval 5\n    ServerAliveCountMax 3\n");
    Ok(text)
}

/// A path between quotes, in which ssh knows no escapes.
fn quoted(path: &Path) -> Result<String, ConnectError> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\n', '%']) => Ok(format!("\"{text}\"")),
        _ => Err(ConnectError::Other(format!("{}: ssh cannot be told of a file of this name", path.display()))),
    }
}

/// The settings of ssh for one host, as far as a client that is not ssh follows them.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) hostname: String,
    pub(super) host_key_alias: Option<String>,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) identity_files: Vec<PathBuf>,
    pub(super) identities_only: bool,
    /// Socket of the authentication agent.
    pub(super) identity_agent: Option<PathBuf>,
    /// The user's first, then the system's.
    pub(super) known_hosts: Vec<PathBuf>,
    /// Hosts to go through, first to last: `[user@]host[:port]`.
    pub(super) jumps: Vec<String>,
    pub(super) proxy_command: Option<String>,
    pub(super) alive_interval: u64,
    pub(super) alive_count: usize,
}

/// Asks ssh for the settings of `host`, with `arguments` before it on the command line.
pub(super) async fn resolve(config: &Path, arguments: &[String], host: &str) -> Result<Settings, ConnectError> {
    let output = tokio::process::Command::new("ssh")
        .arg("-G")
        .arg("-F")
        .arg(config)
        .args(arguments)
        .args(["--", host])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            ConnectError::Other(format!("cannot run `ssh -G`, which reads ssh_config for russh: {error}"))
        })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Err(ConnectError::Other(format!("ssh does not accept its configuration: {}", line.trim())));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads what `ssh -G` prints: a keyword in lower case and its value per line.
fn parse(text: &str) -> Settings {
    let mut settings = Settings { port: 22, identity_agent: agent("SSH_AUTH_SOCK"), ..Settings::default() };
    let mut global = Vec::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        match key {
            "hostname" => settings.hostname = value.to_owned(),
            "hostkeyalias" => settings.host_key_alias = Some(value.to_owned()),
            "port" => settings.port = value.parse().unwrap_or(22),
            "user" => settings.user = value.to_owned(),
            "identityfile" => settings.identity_files.push(expand(value)),
            "identitiesonly" => settings.identities_only = value == "yes",
            "identityagent" => settings.identity_agent = agent(value),
            "userknownhostsfile" => settings.known_hosts = value.split(' ').map(expand).collect(),
            "globalknownhostsfile" => global = value.split(' ').map(expand).collect(),
            "proxyjump" if value != "none" => settings.jumps = value.split(',').map(str::to_owned).collect(),
            "proxycommand" if value != "none" => settings.proxy_command = Some(value.to_owned()),
            "serveraliveinterval" => settings.alive_interval = value.parse().unwrap_or(0),
            "serveralivecountmax" => settings.alive_count = value.parse().unwrap_or(3),
            _ => {}
        }
    }
    settings.known_hosts.append(&mut global);
    settings
}

/// `IdentityAgent`: a path, the name of a variable that holds one, or none.
fn agent(value: &str) -> Option<PathBuf> {
    match value {
        "none" => None,
        "SSH_AUTH_SOCK" => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        value => match value.strip_prefix('$') {
            Some(variable) => std::env::var_os(variable).map(PathBuf::from),
            None => Some(expand(value)),
        },
    }
}

fn expand(path: &str) -> PathBuf {
    super::target::home(path.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ssh_prints() {
        let settings = parse(
            "host n1\nuser ops\nhostname 192.0.2.1\nport 2222\nidentityfile /k/a\nidentityfile /k/b\nidentitiesonly yes\n\
             userknownhostsfile /k/known /k/known2\nglobalknownhostsfile /etc/known\nproxyjump ops@gate:22,inner\n\
             identityagent none\nserveraliveinterval 5\n",
        );
        assert_eq!((settings.hostname.as_str(), settings.port, settings.user.as_str()), ("192.0.2.1", 2222, "ops"));
        assert_eq!(settings.identity_files, [PathBuf::from("/k/a"), PathBuf::from("/k/b")]);
        assert_eq!(settings.known_hosts.len(), 3);
        assert_eq!(settings.jumps, ["ops@gate:22", "inner"]);
        assert!(settings.identity_agent.is_none() && settings.identities_only && settings.proxy_command.is_none());
    }
}
