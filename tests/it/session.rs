//! The agent that outlives its links: cut, hung, replaced, killed, given up.

use crate::agent::{BINARY, NoBlobs, begin, results, soon, task};
use crate::sshd::{Sshd, children, kill};
use kprov::agent::client::{Agent, AgentBinary, Events, Lost, Patience, Route};
use kprov::agent::protocol::{FromAgent, TaskResult, ToAgent};
use kprov::system::Mode;
use kprov::transport::{Connection, Target, Transports};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SSH: [Connection; 2] = [Connection::Openssh, Connection::Russh];

/// An agent, its answers, and what is told of its link.
struct Host {
    agent: Agent,
    events: Events,
    told: UnboundedReceiver<String>,
}

impl Host {
    async fn launch(target: Target, patience: Patience) -> Self {
        let (sender, told) = unbounded_channel();
        let route = Route {
            transport: Arc::new(Transports::default()),
            target,
            binary: Arc::new(AgentBinary::read(&BINARY.path).unwrap()),
            patience,
            tell: Box::new(move |text| drop(sender.send(text))),
        };
        let (agent, events) = soon(Agent::launch_detached(route, Arc::new(NoBlobs))).await.unwrap();
        begin(&agent, Mode::Apply).await;
        Self { agent, events, told }
    }

    async fn results(&mut self, tasks: Vec<kprov::agent::protocol::Task>) -> Vec<String> {
        results(&self.agent, &mut self.events, tasks).await
    }

    async fn told(&mut self, part: &str) {
        let told = soon(self.told.recv()).await.unwrap();
        assert!(told.contains(part) && !told.contains('\n'), "{told}");
    }

    /// The process that does the work, and its socket.
    async fn worker(&mut self, seq: u32) -> (u32, PathBuf) {
        let found = self.results(vec![task(seq, "echo $PPID")]).await;
        let pid = found[0].rsplit(' ').next().unwrap().parse().unwrap();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word)).collect();
        assert_eq!(words[2], "work", "{words:?}");
        (pid, Path::new(&*words[1]).join("run").join(format!("{}.sock", words[3])))
    }

    async fn lost(&mut self) -> Lost {
        loop {
            if let Err(lost) = soon(self.events.next()).await.unwrap() {
                return lost;
            }
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).join("exe").exists()
}

#[tokio::test]
async fn a_dropped_link_loses_nothing_and_repeats_nothing() {
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
    for connection in SSH {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let mut host = Host::launch(sshd.target(connection), Patience::of(Duration::from_secs(90))).await;
        let (worker, socket) = host.worker(1000).await;

        // Bytes go both ways through the whole of it.
        let bytes: Vec<u8> = (0..30_000_000u32).map(|i| (i % 251) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(soon(host.agent.tunnel(address)).await.unwrap());
        let sent = bytes.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.unwrap();
            received
        });

        let tasks: Vec<_> = (1..=60)
            .map(|seq| {
                let wait = format!("until [ -e {} ]; do sleep 0.01; done; ", file(&format!("go{seq}")));
                let wait = if seq % 20 == 0 { wait } else { String::new() };
                task(seq, &format!("{wait}echo {seq} >>{}; echo {seq}", file("done")))
            })
            .collect();
        let cut = async {
            for seq in [20, 40, 60] {
                let before = (seq - 1).to_string();
                let reached = || fs::read_to_string(file("done")).is_ok_and(|t| t.lines().last() == Some(&before));
                until("the tasks before", reached).await;
                sshd.kill_sessions();
                loop {
                    let told = soon(host.told.recv()).await.unwrap();
                    if told.contains("re-attached after") {
                        break;
                    }
                    assert!(told.starts_with("the link dropped, trying"), "{told}");
                }
                fs::write(file(&format!("go{seq}")), "").unwrap();
            }
        };
        let (found, ()) = tokio::join!(results(&host.agent, &mut host.events, tasks), cut);
        let expected: Vec<_> = (1..=60).map(|seq| format!("{seq}: {seq}")).collect();
        assert_eq!(found, expected, "{connection:?}");
        let lines: String = (1..=60).map(|seq| format!("{seq}\n")).collect();
        assert_eq!(fs::read_to_string(file("done")).unwrap(), lines, "{connection:?}");
        soon(writing).await.unwrap();
        assert!(soon(reading).await.unwrap() == bytes, "{connection:?}");

        assert_eq!(host.worker(1001).await, (worker, socket.clone()), "the same one all the time");
        drop(host.agent);
        assert_eq!(soon(host.events.next()).await, None, "{connection:?}");
        until("the worker is gone", || !runs(worker)).await;
        assert!(!socket.exists() && !socket.with_extension("log").exists());
    }
}

