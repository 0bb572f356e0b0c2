//! `kprov apply`: brings the hosts to what the inventory says. The recap comes last.

use super::Exit;
use super::args::{LimitArgs, RunArgs};
use super::run::{Verb, run as run_stages};
use crate::system::Mode;
use std::path::PathBuf;
use std::time::Duration;

/// The longest wait that can be asked for, a week.
const MOST: u64 = 604_800;

/// Bring the hosts to what the inventory says.
#[derive(clap::Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Apply exactly what this file of `plan -o` shows
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["inventory", "limit", "tags", "skip_tags", "extra_vars", "playbook", "check"]
    )]
    plan: Option<PathBuf>,
    /// Change nothing; show what would change
    #[arg(short = 'C', long)]
    check: bool,
    /// Show what is replaced in files
    #[arg(short = 'D', long)]
    diff: bool,
    /// Wait this long for another run that has the cluster
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MOST))]
    lock_timeout: u64,
    /// Give up a host whose link dropped when it cannot be reached again for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(..=MOST))]
    reconnect_timeout: u64,
    /// Go on with the last run of these hosts, or with --plan with a run of that plan, where it failed or was interrupted
    #[arg(long, conflicts_with_all = ["check", "limit", "tags", "skip_tags"])]
    resume: bool,
}

pub fn run(mut args: ApplyArgs) -> Exit {
    args.run.lock_timeout = Duration::from_secs(args.lock_timeout);
    args.run.reconnect_timeout = Duration::from_secs(args.reconnect_timeout);
    if args.resume && args.plan.is_none() {
        return super::resume::run(&args.run, args.diff);
    }
    let mode = if args.check { Mode::Plan } else { Mode::Apply };
    let verb = Verb {
        diff: args.diff,
        limits: args.limits.into(),
        plan: args.plan,
        resume: args.resume,
        ..Verb::new("apply", mode)
    };
    match run_stages(args.run, verb) {
        Ok(done) => done.exit,
        Err(exit) => exit,
    }
}
