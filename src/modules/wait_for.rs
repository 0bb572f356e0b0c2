//! `wait_for`: waits until a port answers or a path is there, or until it is not.
//!
//! Arguments as in Ansible's `wait_for`, without `search_regex` and `drained`. Never a change. A plan does not wait: what it
//! would wait for is what the plan would do. Without `sleep` the condition is looked at ten times a second, not once.

use super::{Applied, Diff, Failure, Module, Needs};
use crate::system::{Command, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the condition and the end of the run are looked at.
const TICK: Duration = Duration::from_millis(100);

/// What to wait for, and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitFor {
    pub condition: Condition,
    /// Whether to wait until it is not so.
    pub negated: bool,
    pub timeout: Duration,
    /// Before the first look.
    pub delay: Duration,
    /// Between two looks.
    pub sleep: Duration,
    pub connect_timeout: Duration,
    /// Said instead of what was waited for.
    pub msg: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    Port { host: String, port: u16 },
    Path(PathBuf),
    /// Only time.
    Nothing,
}

#[cfg(feature = "controller")]
impl WaitFor {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::{ArgError, Args};
        fn seconds(args: &mut Args<'_>, name: &'static str) -> Result<Option<Duration>, ArgError> {
            let Some(seconds) = args.opt_int(name)? else { return Ok(None) };
            let negative = |_| ArgError::new(name, format!("`{name}` is {seconds}, expected seconds from 0"));
            u64::try_from(seconds).map(Duration::from_secs).map(Some).map_err(negative)
        }
        let host = args.opt_str("host")?.unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = args.opt_int("port")?;
        let path = args.opt_str("path")?;
        let state = args.choice("state", &["started", "present", "stopped", "absent"])?.unwrap_or("started");
        let timeout = seconds(&mut args, "timeout")?.unwrap_or(Duration::from_secs(300));
        let delay = seconds(&mut args, "delay")?.unwrap_or_default();
        let sleep = seconds(&mut args, "sleep")?.unwrap_or_default().max(TICK);
        let connect_timeout = seconds(&mut args, "connect_timeout")?.unwrap_or(Duration::from_secs(5));
        let msg = args.opt_str("msg")?;
        args.finish()?;
        let condition = match (port, path) {
            (Some(_), Some(_)) => return Err(ArgError::new("path", "wait for a port or for a path, not for both")),
            (Some(port), None) => {
                let bad = |_| ArgError::new("port", format!("`port` is {port}, expected 1 to 65535"));
                Condition::Port { host, port: u16::try_from(port).map_err(bad)? }
            }
            (None, Some(path)) => Condition::Path(path.into()),
            (None, None) => Condition::Nothing,
        };
        let negated = matches!(state, "stopped" | "absent");
        let connect_timeout = connect_timeout.max(TICK);
        Ok(Self { condition, negated, timeout, delay, sleep, connect_timeout, msg })
    }
}

impl WaitFor {
    fn what(&self) -> String {
        match (&self.condition, self.negated) {
            (Condition::Port { host, port }, false) => format!("{host}:{port} to answer"),
            (Condition::Port { host, port }, true) => format!("{host}:{port} to stop answering"),
            (Condition::Path(path), false) => format!("{} to be there", path.display()),
            (Condition::Path(path), true) => format!("{} to be gone", path.display()),
            (Condition::Nothing, _) => format!("{} s to pass", self.timeout.as_secs()),
        }
    }

    fn is_met(&self, addresses: &[IpAddr], view: View<'_>) -> Result<bool, Failure> {
        let holds = match &self.condition {
            Condition::Port { port, .. } => addresses
                .iter()
                .any(|ip| TcpStream::connect_timeout(&SocketAddr::new(*ip, *port), self.connect_timeout).is_ok()),
            Condition::Path(path) => view.fs().exists(path)?,
            Condition::Nothing => return Ok(false),
        };
        Ok(holds != self.negated)
    }

    /// The addresses of the host; none while its name is not known.
    fn addresses(&self, view: View<'_>) -> Result<Vec<IpAddr>, Failure> {
        let Condition::Port { host, .. } = &self.condition else { return Ok(Vec::new()) };
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        // Not the C library: a static one cannot load the name services.
        let output = view.processes().probe(&Command::new(["getent", "--", "ahosts", host]))?;
        let addresses = output.stdout.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
        let mut addresses: Vec<IpAddr> = addresses.collect();
        addresses.dedup();
        Ok(addresses)
    }

    fn wait(&self, view: View<'_>, needs: &dyn Needs) -> Result<Duration, Failure> {
        let started = Instant::now();
        pause(self.delay, needs)?;
        loop {
            let addresses = self.addresses(view)?;
            if self.is_met(&addresses, view)? {
                return Ok(started.elapsed());
            }
            let left = self.timeout.saturating_sub(started.elapsed());
            if left.is_zero() && self.condition == Condition::Nothing {
                return Ok(started.elapsed());
            }
            if left.is_zero() {
                let unknown = matches!(&self.condition, Condition::Port { .. } if addresses.is_empty());
                let hint = if unknown { " (its name cannot be resolved)" } else { "" };
                let waited = || format!("waited {} s for {}{hint}", self.timeout.as_secs(), self.what());
                let result = result_of(started.elapsed(), &self.condition, self.negated);
                return Err(Failure { message: self.msg.clone().unwrap_or_else(waited), result });
            }
            pause(self.sleep.min(left), needs)?;
        }
    }
}