#[tokio::test]
async fn a_link_that_hangs_is_given_up() {
    let hung = SSH.map(|connection| async move {
        let sshd = Sshd::start();
        let mut host = Host::launch(sshd.target(connection), Patience::of(Duration::from_secs(90))).await;
        let (worker, _) = host.worker(1).await;
        let sessions = children(sshd.pid());
        for pid in &sessions {
            kill_process(Pid::from_raw(*pid as i32).unwrap(), Signal::STOP).unwrap();
        }
        let tasks = vec![task(2, "echo two"), task(3, "echo three")];
        assert_eq!(host.results(tasks).await, ["2: two", "3: three"], "{connection:?}");
        host.told("trying to re-attach").await;
        host.told("re-attached after").await;
        assert_eq!(host.worker(4).await.0, worker);
        for pid in sessions {
            kill(pid);
        }
    });
    let [first, second] = hung;
    tokio::join!(first, second);
}

#[tokio::test]
async fn a_worker_that_nobody_comes_back_to_ends() {
    for connection in SSH {
        let mut sshd = Sshd::start();
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let patience = Patience { controller: Duration::from_secs(1), agent: Duration::from_secs(2) };
        let mut host = Host::launch(sshd.target(connection), patience).await;
        let (worker, socket) = host.worker(1).await;
        let wait = format!("until [ -e {} ]; do sleep 0.01; done; touch {}", file("go").display(), file("1").display());
        host.agent.send(ToAgent::from(task(2, &wait))).await.unwrap();
        host.agent.send(ToAgent::from(task(3, &format!("touch {}", file("2").display())))).await.unwrap();
        assert_eq!(soon(host.events.next()).await, Some(Ok(FromAgent::Started { seq: 2 })));
        sshd.stop();
        let lost = host.lost().await;
        assert!(matches!(&lost, Lost::Connection(text) if text.contains("not there again")), "{connection:?}: {lost}");
        assert!(runs(worker), "the task in hand is finished first");
        fs::write(file("go"), "").unwrap();
        until("the worker is gone", || !runs(worker)).await;
        assert!(file("1").exists() && !file("2").exists(), "{connection:?}");
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn a_killed_worker_is_told_from_a_dead_link() {
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Russh, Connection::Local] {
        let mut host = Host::launch(sshd.target(connection), Patience::of(Duration::from_secs(90))).await;
        let (worker, socket) = host.worker(1).await;
        kill(worker);
        let lost = host.lost().await;
        assert_eq!(lost, Lost::Agent("the agent was killed by signal 9".to_owned()), "{connection:?}");
        assert!(socket.exists(), "nobody was left to remove it");

        // The next one cleans up.
        let mut host = Host::launch(sshd.target(connection), Patience::of(Duration::from_secs(90))).await;
        let (_, next) = host.worker(1).await;
        assert!(!socket.exists() && next.exists(), "{connection:?}");
    }
}

#[tokio::test]
async fn a_worker_that_is_gone_is_not_found_again() {
    let sshd = Sshd::start();
    for connection in SSH {
        let mut host = Host::launch(sshd.target(connection), Patience::of(Duration::from_secs(90))).await;
        let (worker, _) = host.worker(1).await;
        // As when a host is restarted: first the link, then the worker before anybody is back.
        let sessions = children(sshd.pid());
        kill_process(Pid::from_raw(worker as i32).unwrap(), Signal::STOP).unwrap();
        for pid in sessions {
            kill(pid);
        }
        kill(worker);
        let lost = host.lost().await;
        assert!(matches!(&lost, Lost::Agent(text) if text.contains("is gone")), "{connection:?}: {lost}");
    }
}

#[tokio::test]
async fn a_dropped_relay_is_replaced() {
    let sshd = Sshd::start();
    let mut host = Host::launch(sshd.target(Connection::Local), Patience::of(Duration::from_secs(90))).await;
    let (worker, _) = host.worker(1).await;
    let relay = children(std::process::id()).into_iter().find(|pid| children(*pid).contains(&worker)).unwrap();
    kill(relay);
    host.told("trying to re-attach").await;
    host.told("re-attached after").await;
    assert_eq!(host.worker(2).await.0, worker);
    let found = host.results(vec![task(3, "exit 1"), task(4, "echo no")]).await;
    assert_eq!(found, ["3: failed", "4: dropped"]);
    host.agent.send(ToAgent::Cancel { now: false }).await.unwrap();
    drop(host.agent);
    while let Some(event) = soon(host.events.next()).await {
        assert!(!matches!(event, Ok(FromAgent::Done { result: TaskResult::Done(_), .. }) | Err(_)), "{event:?}");
    }
}
