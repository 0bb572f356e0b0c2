//! The real agent at work: tasks, blobs, certificates, tunnels, and the ends it may come to.

use crate::sshd::{Sshd, User, kill};
use kprov::agent::client::{Agent, AgentBinary, BlobSource, Events, LaunchError, Lost, OpenBlob};
use kprov::agent::protocol::{FromAgent, StepName, Task, TaskResult, ToAgent};
use kprov::modules::artifact::{self, Artifact, ArtifactFile};
use kprov::modules::attributes::Attributes;
use kprov::modules::command::Program;
use kprov::modules::{self, Blob, Failure, Resource};
use kprov::pki::{self, SigningRequest};
use kprov::system::Mode;
use kprov::transport::{BoxFuture, Connection, Target, Transport, Transports};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub static BINARY: LazyLock<AgentBinary> =
    LazyLock::new(|| AgentBinary::read(Path::new(env!("CARGO_BIN_EXE_kprov-agent"))).unwrap());

/// Nothing here may hang.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("hangs")
}

pub struct NoBlobs;

impl BlobSource for NoBlobs {
    fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
        Box::pin(async { Err(Failure::new(format!("{} is not here", blob.digest))) })
    }
}

pub async fn launch(target: &Target) -> Result<(Agent, Events), LaunchError> {
    launch_with(target, Arc::new(NoBlobs)).await
}

async fn launch_with(target: &Target, blobs: Arc<dyn BlobSource>) -> Result<(Agent, Events), LaunchError> {
    soon(async {
        let session = Transports::default().connect(target).await?;
        Agent::launch(session, target.escalation.as_ref(), &BINARY, blobs).await
    })
    .await
}

#[tokio::test]
async fn a_killed_agent_and_a_dead_link_are_told_apart() {
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh, Connection::Local] {
        let (agent, mut events) = launch(&sshd.target(connection)).await.unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tunnel = soon(agent.tunnel(address.local_addr().unwrap())).await.unwrap();
        kill(peer(&address));
        let lost = soon(events.next()).await.unwrap().unwrap_err();
        assert!(matches!(&lost, Lost::Agent(text) if text.contains("signal")), "{connection:?}: {lost}");
        assert_eq!(soon(events.next()).await, None);
        assert_eq!(soon(tunnel.read(&mut [0; 1])).await.unwrap(), 0, "the tunnel ends with it");
        assert!(soon(agent.tunnel(address.local_addr().unwrap())).await.is_err());
    }
    for connection in [Connection::Openssh, Connection::Russh] {
        let (agent, mut events) = launch(&sshd.target(connection)).await.unwrap();
        sshd.kill_sessions();
        let lost = soon(events.next()).await.unwrap().unwrap_err();
        assert!(matches!(&lost, Lost::Connection(text) if text.contains("lost")), "{connection:?}: {lost}");
        drop(agent);
    }
}

/// The process that has connected to a listener of this process: the agent.
fn peer(listener: &std::net::TcpListener) -> u32 {
    let (stream, address) = listener.accept().unwrap();
    // Columns of proc_pid_net(5): 1 local and 2 remote address, 9 the socket's number, 0 for a connection that is over.
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let (near, far) = (port(address), port(listener.local_addr().unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&near) && row[2].ends_with(&far) && row[9] != "0").unwrap();
    let socket = format!("socket:[{}]", row[9]);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let descriptors = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link == Path::new(&socket))
        {
            drop(stream);
            assert_ne!(pid, std::process::id());
            return pid;
        }
    }
    panic!("nobody has {socket}");
}

#[tokio::test]
async fn tunnels_carry_both_ways_and_do_not_hold_each_other_up() {
    let sshd = Sshd::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    for connection in [Connection::Openssh, Connection::Russh] {
        let (agent, mut events) = launch(&sshd.target(connection)).await.unwrap();
        // One that is written to and never read: it fills its window and stops.
        let mut idle = soon(agent.tunnel(address)).await.unwrap();
        let stuck = tokio::time::timeout(Duration::from_secs(2), idle.write_all(&vec![7; 8 << 20])).await;
        assert!(stuck.is_err(), "nobody reads, so not everything can be written");

        let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(soon(agent.tunnel(address)).await.unwrap());
        let sent = bytes.clone();
        tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        soon(reader.read_to_end(&mut received)).await.unwrap();
        assert!(received == bytes, "{connection:?}: {} bytes came back", received.len());

        soon(agent.facts()).await.unwrap();
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = soon(agent.tunnel(refused)).await.unwrap_err();
        assert!(error.message.contains("refused"), "{error}");
        drop((idle, agent));
        drop(reader);
        assert_eq!(soon(events.next()).await, None, "{connection:?}");
    }
}

