//! Where a host is and how to get in: from its connection variables, and the connection flags, to a [`Target`].
//!
//! The variables are Ansible's, and as in Ansible a variable wins over a flag. A variable that cannot be honoured is an
//! error that names it; nothing is ignored. <https://docs.ansible.com/ansible/latest/collections/ansible/builtin/ssh_connection.html>

use crate::value::{Map, Value};
use crate::vars::Secret;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a host is and how to get in, from the connection variables and flags.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name in the inventory.
    pub host: String,
    pub connection: Connection,
    /// `ansible_host`, or the inventory name.
    pub address: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub private_key: Option<PathBuf>,
    /// Files of known host keys; empty: the user's own.
    pub known_hosts: Vec<PathBuf>,
    pub host_keys: HostKeys,
    /// An ssh_config to read instead of the user's.
    pub ssh_config: Option<PathBuf>,
    /// Further options of ssh_config(5), stronger than those of the files.
    pub options: Vec<(String, String)>,
    pub connect_timeout: Duration,
    pub escalation: Option<Become>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Openssh,
    Russh,
    Local,
}

/// What is done with the key that a host shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKeys {
    /// It must be known.
    Strict,
    /// A host that was never seen is added to the known ones; a changed key is refused.
    AcceptNew,
    /// Any key is taken. Has to be said: `ansible_host_key_checking=false`.
    Ignore,
}

/// Another user to become, through sudo.
#[derive(Clone, Debug)]
pub struct Become {
    pub user: String,
    pub password: Option<Secret>,
}

/// The connection flags of the command line.
#[derive(Clone, Debug, Default)]
pub struct ConnectionFlags {
    /// `-u`
    pub user: Option<String>,
    /// `--private-key`
    pub private_key: Option<PathBuf>,
    /// `-b`
    pub escalate: bool,
    /// `--become-user`
    pub become_user: Option<String>,
    /// `-K`, as it was typed
    pub become_password: Option<Secret>,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// Where a relative path in a variable is looked for when it is not below the working directory.
    pub inventory_dir: PathBuf,
}

/// A connection variable that cannot be honoured. The caller knows where it was written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{variable}: {message}")]
pub struct TargetError {
    pub variable: String,
    pub message: String,
}

fn error(variable: &str, message: impl Into<String>) -> TargetError {
    TargetError { variable: variable.to_owned(), message: message.into() }
}

impl Target {
    /// Reads the connection variables among the rendered variables of a host.
    pub fn from_vars(host: &str, vars: &Map, flags: &ConnectionFlags) -> Result<Self, TargetError> {
        let vars = Vars { vars, inventory_dir: &flags.inventory_dir };
        let mut target = Self {
            host: host.to_owned(),
            connection: connection(&vars)?,
            address: vars.text(&["ansible_host", "ansible_ssh_host"])?.unwrap_or_else(|| host.to_owned()),
            port: vars.port()?,
            user: vars.text(&["ansible_user", "ansible_ssh_user"])?.or_else(|| flags.user.clone()),
            private_key: private_key(&vars, flags)?,
            known_hosts: vars
                .text(&["ansible_ssh_known_hosts_file"])?
                .map(|path| vars.path(&path))
                .into_iter()
                .collect(),
            host_keys: HostKeys::Strict,
            ssh_config: None,
            options: Vec::new(),
            connect_timeout: match vars.number("ansible_timeout")? {
                Some(seconds) => Duration::from_secs(seconds),
                None => flags.timeout.unwrap_or(DEFAULT_TIMEOUT).max(Duration::from_secs(1)),
            },
            escalation: escalation(&vars, flags)?,
        };
        for variable in ["ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"] {
            if let Some(arguments) = vars.text(&[variable])? {
                ssh_arguments(&mut target, &vars, variable, &arguments)?;
            }
        }
        for variable in ["ansible_host_key_checking", "ansible_ssh_host_key_checking"] {
            match vars.truth(variable)? {
                Some(true) => target.host_keys = HostKeys::Strict,
                Some(false) => target.host_keys = HostKeys::Ignore,
                None => {}
            }
        }
        Ok(target)
    }
}

