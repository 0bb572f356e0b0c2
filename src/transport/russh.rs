//! `russh`: SSH in this process, without a process per host.
//!
//! The settings are ssh's own for the host (see `ssh_config`). Jump hosts, agents, key files and OpenSSH certificates
//! work; `ProxyCommand`, RSA keys, hardware keys and passwords do not, and say so: they need `ansible_connection=ssh`.

mod authentication;
mod known_hosts;

use super::ssh_config::{Settings, SshConfig};
use super::{BoxFuture, ConnectError, HostKeys, Process, Session, Target, Transport};
use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;

/// What may wait between a program and who reads it, in bytes.
const BUFFER: usize = 256 << 10;

/// The jumps that one host may need. More are a loop in the configuration.
const MAX_JUMPS: usize = 8;

/// The options that are followed here or mean nothing here. Any other in the host's variables is refused.
const OPTIONS: &[&str] = &[
    "batchmode",
    "connecttimeout",
    "globalknownhostsfile",
    "hostkeyalias",
    "hostname",
    "identitiesonly",
    "identityagent",
    "identityfile",
    "loglevel",
    "port",
    "preferredauthentications",
    "proxyjump",
    "serveralivecountmax",
    "serveraliveinterval",
    "user",
];

/// Connects with the SSH implementation of the crate of this name.
pub struct Russh;

impl Transport for Russh {
    fn connect<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async move {
            if let Some((key, _)) =
                target.options.iter().find(|(key, _)| !OPTIONS.contains(&&*key.to_ascii_lowercase()))
            {
                return Err(ConnectError::Other(format!(
                    "russh does not know the option {key}; use ansible_connection=ssh"
                )));
            }
            let limit = target.connect_timeout * 3;
            let link = match tokio::time::timeout(limit, reach(target)).await {
                Ok(link) => link?,
                Err(_) => return Err(no_session(&target.address, limit)),
            };
            Ok(Box::new(RusshSession { link: Arc::new(link) }) as Box<dyn Session>)
        })
    }
}

fn no_session(address: &str, limit: Duration) -> ConnectError {
    ConnectError::Unreachable(format!("{address}: no session after {} s", limit.as_secs()))
}

/// A connection, and those that it goes through.
struct Link {
    handle: Handle<Client>,
    name: String,
    /// Why it ended, once it has.
    end: Arc<Mutex<Option<String>>>,
    _through: Option<Box<Link>>,
}

impl Link {
    fn lost(&self) -> ConnectError {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = end.as_deref().unwrap_or("closed by the other end");
        ConnectError::Unreachable(format!("{}: the connection was lost: {reason}", self.name))
    }
}

/// Connects to the target, through the hosts that its settings name.
async fn reach(target: &Target) -> Result<Link, ConnectError> {
    let config = SshConfig::write(target)?;
    let mut arguments = Vec::new();
    for (flag, value) in [("-p", target.port.map(|port| port.to_string())), ("-l", target.user.clone())] {
        arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    let mut settings = config.resolve(&arguments, &target.address).await?;
    if let Some(key) = &target.private_key {
        settings.identity_files = vec![key.clone()];
        settings.identities_only = true;
    }
    let through = jumps(&config, &settings, target.connect_timeout, 0).await?;
    enter(settings, target.host_keys, target.connect_timeout, through).await
}

/// Connects to the last of the hosts to go through, if there are any.
fn jumps<'a>(
    config: &'a SshConfig,
    settings: &'a Settings,
    timeout: Duration,
    depth: usize,
) -> BoxFuture<'a, Result<Option<Box<Link>>, ConnectError>> {
    Box::pin(async move {
        if let Some(command) = &settings.proxy_command {
            let text = format!("russh has no ProxyCommand ({command}); use ansible_connection=ssh");
            return Err(ConnectError::Other(text));
        }
        let mut through = None;
        for (i, jump) in settings.jumps.iter().enumerate() {
            if depth + i >= MAX_JUMPS {
                return Err(ConnectError::Other(format!("{}: more than {MAX_JUMPS} jumps", settings.hostname)));
            }
            let (arguments, host) = destination(jump);
            let hop = config.resolve(&arguments, host).await?;
            if i == 0 {
                through = jumps(config, &hop, timeout, depth + 1).await?;
            }
            through = Some(Box::new(enter(hop, HostKeys::Strict, timeout, through).await?));
        }
        Ok(through)
    })
}

/// Splits `[user@]host[:port]` or `ssh://…` into flags and the host.
fn destination(jump: &str) -> (Vec<String>, &str) {
    let jump = jump.strip_prefix("ssh://").unwrap_or(jump);
    let (user, host) = jump.rsplit_once('@').map_or((None, jump), |(user, host)| (Some(user), host));
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match host.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (host, None),
        },
    };
    let flags = [("-l", user), ("-p", port)];
    (flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?.to_owned()])).flatten().collect(), host)
}

