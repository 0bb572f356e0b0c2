//! `kprov runs`: what was done to the hosts, by whom and when, as the nodes have recorded it.

use super::args::ConnectArgs;
use super::run::load_hosts;
use super::{Exit, runtime, usage};
use crate::engine::Run;
use crate::engine::record::{self, Records};
use crate::ui::{self, Format};
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
    let (run, _) = load_hosts(place.connect.options("runs list".to_owned())?)?;
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
    let (run, _) = load_hosts(place.connect.options("runs show".to_owned())?)?;
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