fn private_key(vars: &Vars<'_>, flags: &ConnectionFlags) -> Result<Option<PathBuf>, TargetError> {
    for variable in ["ansible_ssh_private_key_file", "ansible_private_key_file"] {
        if let Some(path) = vars.text(&[variable])? {
            return vars.existing(variable, &path).map(Some);
        }
    }
    let flag = flags.private_key.as_ref().map(|path| vars.existing("--private-key", &path.to_string_lossy()));
    flag.transpose()
}

fn connection(vars: &Vars<'_>) -> Result<Connection, TargetError> {
    match vars.text(&["ansible_connection"])?.as_deref() {
        None | Some("ssh" | "openssh" | "smart" | "ansible.builtin.ssh") => Ok(Connection::Openssh),
        Some("russh") => Ok(Connection::Russh),
        Some("local" | "ansible.builtin.local") => Ok(Connection::Local),
        Some(other) => {
            Err(error("ansible_connection", format!("`{other}` is not supported; expected ssh, russh or local")))
        }
    }
}

fn escalation(vars: &Vars<'_>, flags: &ConnectionFlags) -> Result<Option<Become>, TargetError> {
    if !vars.truth("ansible_become")?.unwrap_or(flags.escalate) {
        return Ok(None);
    }
    if let Some(method) = vars.text(&["ansible_become_method"])?
        && method != "sudo"
        && method != "ansible.builtin.sudo"
    {
        return Err(error("ansible_become_method", format!("`{method}` is not supported; expected sudo")));
    }
    let user = vars.text(&["ansible_become_user"])?.or_else(|| flags.become_user.clone());
    let password = vars
        .text(&["ansible_become_password", "ansible_become_pass", "ansible_sudo_pass"])?
        .map(Secret::new)
        .or_else(|| flags.become_password.clone());
    Ok(Some(Become { user: user.unwrap_or_else(|| "root".to_owned()), password }))
}

/// Takes over what is said with the flags of ssh(1).
fn ssh_arguments(target: &mut Target, vars: &Vars<'_>, variable: &str, text: &str) -> Result<(), TargetError> {
    let words = shlex::split(text).ok_or_else(|| error(variable, "a quote is not closed"))?;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) else {
            return Err(error(variable, format!("`{word}` is not a flag of ssh; expected -o, -J, -F, -i, -l or -p")));
        };
        match flag {
            '4' => target.options.push(("AddressFamily".to_owned(), "inet".to_owned())),
            '6' => target.options.push(("AddressFamily".to_owned(), "inet6".to_owned())),
            'C' => target.options.push(("Compression".to_owned(), "yes".to_owned())),
            'o' | 'J' | 'F' | 'i' | 'l' | 'p' => {
                let rest = &word[2..];
                let argument = if rest.is_empty() { words.next() } else { Some(rest.to_owned()) };
                let argument = argument.ok_or_else(|| error(variable, format!("-{flag} needs an argument")))?;
                match flag {
                    'o' => ssh_option(target, vars, variable, &argument)?,
                    'J' => target.options.push(("ProxyJump".to_owned(), argument)),
                    'F' => target.ssh_config = Some(vars.existing(variable, &argument)?),
                    'i' => target.private_key = Some(vars.existing(variable, &argument)?),
                    'l' => drop(target.user.get_or_insert(argument)),
                    _ => {
                        let port =
                            argument.parse().map_err(|_| error(variable, format!("`{argument}` is not a port")))?;
                        target.port.get_or_insert(port);
                    }
                }
            }
            _ => {
                return Err(error(
                    variable,
                    format!("`{word}` is not supported; expected -o, -J, -F, -i, -l, -p, -4, -6 or -C"),
                ));
            }
        }
    }
    Ok(())
}

