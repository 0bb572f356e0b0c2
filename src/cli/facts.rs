//! `kprov facts`: what hosts tell about themselves.

use super::args::ConnectArgs;
use super::run::load_hosts;
use super::{Exit, runtime};
use crate::engine::event::{Event, Status};
use crate::engine::{Options, connect};
use crate::ui;
use crate::value::{Map, Value};
use std::time::Duration;

/// Print the facts of hosts as JSON.
#[derive(clap::Args)]
pub struct FactsArgs {
    /// Which hosts
    #[arg(value_name = "PATTERN", default_value = "all")]
    pattern: String,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Of these, only hosts that match this pattern
    #[arg(short, long, value_name = "PATTERN")]
    limit: Option<String>,
}

pub fn run(mut args: FactsArgs) -> Exit {
    // All hosts, unless a playbook was named.
    if args.connect.input.playbook == "cluster" {
        "facts".clone_into(&mut args.connect.input.playbook);
    }
    match facts(&args) {
        Ok(exit) | Err(exit) => exit,
    }
}

fn facts(args: &FactsArgs) -> Result<Exit, Exit> {
    let limit = args.limit.iter().fold(args.pattern.clone(), |pattern, limit| format!("{pattern}:&{limit}"));
    let options = Options { limit: Some(limit), ..args.connect.options("facts".to_owned())? };
    let (run, mut events) = load_hosts(options)?;
    let runtime = runtime()?;
    runtime.block_on(connect::connect_all(&run));
    let mut exit = Exit::Ok;
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Task { subject, status: status @ (Status::Failed | Status::Unreachable), message, .. } => {
                let (what, code) = match status {
                    Status::Unreachable => ("unreachable", Exit::Unreachable),
                    _ => ("failed", Exit::Failed),
                };
                ui::talk(&format!("{}: {what}: {}", subject.host, message.unwrap_or_default()));
                exit = if exit == Exit::Unreachable { exit } else { code };
            }
            Event::Warning { text } => ui::talk(&format!("warning: {text}")),
            _ => {}
        }
    }
    let alive = run.hosts.values().filter(|host| !host.is_dead());
    let facts: Map = alive.map(|host| (host.name.clone(), host.facts_value())).collect();
    ui::out(&ui::pretty(&Value::Map(facts)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(exit)
}
