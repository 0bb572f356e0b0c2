//! What kprov tells ssh about a host, and what ssh makes of it together with the user's files.
//!
//! Both SSH transports start from the same generated ssh_config(5): `openssh` hands it to ssh, `russh` asks `ssh -G` for the
//! settings that come out (`Match`, `Include` and tokens evaluated) and follows them itself.

use super::{ConnectError, HostKeys, Target};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::NamedTempFile;

/// The generated configuration of one target.
pub(super) struct SshConfig {
    file: NamedTempFile,
    /// What is said about the target itself, as lines of "Keyword value".
    own: String,
}

impl SshConfig {
    /// Writes the configuration for a target into a file that goes with the value.
    ///
    /// What is said about this host stands under its own name, because ssh hands the file on to the ssh that makes a jump.
    pub(super) fn write(target: &Target) -> Result<Self, ConnectError> {
        let address = &target.address;
        if address.is_empty() || address.starts_with('-') || address.contains(char::is_whitespace) {
            return Err(ConnectError::Other(format!("`{address}` is not the name or address of a host")));
        }
        let mut own = "LogLevel INFO\n".to_owned();
        if target.host_keys == HostKeys::Ignore {
            own.push_str("UserKnownHostsFile /dev/null\n");
        } else if !target.known_hosts.is_empty() {
            let files: Result<Vec<_>, _> = target.known_hosts.iter().map(|file| quoted(file)).collect();
            let _ = writeln!(own, "UserKnownHostsFile {}", files?.join(" "));
        }
        for (key, value) in &target.options {
            let _ = writeln!(own, "{key} {value}");
        }
        let users = match &target.ssh_config {
            Some(file) => format!("Include {}\n", quoted(file)?),
            None => "Include ~/.ssh/config\nInclude /etc/ssh/ssh_config\n".to_owned(),
        };
        // The ssh that makes a jump must not ask anything either. The last lines hold where the user has said nothing: a
        // link that is dead is noticed after 15 s.
        let text = format!(
            "Host {address}\n{own}Host *\nBatchMode yes\n{users}Host *\nServerAliveInterval 5\nServerAliveCountMax 3\n"
        );
        let failed = |error: std::io::Error| ConnectError::Other(format!("cannot write an ssh_config: {error}"));
        let mut file = NamedTempFile::new().map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(Self { file, own })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Asks ssh for the settings of a host, with `arguments` before it on the command line.
    pub(super) async fn resolve(&self, arguments: &[String], host: &str) -> Result<Settings, ConnectError> {
        let mut ssh = tokio::process::Command::new("ssh");
        ssh.arg("-G").arg("-F").arg(self.path()).args(arguments).args(["--", host]).stdin(Stdio::null());
        let output = match ssh.output().await {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(self.without_ssh(arguments, host)),
            Err(error) => return Err(ConnectError::Other(format!("cannot run `ssh -G`: {error}"))),
        };
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            return Err(ConnectError::Other(format!("ssh does not accept its configuration: {}", line.trim())));
        }
        Ok(parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The settings where there is no ssh: what kprov was told of the target, and ssh's defaults. No file is read.
    fn without_ssh(&self, arguments: &[String], host: &str) -> Settings {
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let mut text = format!(
            "hostname {host}\nuser {user}\nuserknownhostsfile ~/.ssh/known_hosts\n\
             globalknownhostsfile /etc/ssh/ssh_known_hosts\nserveraliveinterval 5\n"
        );
        for pair in arguments.chunks(2) {
            match pair {
                [flag, user] if flag == "-l" => drop(writeln!(text, "user {user}")),
                [_, port] => drop(writeln!(text, "port {port}")),
                _ => {}
            }
        }
        // The first of two equal options holds, and `parse` takes the last.
        for line in self.own.lines().rev() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let _ = writeln!(text, "{} {value}", key.to_ascii_lowercase());
        }
        let mut settings = parse(&text);
        if settings.identity_files.is_empty() {
            settings.identity_files = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa"].into_iter().map(expand).collect();
        }
        settings
    }
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

/// Reads what `ssh -G` prints: a keyword in lower case and its value per line.
fn parse(text: &str) -> Settings {
    let mut settings =
        Settings { port: 22, identity_agent: agent("SSH_AUTH_SOCK"), alive_count: 3, ..Settings::default() };
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

    #[tokio::test]
    async fn without_ssh_the_target_is_all_there_is() {
        let vars = [
            ("ansible_ssh_common_args", "-J gate -o HostKeyAlias=one -o HostKeyAlias=two".into()),
            ("ansible_ssh_known_hosts_file", "/k/known".into()),
        ];
        let vars =
            vars.into_iter().map(|(name, value): (&str, crate::value::Value)| (name.to_owned(), value)).collect();
        let target = Target::from_vars("n1", &vars, &super::super::ConnectionFlags::default()).unwrap();
        let config = SshConfig::write(&target).unwrap();
        let arguments = ["-p", "2222", "-l", "ops"].map(str::to_owned);
        let without = config.without_ssh(&arguments, "n1");
        let with = config.resolve(&arguments, "n1").await.unwrap();
        for settings in [without, with] {
            assert_eq!((settings.hostname.as_str(), settings.port, settings.user.as_str()), ("n1", 2222, "ops"));
            assert_eq!((settings.jumps, settings.host_key_alias.as_deref()), (vec!["gate".to_owned()], Some("one")));
            assert_eq!(settings.known_hosts.first(), Some(&PathBuf::from("/k/known")));
            assert_eq!((settings.alive_interval, settings.alive_count), (5, 3));
        }
    }
}