/// Runs a script.
pub fn task(seq: u32, script: &str) -> Task {
    let program = Program::Shell { script: script.to_owned(), executable: "/bin/sh".to_owned() };
    let command = modules::command::Command {
        program,
        chdir: None,
        creates: None,
        removes: None,
        stdin: None,
        strip_empty_ends: true,
        probe: false,
        environment: Vec::new(),
    };
    Task {
        seq,
        name: StepName::default(),
        epoch: 0,
        group: seq,
        ignore_errors: false,
        notify: Vec::new(),
        handler: None,
        carried: false,
        expect: None,
        resource: Resource::Command(command),
    }
}

/// Sends tasks at once and waits for how each ends.
pub async fn results(agent: &Agent, events: &mut Events, tasks: Vec<Task>) -> Vec<String> {
    let count = tasks.len();
    for task in tasks {
        agent.send(ToAgent::from(task)).await.unwrap();
    }
    let mut results = Vec::new();
    while results.len() < count {
        if let FromAgent::Done { seq, result } = soon(events.next()).await.unwrap().unwrap() {
            let text = match result {
                TaskResult::Done(outcome) => outcome.result.get("stdout").map(ToString::to_string).unwrap(),
                TaskResult::Failed(_) => "failed".to_owned(),
                TaskResult::NotNeeded => "not needed".to_owned(),
                TaskResult::Dropped => "dropped".to_owned(),
            };
            results.push(format!("{seq}: {text}"));
        }
    }
    results
}

pub async fn begin(agent: &Agent, mode: Mode) {
    soon(agent.begin(mode, None)).await.unwrap();
}

#[tokio::test]
async fn a_failure_drops_the_rest_of_its_epoch() {
    let sshd = Sshd::start();
    let (agent, mut events) = launch(&sshd.target(Connection::Local)).await.unwrap();
    begin(&agent, Mode::Apply).await;
    let tasks = vec![
        task(1, "echo one"),
        Task { ignore_errors: true, ..task(2, "exit 1") },
        task(3, "echo three"),
        Task { group: 4, ..task(4, "echo item") },
        Task { group: 4, ..task(5, "exit 1") },
        Task { group: 4, ..task(6, "echo item") },
        task(7, "echo never"),
        Task { epoch: 1, ..task(8, "echo rescue") },
        Task { epoch: 1, ..task(9, "echo rescue") },
    ];
    let found = results(&agent, &mut events, tasks).await;
    let expected =
        ["1: one", "2: failed", "3: three", "4: item", "5: failed", "6: item", "7: dropped", "8: rescue", "9: rescue"];
    assert_eq!(found, expected);

    agent.send(ToAgent::Cancel { now: true }).await.unwrap();
    assert_eq!(results(&agent, &mut events, vec![Task { epoch: 2, ..task(10, "echo no") }]).await, ["10: dropped"]);
}

#[tokio::test]
async fn facts_are_of_the_host() {
    let sshd = Sshd::start();
    let (agent, _events) = launch(&sshd.target(Connection::Openssh)).await.unwrap();
    let facts = soon(agent.facts()).await.unwrap();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(facts.get("ansible_kernel").and_then(|kernel| kernel.as_str()), Some(kernel.trim()));
}