/// Connects and authenticates to one host.
async fn enter(
    settings: Settings,
    host_keys: HostKeys,
    timeout: Duration,
    through: Option<Box<Link>>,
) -> Result<Link, ConnectError> {
    let name = settings.hostname.clone();
    let end = Arc::new(Mutex::new(None));
    let checked = settings.host_key_alias.clone().unwrap_or_else(|| settings.hostname.clone());
    let known = known_hosts::KnownHosts::read(checked, settings.port, &settings.known_hosts, host_keys);
    let config = Arc::new(client::Config {
        preferred: known.preferred(),
        keepalive_interval: Some(settings.alive_interval).filter(|&seconds| seconds > 0).map(Duration::from_secs),
        keepalive_max: settings.alive_count,
        ..client::Config::default()
    });
    let client = Client { known, end: end.clone() };
    let connecting = async {
        match &through {
            None => {
                let stream = TcpStream::connect((settings.hostname.as_str(), settings.port)).await?;
                stream.set_nodelay(true)?;
                client::connect_stream(config, stream, client).await
            }
            Some(jump) => {
                let channel = jump
                    .handle
                    .channel_open_direct_tcpip(&settings.hostname, settings.port.into(), "127.0.0.1", 0)
                    .await?;
                client::connect_stream(config, channel.into_stream(), client).await
            }
        }
    };
    let mut handle = match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| error.explain(&name, settings.port))?,
        Err(_) => {
            let text = format!("{name} port {}: no answer within {} s", settings.port, timeout.as_secs());
            return Err(ConnectError::Unreachable(text));
        }
    };
    authentication::authenticate(&mut handle, &settings).await?;
    Ok(Link { handle, name, end, _through: through })
}

/// What the connection asks us.
struct Client {
    known: known_hosts::KnownHosts,
    end: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
enum ClientError {
    Ssh(russh::Error),
    Key(ConnectError),
}

impl From<russh::Error> for ClientError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::Ssh(error.into())
    }
}

impl ClientError {
    fn explain(self, name: &str, port: u16) -> ConnectError {
        match self {
            Self::Key(error) => error,
            Self::Ssh(error @ russh::Error::NoCommonAlgo { .. }) => ConnectError::Other(format!(
                "{name} and russh have no algorithm in common ({error}); use ansible_connection=ssh"
            )),
            Self::Ssh(error) => ConnectError::Unreachable(format!("{name} port {port}: {error}")),
        }
    }
}

impl client::Handler for Client {
    type Error = ClientError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, ClientError> {
        self.known.check(shown).map(|()| true).map_err(ClientError::Key)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<ClientError>) -> Result<(), ClientError> {
        let (text, result) = match reason {
            DisconnectReason::ReceivedDisconnect(info) => (info.message, Ok(())),
            DisconnectReason::Error(ClientError::Ssh(error)) => (error.to_string(), Err(ClientError::Ssh(error))),
            DisconnectReason::Error(error) => (String::new(), Err(error)),
        };
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        result
    }
}

/// The connection closes when the last handle to it is gone: the session's and its programs'.
struct RusshSession {
    link: Arc<Link>,
}

impl Session for RusshSession {
    fn spawn<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Process, ConnectError>> {
        Box::pin(async move {
            let channel = self.link.handle.channel_open_session().await.map_err(|_| self.link.lost())?;
            channel.exec(true, command).await.map_err(|_| self.link.lost())?;
            let (reading, writing) = channel.split();
            let (stdin, input) = duplex(BUFFER);
            let (output, stdout) = duplex(BUFFER);
            let (errors, stderr) = duplex(BUFFER);
            let writing = Arc::new(writing);
            let feeding = tokio::spawn(feed(input, writing.clone()));
            let (link, serving) = (self.link.clone(), tokio::spawn(receive(reading, output, errors)));
            let exit = Box::pin(async move {
                let ended = serving.await.unwrap_or(Ended::Cut);
                feeding.abort();
                let _ = writing.close().await;
                match ended {
                    Ended::Code(code) => Ok(Some(code)),
                    Ended::Signal => Ok(None),
                    Ended::Refused => Err(ConnectError::Other(format!("{}: refuses to run commands", link.name))),
                    Ended::Cut => Err(link.lost()),
                }
            });
            Ok(Process { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), exit })
        })
    }
}

/// Carries stdin to the program, and its end.
async fn feed(mut input: DuplexStream, channel: Arc<ChannelWriteHalf<client::Msg>>) {
    let mut writer = channel.make_writer();
    let _ = tokio::io::copy(&mut input, &mut writer).await;
    let _ = writer.shutdown().await;
}

enum Ended {
    Code(i32),
    Signal,
    Refused,
    /// The connection ended first.
    Cut,
}

/// Carries what the program writes until the channel ends.
async fn receive(
    mut channel: ChannelReadHalf,
    mut output: impl AsyncWrite + Unpin,
    mut errors: impl AsyncWrite + Unpin,
) -> Ended {
    let mut ended = Ended::Cut;
    while let Some(message) = channel.wait().await {
        // Whoever does not read any longer does not keep the program from ending.
        match message {
            ChannelMsg::Data { data } => drop(output.write_all(&data).await),
            ChannelMsg::ExtendedData { data, ext: 1 } => drop(errors.write_all(&data).await),
            ChannelMsg::Eof => {
                let _ = tokio::join!(output.shutdown(), errors.shutdown());
            }
            ChannelMsg::ExitStatus { exit_status } => ended = Ended::Code(exit_status as i32),
            ChannelMsg::ExitSignal { .. } => ended = Ended::Signal,
            ChannelMsg::Failure => ended = Ended::Refused,
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    ended
}
