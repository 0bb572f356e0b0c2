//! All ways to reach a host under the same tests, against a real sshd.

use crate::sshd::{Sshd, children, keygen, me};
use kprov::transport::{ConnectError, Connection, HostKeys, Process, Session, Target, Transport, Transports};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SSH: [Connection; 2] = [Connection::Openssh, Connection::Russh];
const ALL: [Connection; 3] = [Connection::Openssh, Connection::Russh, Connection::Local];

/// Nothing here may hang.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("hangs")
}

async fn connect(target: &Target) -> Result<Box<dyn Session>, ConnectError> {
    soon(Transports::default().connect(target)).await
}

async fn refusal(target: &Target) -> ConnectError {
    match connect(target).await {
        Ok(_) => panic!("{:?} connected", target.connection),
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "one line: {error}");
            error
        }
    }
}

async fn finish(mut process: Process, input: &[u8]) -> (Vec<u8>, String, Option<i32>) {
    let (mut stdout, mut stderr) = (Vec::new(), String::new());
    let mut stdin = process.stdin;
    let write = async {
        stdin.write_all(input).await.unwrap();
        stdin.shutdown().await.unwrap();
        drop(stdin);
    };
    let (_, out, err) =
        tokio::join!(write, process.stdout.read_to_end(&mut stdout), process.stderr.read_to_string(&mut stderr));
    out.unwrap();
    err.unwrap();
    (stdout, stderr, process.exit.await.unwrap())
}

async fn run(session: &dyn Session, command: &str, input: &[u8]) -> (Vec<u8>, String, Option<i32>) {
    soon(async { finish(session.spawn(command).await.unwrap(), input).await }).await
}

#[tokio::test]
async fn exit_codes_and_streams() {
    let sshd = Sshd::start();
    for connection in ALL {
        let session = connect(&sshd.target(connection)).await.unwrap();
        for code in [0, 3, 126, 127, 255] {
            let (out, err, found) = run(&*session, &format!("echo out; echo err >&2; exit {code}"), b"").await;
            assert_eq!((&out[..], err.as_str(), found), (&b"out\n"[..], "err\n", Some(code)), "{connection:?}");
        }
        let (_, _, signal) = run(&*session, "kill -9 $$", b"").await;
        assert_eq!(signal, None, "{connection:?}");
    }
}

#[tokio::test]
async fn streams_are_binary_safe_and_large_transfers_arrive_whole() {
    let sshd = Sshd::start();
    let mut state = 1u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(24 << 20)
    .collect();
    for connection in ALL {
        let session = connect(&sshd.target(connection)).await.unwrap();
        let (out, err, code) = run(&*session, "cat", &bytes).await;
        assert_eq!((err.as_str(), code), ("", Some(0)), "{connection:?}");
        assert!(out == bytes, "{connection:?}: {} bytes came back", out.len());
    }
}

