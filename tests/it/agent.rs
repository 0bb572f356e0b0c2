//! The real agent, started by the real client over a real session.

use crate::sshd::{Sshd, User, kill, run};
use kprov::agent::client::{Agent, AgentBinary, BlobSource, Events, LaunchError, Lost, OpenBlob};
use kprov::agent::protocol::{FromAgent, Task, TaskResult, ToAgent};
use kprov::modules::command::Program;
use kprov::modules::{self, Blob, Failure, Resource};
use kprov::pki::{self, SigningRequest};
use kprov::system::Mode;
use kprov::transport::{Become, BoxFuture, Connection, Target, Transport, Transports};
use kprov::vars::Secret;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

static BINARY: LazyLock<AgentBinary> =
    LazyLock::new(|| AgentBinary::read(Path::new(env!("CARGO_BIN_EXE_kprov-agent"))).unwrap());

/// Nothing here may hang.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("hangs")
}

struct NoBlobs;

impl BlobSource for NoBlobs {
    fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
        Box::pin(async { Err(Failure::new(format!("{} is not here", blob.digest))) })
    }
}

pub async fn launch(target: &Target) -> Result<(Agent, Events), LaunchError> {
    soon(async {
        let session = Transports::default().connect(target).await?;
        Agent::launch(session, target.escalation.as_ref(), &BINARY, Arc::new(NoBlobs)).await
    })
    .await
}

fn escalated(target: Target, user: &str, password: Option<&str>) -> Target {
    Target { escalation: Some(Become { user: user.to_owned(), password: password.map(Secret::new) }), ..target }
}

/// Launches, checks that the agent answers, and ends it.
async fn answers(target: &Target) {
    let (agent, mut events) = launch(target).await.unwrap_or_else(|error| panic!("{:?}: {error}", target.connection));
    agent.send(ToAgent::Facts).await.unwrap();
    assert!(matches!(soon(events.next()).await, Some(Ok(FromAgent::Facts(_)))));
    drop(agent);
    assert_eq!(soon(events.next()).await, None);
}

async fn failure(target: &Target) -> String {
    match launch(target).await {
        Ok(_) => panic!("it starts"),
        Err(LaunchError::Connect(error)) => panic!("not a matter of the connection: {error}"),
        Err(LaunchError::Failed(text)) => {
            assert!(!text.contains('\n') && !text.contains(User::PASSWORD), "{text}");
            text
        }
    }
}

#[tokio::test]
async fn starts_and_ends() {
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh, Connection::Local] {
        answers(&sshd.target(connection)).await;
    }
}

/// Where an agent that does not run as root lies.
fn stored(user: &User) -> PathBuf {
    user.home.join(".local/state/kprov/agent")
}

#[tokio::test]
async fn is_sent_once_and_replaced_when_it_is_not_itself() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "once");
    let target = user.target(&sshd, Connection::Openssh);
    let file = stored(&user).join(&BINARY.sha256).join("kprov-agent");
    let inode = || std::fs::metadata(&file).unwrap().ino();

    // An agent of another build, which is not needed any more, and start-up files that print something.
    std::fs::create_dir_all(stored(&user).join("0123/4567")).unwrap();
    run(Command::new("touch").args(["-d", "2 days ago"]).arg(stored(&user).join("0123")), "");
    chown(&user, &user.home.join(".local"));
    std::fs::write(user.home.join(".profile"), "echo welcome").unwrap();

    answers(&target).await;
    let first = inode();
    let directory = file.parent().unwrap();
    assert_eq!(std::fs::metadata(directory).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1, "nothing but the agent");
    assert_eq!(std::fs::read_dir(stored(&user)).unwrap().count(), 1, "the old build is gone");
    assert_eq!(std::fs::read(&file).unwrap(), BINARY.bytes);

    answers(&target).await;
    assert_eq!(inode(), first, "sent again");

    let half = &BINARY.bytes[..BINARY.bytes.len() / 2];
    for damaged in [&b""[..], half, b"#!/bin/sh\nexec cat\n"] {
        // A new file: a running program cannot be written to.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, damaged).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        answers(&target).await;
        assert_eq!(std::fs::read(&file).unwrap(), BINARY.bytes);
    }
}