/// Lets time pass, unless the run is being stopped.
fn pause(span: Duration, needs: &dyn Needs) -> Result<(), Failure> {
    let until = Instant::now() + span;
    loop {
        if needs.abandoned() {
            return Err(Failure::new("the run was stopped"));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}

fn result_of(elapsed: Duration, condition: &Condition, negated: bool) -> Map {
    let state = if negated { "stopped" } else { "started" };
    let mut result: Map =
        [("elapsed".to_owned(), elapsed.as_secs().into()), ("state".to_owned(), state.into())].into_iter().collect();
    match condition {
        Condition::Port { host, port } => {
            result.insert("host".into(), host.as_str().into());
            result.insert("port".into(), i32::from(*port).into());
        }
        Condition::Path(path) => {
            result.insert("path".into(), path.display().to_string().into());
        }
        Condition::Nothing => {}
    }
    result
}

impl Module for WaitFor {
    type State = ();
    type Change = ();

    fn query(&self, _: View<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn diff(&self, (): &()) -> Option<()> {
        Some(())
    }

    fn describe(&self, (): &(), (): &()) -> Vec<Diff> {
        Vec::new()
    }

    fn apply(&self, (): (), (): (), writer: &mut Writer<'_>, needs: &mut dyn Needs) -> Result<Applied, Failure> {
        let result = if writer.planning() {
            let mut result = result_of(Duration::ZERO, &self.condition, self.negated);
            result.insert("elapsed".into(), Value::later());
            result
        } else {
            result_of(self.wait(writer.view(), needs)?, &self.condition, self.negated)
        };
        Ok(Applied { result, changed: Some(false), ..Applied::default() })
    }

    fn result(&self, (): &()) -> Map {
        Map::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{TestNeeds, args};
    use crate::modules::{Outcome, converge};
    use crate::system::{Mode, System};
    use std::net::TcpListener;

    fn run(task: &WaitFor, mode: Mode) -> Result<Outcome, Failure> {
        converge(task, &mut System::new(mode), &mut TestNeeds::default())
    }

    fn port(port: u16, state: &str) -> WaitFor {
        let pairs = [("port", i32::from(port).into()), ("state", state.into()), ("timeout", 1.into())];
        WaitFor::from_args(args(pairs)).unwrap()
    }

    #[test]
    fn ports() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let outcome = run(&port(number, "started"), Mode::Apply).unwrap();
        assert!(!outcome.changed && outcome.result["port"] == i32::from(number).into());
        let failure = run(&port(number, "stopped"), Mode::Apply).unwrap_err();
        assert_eq!(failure.message, format!("waited 1 s for 127.0.0.1:{number} to stop answering"));
        drop(listener);
        assert!(run(&port(number, "stopped"), Mode::Apply).is_ok());
        assert!(run(&port(number, "started"), Mode::Apply).is_err());
        assert!(run(&port(number, "started"), Mode::Plan).is_ok());
    }

    #[test]
    fn a_port_that_opens_while_waiting() {
        let number = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let waiter = std::thread::spawn(move || {
            let task = WaitFor { timeout: Duration::from_secs(30), ..port(number, "started") };
            run(&task, Mode::Apply)
        });
        std::thread::sleep(Duration::from_millis(150));
        let _listener = TcpListener::bind(("127.0.0.1", number)).unwrap();
        assert!(waiter.join().unwrap().is_ok());
    }

    #[test]
    fn paths() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().display().to_string();
        let path = |path: &str, state: &str| {
            let pairs = [("path", path.into()), ("state", state.into()), ("timeout", 0.into()), ("msg", "too late".into())];
            run(&WaitFor::from_args(args(pairs)).unwrap(), Mode::Apply)
        };
        assert!(path(&there, "present").is_ok());
        assert_eq!(path(&there, "absent").unwrap_err().message, "too late");
        assert!(path(&format!("{there}/x"), "absent").is_ok());
        assert!(path(&format!("{there}/x"), "present").is_err());
    }

    #[test]
    fn names_are_resolved() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let local = Condition::Port { host: "localhost".to_owned(), port: number };
        assert!(run(&WaitFor { condition: local, ..port(number, "started") }, Mode::Apply).is_ok());
        let nowhere = Condition::Port { host: "kprov.invalid".to_owned(), port: number };
        let failure = run(&WaitFor { condition: nowhere, ..port(number, "started") }, Mode::Apply).unwrap_err();
        assert!(failure.message.ends_with("(its name cannot be resolved)"), "{failure}");
    }

    #[test]
    fn arguments() {
        let error = |pairs| WaitFor::from_args(args(pairs)).unwrap_err().message;
        assert!(error([("port", 1.into()), ("path", "/x".into())]).contains("not for both"));
        assert!(error([("port", 70000.into()), ("timeout", 1.into())]).contains("65535"));
        assert!(error([("port", 1.into()), ("timeout", (-1).into())]).contains("from 0"));
        assert!(error([("port", 1.into()), ("search_regex", "x".into())]).contains("unknown argument"));
    }
}