#[tokio::test]
async fn what_a_killed_run_notified_is_run_by_the_next() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "notify");
    let target = user.target(&sshd, Connection::Openssh);
    let handler = "kubelet : Restart kubelet".to_owned();
    let notify = vec![handler.clone()];
    let handle = |seq| Task { handler: Some(handler.clone()), carried: true, ..task(seq, "echo restarted") };

    let (agent, mut events) = launch(&target).await.unwrap();
    begin(&agent, Mode::Plan).await;
    let planned = vec![Task { notify: notify.clone(), ..task(1, "echo changed") }, handle(2)];
    // What a program prints is not known in a plan, but that it would run is.
    let found = results(&agent, &mut events, planned).await;
    assert!(found[1].starts_with("2: ") && !found[1].contains("not needed"), "{found:?}");

    begin(&agent, Mode::Apply).await;
    assert_eq!(results(&agent, &mut events, vec![handle(3)]).await, ["3: not needed"]);
    agent.send(ToAgent::from(Task { notify, ..task(4, "kill -9 $PPID") })).await.unwrap();
    while let Some(Ok(_)) = soon(events.next()).await {}

    let (agent, mut events) = launch(&target).await.unwrap();
    begin(&agent, Mode::Apply).await;
    let found = results(&agent, &mut events, vec![handle(5), handle(6)]).await;
    assert_eq!(found, ["5: restarted", "6: not needed"]);
}

