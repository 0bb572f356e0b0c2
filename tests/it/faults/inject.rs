//! The faults: how each is brought about, and how it is mended.

use crate::fixture::{Lab, eventually, lines, ok};
use serde_json::Value;
use std::net::TcpStream;
use std::process::{Child, Command};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The controller is killed.
    Controller,
    /// The agent on the node is killed, and what relays for it; what it started goes on.
    Agent,
    /// What relays between the agent and its controller is killed.
    Relay,
    /// The node's link is cut, and mended after the run.
    Link,
    /// The link is cut for a few seconds.
    Blink,
    /// The node is switched off as it should be, and on.
    Restart,
    /// The node loses its power for a few seconds.
    Power,
    /// The node's disk gets full, and is emptied after the run, or within a long one.
    Disk,
}

impl Kind {
    pub const ALL: [Self; 8] =
        [Self::Controller, Self::Agent, Self::Relay, Self::Link, Self::Blink, Self::Restart, Self::Power, Self::Disk];

    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Relay => "relay",
            Self::Link => "link",
            Self::Blink => "blink",
            Self::Restart => "restart",
            Self::Power => "power",
            Self::Disk => "disk",
        }
    }

    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or_else(|| panic!("no kind of fault is `{name}`"))
    }

    /// Whether a run goes on as if nothing had been.
    pub fn is_survived(self) -> bool {
        matches!(self, Self::Relay | Self::Blink)
    }

    /// Whether services on the node may be down for a while afterwards.
    pub fn restarts_services(self) -> bool {
        matches!(self, Self::Restart | Self::Power | Self::Disk)
    }
}

/// Kills the agent's processes with such arguments. One that has just ended is what was wanted.
fn kill(arguments: &str) -> String {
    format!(
        "for exe in /proc/[0-9]*/exe; do case $(readlink $exe || true) in /var/lib/kprov/agent/*) pid=${{exe%/exe}}
        case $(tr '\\0' ' ' <$pid/cmdline || true) in {arguments}) kill -KILL ${{pid#/proc/}} || true;; esac;; esac; done"
    )
}

/// Takes all the room there is, at once: no block is written.
const FILL: &str = "free=$(df --block-size=1 --output=avail / | tail -n 1)
    while [ $free -gt 4096 ]; do fallocate --length $free /filler.$free || free=$((free * 9 / 10))
    now=$(df --block-size=1 --output=avail / | tail -n 1); [ $now -ge $free ] || free=$now; done
    dd if=/dev/zero of=/filler bs=4k 2>/dev/null || true";

/// For how long at most a disk is full in a run.
const FULL: Duration = Duration::from_secs(15);

fn empty(lab: &Lab, host: &str) {
    lab.inside(host, "rm -f /filler /filler.*");
}

/// A fault that was brought about, and is to be mended.
pub struct Broken {
    pub kind: Kind,
    pub host: String,
    /// Mended while the run goes on.
    pub over: bool,
    since: Instant,
    restarting: Option<Child>,
    returning: Option<JoinHandle<()>>,
}

impl Broken {
    /// A fault that mends itself.
    pub fn nothing(kind: Kind, host: &str) -> Self {
        Self { kind, host: host.to_owned(), over: false, since: Instant::now(), restarting: None, returning: None }
    }

    pub fn start(lab: &Lab, kind: Kind, host: &str) -> Self {
        let mut this = Self::nothing(kind, host);
        match kind {
            Kind::Controller => {}
            Kind::Agent => drop(lab.inside(host, &kill("*"))),
            Kind::Relay => drop(lab.inside(host, &kill("*start*|*attach*"))),
            Kind::Link => drop(ok(&mut lab.lab("link", &[host, "down"]))),
            Kind::Blink => {
                ok(&mut lab.lab("link", &[host, "down"]));
                this.returning = Some(after_a_while(vec![lab.lab("link", &[host, "up"])]));
            }
            Kind::Restart => this.restarting = Some(lab.lab("restart", &[host]).spawn().unwrap()),
            Kind::Power => {
                let status: Vec<Value> = lines(&ok(&mut lab.lab("status", &["--format", "json"])));
                let pid = status.iter().find(|node| node["name"] == host).unwrap()["pid"].to_string();
                ok(Command::new("kill").args(["-KILL", &pid]));
                // What is left of the node is swept away first, as when a machine is switched on.
                this.returning = Some(after_a_while(vec![lab.lab("stop", &[host]), lab.lab("start", &[host])]));
            }
            Kind::Disk => drop(lab.inside(host, FILL)),
        }
        this
    }

    /// Whether this is how a run says that it has survived.
    pub fn is_told_over(&self, said: &str) -> bool {
        self.kind == Kind::Relay && said.starts_with(&format!("{}: the link dropped, re-attached", self.host))
    }

    /// Whether the host may be disturbed again in the same run.
    pub fn is_over(&self) -> bool {
        self.over || self.kind == Kind::Blink && self.returning.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Returns when the node is there again, with all that it had.
    pub fn mend(self, lab: &Lab) {
        let host = self.host.as_str();
        if let Some(returning) = self.returning {
            returning.join().unwrap();
        }
        if let Some(mut restarting) = self.restarting {
            assert!(restarting.wait().unwrap().success(), "{host} did not restart");
        }
        match self.kind {
            Kind::Link => drop(ok(&mut lab.lab("link", &[host, "up"]))),
            Kind::Disk => empty(lab, host),
            _ => {}
        }
    }

    /// Somebody makes room on a full disk before a run has ended, where it waits for what cannot be without.
    pub fn pass(&mut self, lab: &Lab) {
        if self.kind == Kind::Disk && !self.over && self.since.elapsed() > FULL {
            empty(lab, &self.host);
            self.over = true;
        }
    }
}

/// Waits until ssh listens: an address that did not answer a moment ago may count as unreachable for a moment more.
pub fn reachable(lab: &Lab, host: &str) {
    let address = lab.address(host);
    eventually(&format!("{host} to be reachable"), || {
        TcpStream::connect((address.as_str(), 22)).map(drop).map_err(|error| error.to_string())
    });
}

/// Mends a fault while the run goes on.
fn after_a_while(mut commands: Vec<Command>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        for command in &mut commands {
            ok(command);
        }
    })
}

/// Numbers from a seed (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    /// Often at once, now and then when the next tasks are well under way.
    pub fn delay(&mut self) -> Duration {
        let most = [0, 20, 200, 1000][self.below(4)];
        Duration::from_millis(self.below(most + 1) as u64)
    }
}
