//! Connects to hosts, starts their agents, and asks for facts.

use super::link::{Link, gather_facts};
use super::run::Run;
use super::scope::TaskScope;
use crate::agent::client::{Agent, AgentBinary};
use crate::agent::protocol::ToAgent;
use crate::system::Mode;
use crate::template::Scope;
use crate::transport::{Connection, ConnectionFlags, Target, Transport, Transports};
use crate::value::{Map, Value};
use std::sync::Arc;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

/// What connecting needs, made once a run.
#[derive(Default)]
pub struct Connector {
    transports: Transports,
    binary: OnceCell<AgentBinary>,
}

/// Connects to every host of the run, `forks` at a time, and gathers their facts. Hosts that cannot be reached are out.
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
                    match gather_facts(&link, &host).await {
                        Ok(()) => Ok(()),
                        Err(failure) => Err(format!("cannot gather facts: {failure}")),
                    }
                }
                Err(why) => Err(why),
            };
            drop(permit);
            if let Err(why) = result {
                run.unreachable(&host, why);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Connects to one host and starts its agent. The error is one line that says what to do.
pub async fn connect(run: &Arc<Run>, host: &str) -> Result<Arc<Link>, String> {
    let binary =
        run.connector.binary.get_or_try_init(|| async { AgentBinary::locate() }).await.map_err(|e| e.to_string())?;
    let target = target(run, host)?;
    let session = run.connector.transports.connect(&target).await.map_err(|e| e.to_string())?;
    let (agent, events) = Agent::launch(session, target.escalation.as_ref(), binary, run.artifacts.clone())
        .await
        .map_err(|e| e.to_string())?;
    // It cannot change anything before the run begins. One that is gone by now is noticed where its answers end.
    let _ = agent.send(ToAgent::Begin { mode: Mode::Plan, run: None }).await;
    Ok(Link::start(run.clone(), host, agent, events))
}

/// The connection variables of a host, rendered.
fn target(run: &Arc<Run>, host: &str) -> Result<Target, String> {
    let plays = run.playbook.plays.iter().zip(&*run.shapes);
    let mut of_host =
        plays.filter(|(_, shape)| shape.batches.iter().flatten().any(|name| name == host)).map(|(play, _)| play);
    let escalate = run.options.connection.escalate || of_host.any(|play| play.escalate == Some(true));
    if !run.inventory.hosts.contains_key(host) {
        return match host {
            "localhost" | "127.0.0.1" => {
                let vars: Map = [("ansible_connection".to_owned(), Value::from("local"))].into_iter().collect();
                Target::from_vars(host, &vars, &ConnectionFlags::default()).map_err(|e| e.to_string())
            }
            _ => Err(format!("{host} is not in the inventory")),
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
            Some(origin) => error.into_input(origin).to_string(),
            None => format!("{name}: {error}"),
        })?;
        vars.insert(name, value);
    }
    let inventory_dir = run.inventory_dir.clone();
    let flags = ConnectionFlags { escalate, inventory_dir, ..run.options.connection.clone() };
    let mut target = Target::from_vars(host, &vars, &flags).map_err(|error| {
        let origin = scope.lookup(&error.variable).and_then(|var| var.origin.clone());
        origin.map_or_else(|| error.to_string(), |origin| format!("{origin}: {error}"))
    })?;
    if target.connection == Connection::Local {
        target.user = None;
    }
    Ok(target)
}