#[tokio::test]
async fn when_the_link_drops_the_task_in_hand_is_finished_and_no_other() {
    let sshd = Sshd::start();
    let directory = tempfile::tempdir().unwrap();
    for connection in [Connection::Openssh, Connection::Russh] {
        let file = |name: &str| directory.path().join(format!("{name}-{connection:?}"));
        let (agent, mut events) = launch(&sshd.target(connection)).await.unwrap();
        begin(&agent, Mode::Apply).await;
        // The task waits until the link is gone, and then goes on.
        let wait = format!(
            "until [ -e {0} ]; do sleep 0.01; done; echo $PPID >{1}.tmp; mv {1}.tmp {1}",
            file("go").display(),
            file("first").display()
        );
        agent.send(ToAgent::from(task(1, &wait))).await.unwrap();
        agent.send(ToAgent::from(task(2, &format!("touch {}", file("second").display())))).await.unwrap();
        assert_eq!(soon(events.next()).await, Some(Ok(FromAgent::Started { seq: 1 })));
        sshd.kill_sessions();
        while let Some(Ok(_)) = soon(events.next()).await {}
        std::fs::write(file("go"), "").unwrap();
        let agent = soon(async {
            loop {
                if let Ok(pid) = std::fs::read_to_string(file("first")) {
                    return pid.trim().to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let gone = async {
            while Path::new("/proc").join(&agent).join("exe").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(gone).await;
        assert!(!file("second").exists(), "{connection:?}: a task was begun without a controller");
    }
}

#[tokio::test]
async fn certificates_are_signed_beside_the_tasks() {
    let sshd = Sshd::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = pki::create_authority("test CA", 10).unwrap();
    std::fs::write(path("ca.crt"), &certificate).unwrap();
    std::fs::write(path("ca.key"), key.to_pem().as_bytes()).unwrap();
    let subject = pki::Subject { common_name: "system:node:n1".to_owned(), organization: Vec::new() };
    let request = SigningRequest {
        ca_certificate: path("ca.crt"),
        ca_key: path("ca.key"),
        csr: pki::request(&pki::Key::generate().unwrap(), &subject, &[]).unwrap(),
        usages: vec!["client auth".to_owned()],
        days: 5,
    };
    let (agent, mut events) = launch(&sshd.target(Connection::Local)).await.unwrap();
    begin(&agent, Mode::Apply).await;
    // A task that waits for the certificate, as one on another host would.
    let wait = format!("until [ -e {} ]; do sleep 0.01; done", path("signed"));
    agent.send(ToAgent::from(task(1, &wait))).await.unwrap();

    let signed = soon(agent.sign(request.clone())).await.unwrap();
    let authority = pki::Certificate::from_pem(&certificate).unwrap();
    assert!(pki::Certificate::from_pem(&signed).unwrap().issued_by(&authority));
    let missing = SigningRequest { ca_key: path("missing.key"), ..request };
    assert!(soon(agent.sign(missing)).await.unwrap_err().message.contains("missing.key"));

    std::fs::write(path("signed"), "").unwrap();
    assert_eq!(soon(events.next()).await, Some(Ok(FromAgent::Started { seq: 1 })));
    assert!(matches!(soon(events.next()).await, Some(Ok(FromAgent::Done { seq: 1, result: TaskResult::Done(_) }))));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Serves one blob; after its first bytes only when it is told to go on.
struct OneBlob {
    bytes: Vec<u8>,
    sha256: String,
    go_on: Arc<tokio::sync::Notify>,
}

impl BlobSource for OneBlob {
    fn open<'a>(&'a self, _: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
        Box::pin(async move {
            let (mut writer, reader) = tokio::io::duplex(64 << 10);
            let (bytes, go_on) = (self.bytes.clone(), self.go_on.clone());
            tokio::spawn(async move {
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                let _ = writer.write_all(first).await;
                go_on.notified().await;
                let _ = writer.write_all(rest).await;
            });
            Ok(OpenBlob { reader: Box::new(reader), sha256: self.sha256.clone() })
        })
    }
}

/// Installs a published file.
fn install(seq: u32, dest: &Path, digest: &str) -> Task {
    let file = ArtifactFile { member: None, path: "file".to_owned(), mode: 0o644 };
    let artifact = Artifact {
        dest: dest.to_owned(),
        digest: format!("sha256:{digest}"),
        files: vec![file],
        attributes: Attributes::default(),
    };
    Task { resource: Resource::Artifact(artifact), ..task(seq, "") }
}

async fn failed(events: &mut Events) -> String {
    match soon(events.next()).await {
        Some(Ok(FromAgent::Done { result: TaskResult::Failed(failure), .. })) => failure.message,
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test]
async fn a_blob_is_sent_where_it_is_needed_and_nothing_waits_for_it() {
    let sshd = Sshd::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bytes: Vec<u8> = (0..20_000_000u32).map(|i| (i / 7) as u8).collect();
    let digest = sha256(&bytes);
    for connection in [Connection::Openssh, Connection::Russh] {
        let directory = tempfile::tempdir().unwrap();
        let go_on = Arc::new(tokio::sync::Notify::new());
        let blob = OneBlob { bytes: bytes.clone(), sha256: digest.clone(), go_on: go_on.clone() };
        let (agent, mut events) = launch_with(&sshd.target(connection), Arc::new(blob)).await.unwrap();
        begin(&agent, Mode::Apply).await;
        agent.send(ToAgent::from(install(1, directory.path(), &digest))).await.unwrap();
        assert_eq!(soon(events.next()).await, Some(Ok(FromAgent::Started { seq: 1 })));
        // The blob hangs in the middle; the rest of the wire does not.
        drop(soon(agent.tunnel(listener.local_addr().unwrap())).await.unwrap());
        go_on.notify_one();
        let Some(Ok(FromAgent::Done { seq: 1, result: TaskResult::Done(outcome) })) = soon(events.next()).await else {
            panic!("{connection:?}: not installed")
        };
        assert!(outcome.changed);
        assert!(std::fs::read(directory.path().join("file")).unwrap() == bytes, "{connection:?}");

        agent.send(ToAgent::from(install(2, directory.path(), &digest))).await.unwrap();
        assert_eq!(soon(events.next()).await, Some(Ok(FromAgent::Started { seq: 2 })));
        let Some(Ok(FromAgent::Done { result: TaskResult::Done(outcome), .. })) = soon(events.next()).await else {
            panic!("{connection:?}: failed the second time")
        };
        assert!(!outcome.changed, "nobody tells it to go on: it must not be asked for again");
    }
}

#[tokio::test]
async fn a_damaged_or_absent_blob_installs_nothing() {
    let sshd = Sshd::start();
    let directory = tempfile::tempdir().unwrap();
    let digest = sha256(b"what was published");
    let go_on = Arc::new(tokio::sync::Notify::new());
    go_on.notify_one();
    let damaged = OneBlob { bytes: vec![1; 1_000_000], sha256: digest.clone(), go_on };
    let blobs: [(Arc<dyn BlobSource>, &str); 2] =
        [(Arc::new(damaged), "arrived damaged"), (Arc::new(NoBlobs), "is not here")];
    for (source, expected) in blobs {
        let (agent, mut events) = launch_with(&sshd.target(Connection::Openssh), source).await.unwrap();
        begin(&agent, Mode::Apply).await;
        agent.send(ToAgent::from(install(1, directory.path(), &digest))).await.unwrap();
        assert_eq!(soon(events.next()).await, Some(Ok(FromAgent::Started { seq: 1 })));
        let message = failed(&mut events).await;
        assert!(message.contains(expected), "{message}");
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let files: Vec<_> = files.filter(|name| name != artifact::STAMP).collect();
        assert!(files.is_empty(), "{files:?}");
    }
}