/// Takes over one option of ssh_config(5), written `Key=Value` or `Key Value`.
fn ssh_option(target: &mut Target, vars: &Vars<'_>, variable: &str, option: &str) -> Result<(), TargetError> {
    let (key, value) = option
        .split_once(['=', ' '])
        .map(|(key, value)| (key.trim(), value.trim().trim_start_matches('=').trim()))
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .ok_or_else(|| error(variable, format!("`-o {option}`: expected Key=Value")))?;
    if option.contains('\n') || !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(error(variable, format!("`-o {option}`: expected Key=Value on one line")));
    }
    match key.to_ascii_lowercase().as_str() {
        "userknownhostsfile" => {
            let files = shlex::split(value).ok_or_else(|| error(variable, "a quote is not closed"))?;
            target.known_hosts = files.iter().map(|file| vars.path(file)).collect();
        }
        "stricthostkeychecking" => {
            target.host_keys = match value.to_ascii_lowercase().as_str() {
                "no" | "off" => HostKeys::Ignore,
                "accept-new" => HostKeys::AcceptNew,
                "yes" | "ask" => HostKeys::Strict,
                _ => {
                    return Err(error(
                        variable,
                        format!("StrictHostKeyChecking={value}: expected yes, accept-new or no"),
                    ));
                }
            };
        }
        // One connection per host is kept and shared in any case.
        "controlmaster" | "controlpath" | "controlpersist" => {}
        _ => target.options.push((key.to_owned(), value.to_owned())),
    }
    Ok(())
}

/// Expands a leading `~/`.
pub(super) fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

struct Vars<'a> {
    vars: &'a Map,
    inventory_dir: &'a Path,
}

