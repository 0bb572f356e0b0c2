//! The real agent, started by the real client: sent once, through sudo, on hosts where something is in the way.

use crate::agent::{BINARY, NoBlobs, launch, soon};
use crate::sshd::{Sshd, User, run};
use kprov::agent::client::{Agent, AgentBinary, LaunchError};
use kprov::transport::{Become, Connection, Target, Transport, Transports};
use kprov::vars::Secret;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

fn escalated(target: Target, user: &str, password: Option<&str>) -> Target {
    Target { escalation: Some(Become { user: user.to_owned(), password: password.map(Secret::new) }), ..target }
}

/// Launches, checks that the agent answers, and ends it.
async fn answers(target: &Target) {
    let (agent, mut events) = launch(target).await.unwrap_or_else(|error| panic!("{:?}: {error}", target.connection));
    soon(agent.facts()).await.unwrap();
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
