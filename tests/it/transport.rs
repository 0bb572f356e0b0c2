//! All ways to reach a host under the same tests, against a real sshd.

use crate::sshd::Sshd;
use kprov::transport::{ConnectError, Connection, HostKeys, Process, Session, Target, Transport, Transports};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SSH: [Connection; 1] = [Connection::Openssh];
const ALL: [Connection; 2] = [Connection::Openssh, Connection::Local];

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