#[tokio::test]
async fn half_an_agent_is_not_run() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "half");
    for connection in [Connection::Openssh, Connection::Russh] {
        let target = user.target(&sshd, connection);
        let session = Transports::default().connect(&target).await.unwrap();
        let mut cut = AgentBinary::read(&BINARY.path).unwrap();
        cut.bytes.fill(0);
        let error = soon(Agent::launch(session, None, &cut, Arc::new(NoBlobs))).await.err().unwrap();
        assert!(error.to_string().contains("did not arrive whole"), "{error}");
        assert_eq!(std::fs::read_dir(stored(&user).join(&BINARY.sha256)).unwrap().count(), 0, "nothing is left behind");
    }
}

fn chown(user: &User, path: &Path) {
    run(Command::new("chown").arg("-R").arg(&user.name).arg(path), "");
}

#[tokio::test]
async fn for_another_machine() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = BINARY.bytes.clone();
    bytes[18] = if bytes[18] == 183 { 62 } else { 183 };
    std::fs::write(directory.path().join("other"), bytes).unwrap();
    let other = AgentBinary::read(&directory.path().join("other")).unwrap();
    let sshd = Sshd::start();
    let session = Transports::default().connect(&sshd.target(Connection::Openssh)).await.unwrap();
    let error = soon(Agent::launch(session, None, &other, Arc::new(NoBlobs))).await.err().unwrap();
    assert!(error.to_string().starts_with("the host is "), "{error}");
}

#[tokio::test]
async fn becomes_root_with_a_password() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "sudo");
    user.sudoers("USER ALL=(ALL:ALL) ALL\n");
    for connection in [Connection::Openssh, Connection::Russh] {
        let target = user.target(&sshd, connection);
        answers(&escalated(target.clone(), "root", Some(User::PASSWORD))).await;
        let error = failure(&escalated(target.clone(), "root", Some("wrong"))).await;
        assert!(error.contains("sudo refused the password"), "{error}");
        let error = failure(&escalated(target, "root", None)).await;
        assert!(error.contains("give it with -K"), "{error}");
    }
    assert!(Path::new("/var/lib/kprov/agent").join(&BINARY.sha256).exists());
    assert!(!stored(&user).exists());
}

#[tokio::test]
async fn a_password_that_sudo_does_not_want_goes_nowhere() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "free");
    let other = User::create(&sshd, "other");
    user.sudoers("USER ALL=(ALL:ALL) NOPASSWD: ALL\n");
    for connection in [Connection::Openssh, Connection::Russh] {
        let target = user.target(&sshd, connection);
        answers(&escalated(target.clone(), "root", Some(User::PASSWORD))).await;
        answers(&escalated(target.clone(), "root", None)).await;
        // Twice: with and without sending the agent.
        answers(&escalated(target.clone(), &other.name, Some(User::PASSWORD))).await;
        answers(&escalated(target, &other.name, Some(User::PASSWORD))).await;
    }
    assert!(stored(&other).join(&BINARY.sha256).exists());
}

#[tokio::test]
async fn why_sudo_does_not_go() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    let user = User::create(&sshd, "nosudo");
    let target = user.target(&sshd, Connection::Openssh);
    let error = failure(&escalated(target.clone(), "root", Some(User::PASSWORD))).await;
    assert!(error.contains("is not in the sudoers file"), "{error}");

    user.sudoers("Defaults:USER requiretty\nUSER ALL=(ALL:ALL) NOPASSWD: ALL\n");
    let error = failure(&escalated(target.clone(), "root", None)).await;
    assert!(error.contains("requiretty"), "{error}");

    user.sudoers("USER ALL=(ALL:ALL) NOPASSWD: ALL\n");
    let error = failure(&escalated(target, "no-such-user", None)).await;
    assert!(error.contains("unknown user"), "{error}");
}

/// A directory with nothing but these programs, for `PATH`.
fn only(programs: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for program in programs {
        symlink(Path::new("/usr/bin").join(program), directory.path().join(program)).unwrap();
    }
    directory
}

#[tokio::test]
async fn what_a_host_may_lack() {
    if !User::possible() {
        return;
    }
    let path = only(&["sh", "id", "mkdir", "uname"]);
    let sshd = Sshd::start_with("127.0.0.1", &format!("SetEnv PATH={}", path.path().display()));
    let user = User::create(&sshd, "bare");
    let target = user.target(&sshd, Connection::Openssh);
    let error = failure(&target).await;
    assert!(error.contains("no sha256sum"), "{error}");
    let error = failure(&escalated(target, "root", None)).await;
    assert!(error.contains("no sudo"), "{error}");
}

