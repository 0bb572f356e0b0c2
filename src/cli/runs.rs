//! `kprov runs`: what was done to the hosts, by whom and when, as the nodes have recorded it.

use super::Exit;
use super::run::{ConnectArgs, refuse, runtime, usage};
use crate::engine::event::Events;
use crate::engine::record::{self, Records};
use crate::engine::{Options, Run};
use crate::ui::{self, Format};
use std::sync::Arc;
use std::time::Duration;

/// Past runs, as the nodes have recorded them.
#[derive(clap::Args)]
pub struct RunsArgs {
    #[command(subcommand)]
    verb: RunsVerb,
}

#[derive(clap::Subcommand)]
enum RunsVerb {
    /// List the runs that the control plane remembers, the last one first
    List(WhereArgs),
    /// Show what a run changed, step by step
    Show {
        /// The run, as much of it as makes it the only one, or `last`
        run: String,
        #[command(flatten)]
        place: WhereArgs,
    },
}

#[derive(clap::Args)]
struct WhereArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Text, or JSON lines
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: RunsArgs) -> Exit {
    let done = match &args.verb {
        RunsVerb::List(place) => list(place),
        RunsVerb::Show { run, place } => show(run, place),
    };
    done.unwrap_or_else(|exit| exit)
}

fn list(place: &WhereArgs) -> Result<Exit, Exit> {
    let run = load(options(place, "runs list")?)?;
    let hosts = record::witnesses(&run.inventory);
    let records = runtime()?.block_on(record::read(&run, &hosts, None));
    let exit = complain(&records);
    let runs = records.runs.values().rev();
    ui::out(&match place.format {
        Format::Text => ui::runs::table(runs),
        Format::Json => runs.map(ui::runs::json).collect(),
    });
    Ok(exit)
}

fn show(name: &str, place: &WhereArgs) -> Result<Exit, Exit> {
    let run = load(options(place, "runs show")?)?;
    let runtime = runtime()?;
    let known = runtime.block_on(record::read(&run, &all_hosts(&run), None));
    let exit = complain(&known);
    if exit != Exit::Ok {
        return Err(exit);
    }
    let found = known.find(name).map_err(|message| usage(&message))?;
    let hosts: Vec<String> = found.hosts.keys().cloned().collect();
    let records = runtime.block_on(record::read(&run, &hosts, Some(&found.header.id)));
    let exit = complain(&records);
    for run in records.runs.values() {
        ui::out(&match place.format {
            Format::Text => ui::runs::text(run),
            Format::Json => ui::runs::json(run) + &ui::runs::json_steps(run),
        });
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(exit)
}

fn options(place: &WhereArgs, verb: &str) -> Result<Options, Exit> {
    place.connect.options(verb.to_owned()).map_err(|message| usage(&message))
}

/// Loads what says where the hosts are. Nobody reads the events: warnings about variables are for those who run with them.
pub fn load(options: Options) -> Result<Arc<Run>, Exit> {
    let (events, _) = Events::channel();
    Run::load(options, events).map_err(|errors| refuse(&errors))
}

pub fn all_hosts(run: &Run) -> Vec<String> {
    run.inventory.hosts.keys().cloned().collect()
}

/// Says which hosts did not answer. What the others know is worth showing.
pub fn complain(records: &Records) -> Exit {
    for (host, why) in &records.silent {
        ui::talk(&format!("warning: {host} does not answer, what it recorded is missing: {why}"));
    }
    for line in &records.newer {
        ui::talk(&format!("warning: {line}"));
    }
    if records.answered.is_empty() { Exit::Unreachable } else { Exit::Ok }
}
