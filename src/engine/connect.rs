//! Connects to hosts, starts their agents, and asks for facts.

use super::event::Event;
use super::host::HostState;
use super::link::{Link, gather_facts};
use super::run::Run;
use super::scope::TaskScope;
use crate::agent::client::{Agent, AgentBinary, BinaryError, LaunchError, Lost, Patience, Route};
use crate::source::{InputError, InputErrors};
use crate::system::Mode;
use crate::template::Scope;
use crate::transport::{Connection, ConnectionFlags, Target, Transport, Transports};
use crate::value::{Map, Value};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

/// How long agents may take to end.
const END: Duration = Duration::from_secs(1);

/// What connecting needs, made once a run.
#[derive(Default)]
pub struct Connector {
    transports: Arc<Transports>,
    binary: OnceCell<Arc<AgentBinary>>,
}

impl Connector {
    /// Finds the agent, so that a missing or wrong one is told once and before any host is asked.
    pub fn find_agent(&self) -> Result<(), BinaryError> {
        // The first one that was found stays.
        let _ = self.binary.set(Arc::new(AgentBinary::locate()?));
        Ok(())
    }
}

/// Connects to every host of the run, `forks` at a time. Hosts that cannot be reached are out. A plan gathers facts with
/// the same breath; a run that changes hosts does so when it has the lock.
pub async fn connect_all(run: &Arc<Run>) {
    let slots = Arc::new(Semaphore::new(run.options.forks.max(1)));
    let mut tasks = JoinSet::new();
    for host in run.hosts.values() {
        let (run, host, slots) = (run.clone(), host.clone(), slots.clone());
        tasks.spawn(async move {
            let permit = slots.acquire_owned().await;
            let result = match connect(&run, &host.name).await {
                Ok(link) => {
                    run.add_link(&host.name, link.clone());
                    if run.planning() { facts(&link, &host).await } else { Ok(()) }
                }
                Err(lost) => Err(lost),
            };
            drop(permit);
            if let Err(lost) = result {
                run.lose(&host, &lost, 0);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Gathers the facts of every host that is connected.
pub async fn facts_all(run: &Arc<Run>) {
    let mut tasks = JoinSet::new();
    for host in run.hosts.values().filter(|host| !host.is_dead()) {
        let Some(link) = run.existing_link(&host.name) else { continue };
        let (run, host) = (run.clone(), host.clone());
        tasks.spawn(async move {
            if let Err(lost) = facts(&link, &host).await {
                run.lose(&host, &lost, 0);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Has all agents end. One that has a task in hand, or whose link has dropped, ends by itself later.
pub async fn disconnect_all(run: &Run) {
    let links = run.all_links();
    let ends = links.iter().map(|link| {
        link.agent.say_goodbye();
        link.gone()
    });
    let _ = tokio::time::timeout(END, join_all(ends)).await;
}

async fn facts(link: &Link, host: &HostState) -> Result<(), Lost> {
    let gathered = gather_facts(link, host).await;
    gathered.map_err(|failure| link.lost().unwrap_or_else(|| Lost::Agent(format!("cannot gather facts: {failure}"))))
}

/// Connects to one host and starts its agent, which outlives a dropped link where the run changes hosts. The error says in
/// one line what to do, and whether the host is there.
pub async fn connect(run: &Arc<Run>, host: &str) -> Result<Arc<Link>, Lost> {
    let located = run.connector.binary.get_or_try_init(|| async { AgentBinary::locate().map(Arc::new) }).await;
    let binary = located.map_err(|error| Lost::Agent(error.to_string()))?.clone();
    let target = target(run, host).map_err(|error| Lost::Agent(error.in_one_line()))?;
    let transport = run.connector.transports.clone();
    let launched = match run.options.mode {
        Mode::Plan => {
            let session = transport.connect(&target).await.map_err(|error| Lost::Connection(error.to_string()))?;
            Agent::launch(session, target.escalation.as_ref(), &binary, run.artifacts.clone()).await
        }
        Mode::Apply => {
            let (telling, name) = (run.clone(), host.to_owned());
            let tell = Box::new(move |text| telling.events.send(Event::Warning { text: format!("{name}: {text}") }));
            let patience = Patience::of(run.options.reconnect_timeout);
            let route = Route { transport, target, binary, patience, tell };
            Agent::launch_detached(route, run.artifacts.clone()).await
        }
    };
    let (agent, events) = launched.map_err(|error| match error {
        LaunchError::Connect(error) => Lost::Connection(error.to_string()),
        LaunchError::Failed(text) => Lost::Agent(text),
    })?;
    Ok(Link::start(run.clone(), host, agent, events))
}

/// Finds mistakes in what says how to connect, before any host is asked.
pub fn check_targets(run: &Arc<Run>) -> Result<(), InputErrors> {
    let mut errors: Vec<InputError> = Vec::new();
    for error in run.hosts.keys().filter_map(|host| target(run, host).err()) {
        // A flag or a group's variable is told once.
        if !errors.iter().any(|known| known.to_string() == error.to_string()) {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(InputErrors(errors)) }
}

/// The connection variables of a host, rendered.
fn target(run: &Arc<Run>, host: &str) -> Result<Target, InputError> {
    let plays = run.playbook.plays.iter().zip(&*run.shapes);
    let mut of_host =
        plays.filter(|(_, shape)| shape.batches.iter().flatten().any(|name| name == host)).map(|(play, _)| play);
    let escalate = run.options.connection.escalate || of_host.any(|play| play.escalate == Some(true));
    if !run.inventory.hosts.contains_key(host) {
        return match host {
            "localhost" | "127.0.0.1" => {
                let vars: Map = [("ansible_connection".to_owned(), Value::from("local"))].into_iter().collect();
                Target::from_vars(host, &vars, &ConnectionFlags::default())
                    .map_err(|error| InputError::new(error.to_string()))
            }
            _ => Err(InputError::new(format!("{host} is not in the inventory"))),
        };
    }
    let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_host(run, host));
    let mut vars = Map::new();
    for name in scope.names() {
        // Facts are not there yet, and are not what a connection is made of.
        if !name.starts_with("ansible_") || vars.contains_key(&name) {
            continue;
        }
        let Some(var) = scope.lookup(&name) else { continue };
        let value = run.templar.render(&var.value, &scope).map_err(|error| match &var.origin {
            Some(origin) => error.into_input(origin),
            None => InputError::new(format!("{name}: {error}")),
        })?;
        vars.insert(name, value);
    }
    let inventory_dir = run.inventory_dir.clone();
    let flags = ConnectionFlags { escalate, inventory_dir, ..run.options.connection.clone() };
    let mut target = Target::from_vars(host, &vars, &flags).map_err(|error| {
        let origin = scope.lookup(&error.variable).and_then(|var| var.origin.clone());
        InputError { span: origin, ..InputError::new(error.to_string()) }
    })?;
    if target.connection == Connection::Local {
        target.user = None;
    }
    Ok(target)
}