/// A small file system over the user's directory of agents.
struct Mounted(PathBuf);

impl Mounted {
    fn over(user: &User, options: &str) -> Self {
        let directory = user.home.join(".local/state/kprov");
        std::fs::create_dir_all(&directory).unwrap();
        chown(user, &user.home.join(".local"));
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&directory), "");
        chown(user, &directory);
        Self(directory)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_and_one_that_runs_nothing() {
    if !User::possible() {
        return;
    }
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh] {
        let user = User::create(&sshd, "disk");
        let target = user.target(&sshd, connection);
        let full = Mounted::over(&user, "size=64k");
        let error = failure(&target).await;
        assert!(error.contains("No space left on device"), "{error}");
        drop(full);
        let _inert = Mounted::over(&user, "noexec");
        let error = failure(&target).await;
        assert!(error.contains("noexec"), "{error}");
    }
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
    let port = format!(":{:04X} ", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // Local address in the second column, the socket's number in the tenth; 0 for a connection that is over.
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| format!("{} ", row[1]).ends_with(&port) && row[9] != "0").unwrap();
    let socket = format!("socket:[{}]", row[9]);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let descriptors = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link == Path::new(&socket))
        {
            drop(stream);
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

        agent.send(ToAgent::Facts).await.unwrap();
        assert!(matches!(soon(events.next()).await, Some(Ok(FromAgent::Facts(_)))));
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = soon(agent.tunnel(refused)).await.unwrap_err();
        assert!(error.message.contains("refused"), "{error}");
        drop((idle, agent));
        drop(reader);
        assert_eq!(soon(events.next()).await, None, "{connection:?}");
    }
}

/// Runs a script.
fn task(seq: u32, script: &str) -> Task {
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
        epoch: 0,
        group: seq,
        ignore_errors: false,
        notify: Vec::new(),
        handler: None,
        carried: false,
        resource: Resource::Command(command),
    }
}

/// Sends tasks at once and waits for how each ends.
async fn results(agent: &Agent, events: &mut Events, tasks: Vec<Task>) -> Vec<String> {
    let count = tasks.len();
    for task in tasks {
        agent.send(ToAgent::Task(task)).await.unwrap();
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

async fn begin(agent: &Agent, mode: Mode) {
    agent.send(ToAgent::Begin { mode }).await.unwrap();
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

    agent.send(ToAgent::Cancel).await.unwrap();
    assert_eq!(results(&agent, &mut events, vec![Task { epoch: 2, ..task(10, "echo no") }]).await, ["10: dropped"]);
}

#[tokio::test]
async fn facts_are_of_the_host() {
    let sshd = Sshd::start();
    let (agent, mut events) = launch(&sshd.target(Connection::Openssh)).await.unwrap();
    agent.send(ToAgent::Facts).await.unwrap();
    let Some(Ok(FromAgent::Facts(Ok(facts)))) = soon(events.next()).await else { panic!("no facts") };
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
    agent.send(ToAgent::Task(Task { notify, ..task(4, "kill -9 $PPID") })).await.unwrap();
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
        agent.send(ToAgent::Task(task(1, &wait))).await.unwrap();
        agent.send(ToAgent::Task(task(2, &format!("touch {}", file("second").display())))).await.unwrap();
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
    agent.send(ToAgent::Task(task(1, &wait))).await.unwrap();

    let signed = soon(agent.sign(request.clone())).await.unwrap();
    let authority = pki::Certificate::from_pem(&certificate).unwrap();
    assert!(pki::Certificate::from_pem(&signed).unwrap().issued_by(&authority));
    let missing = SigningRequest { ca_key: path("missing.key"), ..request };
    assert!(soon(agent.sign(missing)).await.unwrap_err().message.contains("missing.key"));

    std::fs::write(path("signed"), "").unwrap();
    assert_eq!(soon(events.next()).await, Some(Ok(FromAgent::Started { seq: 1 })));
    assert!(matches!(soon(events.next()).await, Some(Ok(FromAgent::Done { seq: 1, result: TaskResult::Done(_) }))));
}