impl Vars<'_> {
    /// The first of these variables that is set.
    fn text(&self, names: &[&str]) -> Result<Option<String>, TargetError> {
        for name in names {
            match self.vars.get(*name) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(value @ (Value::String(_) | Value::Int(_))) => return Ok(Some(value.to_string())),
                Some(other) => return Err(error(name, format!("is a {}; expected text", other.type_name()))),
            }
        }
        Ok(None)
    }

    /// A path as it was written, as an absolute one.
    fn path(&self, path: &str) -> PathBuf {
        let path = home(path);
        let beside = self.inventory_dir.join(&path);
        let path = if !path.exists() && beside.exists() { beside } else { path };
        std::path::absolute(&path).unwrap_or(path)
    }

    fn existing(&self, variable: &str, path: &str) -> Result<PathBuf, TargetError> {
        let path = self.path(path);
        match std::fs::File::open(&path) {
            Ok(_) => Ok(path),
            Err(cause) => Err(error(variable, format!("{}: {cause}", path.display()))),
        }
    }

    fn truth(&self, name: &str) -> Result<Option<bool>, TargetError> {
        match self.vars.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.to_bool() {
                Some(truth) => Ok(Some(truth)),
                None => Err(error(name, format!("`{value}` is neither true nor false"))),
            },
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, TargetError> {
        match self.text(&[name])? {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(0) | Err(_) => Err(error(name, format!("`{text}` is not a number of seconds above 0"))),
                Ok(number) => Ok(Some(number)),
            },
        }
    }

    fn port(&self) -> Result<Option<u16>, TargetError> {
        match self.text(&["ansible_port", "ansible_ssh_port"])? {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(0) | Err(_) => Err(error("ansible_port", format!("`{text}` is not a port (1 to 65535)"))),
                Ok(port) => Ok(Some(port)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(vars: &[(&str, Value)], flags: &ConnectionFlags) -> Result<Target, TargetError> {
        Target::from_vars("n1", &vars.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(), flags)
    }

    #[test]
    fn defaults() {
        let target = target(&[], &ConnectionFlags::default()).unwrap();
        assert_eq!((target.address.as_str(), target.port, target.user), ("n1", None, None));
        assert_eq!((target.connection, target.host_keys), (Connection::Openssh, HostKeys::Strict));
        assert!(target.escalation.is_none());
    }

    #[test]
    fn variables_win_over_flags() {
        let flags = ConnectionFlags {
            user: Some("flag".into()),
            escalate: true,
            become_password: Some(Secret::new("typed")),
            timeout: Some(Duration::from_secs(3)),
            ..ConnectionFlags::default()
        };
        let found = target(&[("ansible_port", "2222".into())], &flags).unwrap();
        assert_eq!((found.user.as_deref(), found.port), (Some("flag"), Some(2222)));
        assert_eq!(found.connect_timeout, Duration::from_secs(3));
        let escalation = found.escalation.unwrap();
        assert_eq!((escalation.user.as_str(), escalation.password.unwrap().expose()), ("root", "typed"));

        let vars = [
            ("ansible_user", "var".into()),
            ("ansible_become", "no".into()),
            ("ansible_timeout", 7i64.into()),
            ("ansible_connection", "russh".into()),
        ];
        let found = target(&vars, &flags).unwrap();
        assert_eq!((found.user.as_deref(), found.connection), (Some("var"), Connection::Russh));
        assert!(found.escalation.is_none());
        assert_eq!(found.connect_timeout, Duration::from_secs(7));
    }

    #[test]
    fn host_key_checking_has_to_be_switched_off_in_so_many_words() {
        let flags = ConnectionFlags::default();
        let with = |name: &str, value: &str| target(&[(name, value.into())], &flags).unwrap().host_keys;
        assert_eq!(with("ansible_host_key_checking", "false"), HostKeys::Ignore);
        assert_eq!(with("ansible_ssh_common_args", "-o StrictHostKeyChecking=no"), HostKeys::Ignore);
        assert_eq!(with("ansible_ssh_common_args", "-oStrictHostKeyChecking=accept-new"), HostKeys::AcceptNew);
        assert_eq!(with("ansible_host_key_checking", "true"), HostKeys::Strict);
    }

    #[test]
    fn ssh_arguments_are_taken_over() {
        let arguments = "-o 'ProxyCommand ssh -W %h:%p gate' -J admin@gate:2200 -o UserKnownHostsFile=/tmp/known -o ControlMaster=auto -C";
        let target = target(&[("ansible_ssh_common_args", arguments.into())], &ConnectionFlags::default()).unwrap();
        assert_eq!(target.known_hosts, [PathBuf::from("/tmp/known")]);
        let options: Vec<_> = target.options.iter().map(|(key, value)| format!("{key} {value}")).collect();
        assert_eq!(options, ["ProxyCommand ssh -W %h:%p gate", "ProxyJump admin@gate:2200", "Compression yes"]);
    }

    #[test]
    fn relative_paths_are_below_the_working_directory_or_the_inventory() {
        let inventory = tempfile::tempdir().unwrap();
        std::fs::write(inventory.path().join("key"), "").unwrap();
        let flags = ConnectionFlags { inventory_dir: inventory.path().to_owned(), ..ConnectionFlags::default() };
        let key = |path: &str| target(&[("ansible_ssh_private_key_file", path.into())], &flags).map(|t| t.private_key);
        assert_eq!(key("key").unwrap(), Some(inventory.path().join("key")));
        assert_eq!(key("Cargo.toml").unwrap(), Some(std::env::current_dir().unwrap().join("Cargo.toml")));
        assert!(key("no-such-key").unwrap_err().message.contains("No such file"));
    }

    #[test]
    fn what_cannot_be_honoured_is_an_error() {
        let flags = ConnectionFlags::default();
        for (name, value) in [
            ("ansible_connection", "winrm"),
            ("ansible_port", "0"),
            ("ansible_port", "ssh"),
            ("ansible_timeout", "soon"),
            ("ansible_become", "perhaps"),
            ("ansible_ssh_private_key_file", "/nonexistent/key"),
            ("ansible_ssh_common_args", "-R 80:localhost:80"),
            ("ansible_ssh_extra_args", "-o Broken"),
            ("ansible_ssh_extra_args", "-o 'open"),
        ] {
            let error = target(&[(name, value.into())], &flags).unwrap_err();
            assert_eq!(error.variable, name, "{error}");
        }
        let vars = [("ansible_become", true.into()), ("ansible_become_method", "su".into())];
        assert_eq!(target(&vars, &flags).unwrap_err().variable, "ansible_become_method");
    }
}