#[tokio::test]
async fn host_keys_are_checked() {
    let mut sshd = Sshd::start();
    let known = sshd.public_host_key();
    for connection in SSH {
        let mut target = sshd.target(connection);
        sshd.know_nothing();
        let error = refusal(&target).await;
        assert!(matches!(&error, ConnectError::HostKey(text) if text.contains("not known")), "{connection:?}: {error}");

        target.host_keys = HostKeys::AcceptNew;
        connect(&target).await.unwrap();
        target.host_keys = HostKeys::Strict;
        connect(&target).await.unwrap();

        // Hashed, as `HashKnownHosts yes` writes them.
        sshd.know(&known);
        let hashed =
            std::process::Command::new("ssh-keygen").arg("-Hf").arg(sshd.path("known_hosts")).output().unwrap();
        assert!(hashed.status.success());
        connect(&target).await.unwrap();
        sshd.know(&known);
    }
    sshd.change_host_key();
    for connection in SSH {
        let mut target = sshd.target(connection);
        let error = refusal(&target).await;
        assert!(
            matches!(&error, ConnectError::HostKey(text) if text.contains("has changed")),
            "{connection:?}: {error}"
        );
        assert!(error.to_string().contains("known_hosts:1"), "names the line: {error}");
        target.host_keys = HostKeys::Ignore;
        connect(&target).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_key_is_an_authentication_error() {
    let sshd = Sshd::start();
    keygen(&sshd.path("other_key"));
    for connection in SSH {
        let target = Target { private_key: Some(sshd.path("other_key")), ..sshd.target(connection) };
        let error = refusal(&target).await;
        assert!(matches!(&error, ConnectError::Authentication(_)), "{connection:?}: {error}");
        assert!(error.to_string().contains("--private-key"), "{error}");
    }
}

#[tokio::test]
async fn nobody_listens() {
    let mut sshd = Sshd::start();
    sshd.stop();
    // Accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for connection in SSH {
        let error = refusal(&sshd.target(connection)).await;
        assert!(
            matches!(&error, ConnectError::Unreachable(text) if text.contains("refused")),
            "{connection:?}: {error}"
        );

        let port = Some(silent.local_addr().unwrap().port());
        let target = Target { port, connect_timeout: Duration::from_secs(1), ..sshd.target(connection) };
        let error = refusal(&target).await;
        assert!(matches!(&error, ConnectError::Unreachable(_)), "{connection:?}: {error}");

        let target = Target { address: "no-such-host.invalid".to_owned(), ..sshd.target(connection) };
        let error = refusal(&target).await;
        assert!(matches!(&error, ConnectError::Unreachable(_)), "{connection:?}: {error}");
    }
}

#[tokio::test]
async fn a_dead_link_is_an_error() {
    let sshd = Sshd::start();
    for connection in SSH {
        let session = connect(&sshd.target(connection)).await.unwrap();
        let mut process = session.spawn("echo ready; exec sleep 600").await.unwrap();
        let mut ready = [0; 6];
        soon(process.stdout.read_exact(&mut ready)).await.unwrap();
        sshd.kill_sessions();
        let mut rest = Vec::new();
        let _ = soon(process.stdout.read_to_end(&mut rest)).await;
        let error = soon(process.exit).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Unreachable(text) if text.contains("lost")), "{connection:?}: {error}");
        assert!(soon(session.spawn("true")).await.is_err(), "{connection:?}");
    }
}

#[tokio::test]
async fn through_a_jump_host() {
    let gate = Sshd::start_at("127.0.0.2");
    let inner = Sshd::start_at("127.0.0.3");
    let known = ["known_hosts"].map(|name| std::fs::read_to_string(gate.path(name)).unwrap());
    for connection in SSH {
        let mut target = inner.target(connection);
        target.address = "inner".to_owned();
        target.port = None;
        // As it stands in a user's own configuration.
        let config = format!(
            "Host inner\n  HostName {}\n  Port {}\n  ProxyJump gate\nHost gate\n  HostName {}\n  Port {}\n  User {}\n  \
             IdentityFile {}\n  IdentityAgent none\n  UserKnownHostsFile {}\n",
            inner.address,
            inner.port,
            gate.address,
            gate.port,
            me(),
            gate.path("user_key").display(),
            gate.path("known_hosts").display(),
        );
        std::fs::write(inner.path("ssh_config"), config).unwrap();
        let session = connect(&target).await.unwrap();
        let (out, _, _) = run(&*session, "echo $SSH_CONNECTION", b"").await;
        let out = String::from_utf8(out).unwrap();
        let line = format!("{} {}\n", inner.address, inner.port);
        assert!(out.ends_with(&line), "{connection:?}: {out}");
        assert!(!children(gate.pid()).is_empty(), "{connection:?} does not go through the gate");
        drop(session);

        // The gate is a host like any other: its key is checked.
        gate.know_nothing();
        let error = refusal(&target).await;
        let expected = if connection == Connection::Russh { "not known" } else { "`ssh inner` says why" };
        assert!(error.to_string().contains(expected), "{connection:?}: {error}");
        std::fs::write(gate.path("known_hosts"), &known[0]).unwrap();
    }
}

#[tokio::test]
async fn what_russh_cannot_do_it_says() {
    let sshd = Sshd::start();
    let mut target = sshd.target(Connection::Russh);
    target.options.push(("ProxyCommand".to_owned(), "nc %h %p".to_owned()));
    let error = refusal(&target).await;
    assert!(error.to_string().contains("ansible_connection=ssh"), "{error}");
}
