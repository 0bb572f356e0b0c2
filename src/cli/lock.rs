//! `kprov lock`: who has the cluster, and how to take it from a run that hangs.

use super::args::ConnectArgs;
use super::run::load_hosts;
use super::{Exit, runtime, usage};
use crate::agent::protocol::Holder;
use crate::engine::Run;
use crate::engine::lock::{self, Answer};
use crate::ui::{self, Format};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

/// Who is changing the cluster, and what to do when that run hangs.
#[derive(Args)]
pub struct LockArgs {
    #[command(subcommand)]
    verb: LockVerb,
}

#[derive(Subcommand)]
enum LockVerb {
    /// Show who has the cluster, since when and on which nodes.
    Show(ShowArgs),
    /// Take the cluster from a run that hangs: its agents stop, and it is refused if it comes back.
    Break(BreakArgs),
}

#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Text, or one JSON object
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args)]
struct BreakArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub fn run(args: LockArgs) -> Exit {
    change(&args).unwrap_or_else(|exit| exit)
}

fn change(args: &LockArgs) -> Result<Exit, Exit> {
    let (connect, verb) = match &args.verb {
        LockVerb::Show(args) => (&args.connect, "show"),
        LockVerb::Break(args) => (&args.connect, "break"),
    };
    let words: Vec<_> = [format!("lock {verb}")].into_iter().chain(connect.input.inventories()).collect();
    let (run, _) = load_hosts(connect.options(words.join(" "))?)?;
    let runtime = runtime()?;
    let exit = runtime.block_on(async {
        match &args.verb {
            LockVerb::Show(args) => Ok(show(&run, args.format).await),
            LockVerb::Break(args) => break_it(&run, args.yes).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

async fn show(run: &Arc<Run>, format: Format) -> Exit {
    let answers = lock::holders(run).await;
    let held = held(&answers);
    match format {
        Format::Json => {
            let holders: Vec<_> = held
                .iter()
                .map(|(host, Holder { run, pid, seconds })| {
                    json!({"host": host, "run": run.id, "operator": run.operator, "started": run.started,
                        "command": run.command, "seconds": seconds, "pid": pid})
                })
                .collect();
            ui::out(&format!("{}\n", json!({"locked": !held.is_empty(), "holders": holders})));
        }
        Format::Text if held.is_empty() => ui::out("not locked\n"),
        Format::Text => {
            for (holder, hosts) in lock::by_run(&held) {
                ui::out(&format!("held by {} on {}\n", lock::describe(holder), hosts.join(", ")));
            }
        }
    }
    unanswered(&answers)
}

async fn break_it(run: &Arc<Run>, yes: bool) -> Result<Exit, Exit> {
    let answers = lock::show_all(run).await;
    let missing = unanswered(&answers);
    let held = held(&answers);
    let busy = |(_, state): &&Answer| state.as_ref().is_ok_and(|state| state.busy.is_some());
    let busy: Vec<&str> = answers.iter().filter(busy).map(|(host, _)| host.as_str()).collect();
    for (holder, hosts) in lock::by_run(&held) {
        ui::talk(&format!("held by {} on {}", lock::describe(holder), hosts.join(", ")));
    }
    if !busy.is_empty() {
        ui::talk(&format!("a task is in hand on {}; it may be left half done", busy.join(", ")));
    }
    if held.is_empty() && busy.is_empty() {
        ui::out("not locked\n");
        return Ok(missing);
    }
    if !yes && !confirmed()? {
        return Ok(Exit::Usage);
    }
    let mut exit = missing;
    for (host, answer) in lock::break_all(run, &answers).await {
        match answer {
            Ok(state) => {
                if let Some((_, holder)) = held.iter().find(|(other, _)| *other == host) {
                    ui::out(&format!("{host}: took the lock from {}\n", lock::describe(holder)));
                }
                for pid in state.ended {
                    ui::out(&format!("{host}: ended the agent {pid}, which did not let go\n"));
                }
            }
            Err(failure) => {
                ui::talk(&format!("{host}: {failure}"));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

fn confirmed() -> Result<bool, Exit> {
    if !std::io::stdin().is_terminal() {
        return Err(usage("nobody is there to be asked; say --yes"));
    }
    ui::prompt("stop that run? [y/N] ");
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(_) => Ok(matches!(line.trim(), "y" | "Y" | "yes")),
        Err(error) => Err(usage(&format!("cannot read the answer: {error}"))),
    }
}

fn held(answers: &[Answer]) -> Vec<(String, Holder)> {
    let held = answers.iter().filter_map(|(host, state)| Some((host.clone(), state.as_ref().ok()?.holder.clone()?)));
    held.collect()
}

/// Says which hosts did not answer.
fn unanswered(answers: &[Answer]) -> Exit {
    let mut exit = Exit::Ok;
    for (host, answer) in answers {
        if let Err(failure) = answer {
            ui::talk(&format!("{host}: {failure}"));
            exit = Exit::Unreachable;
        }
    }
    exit
}
