//! `kprov apply`: brings the hosts to what the inventory says. The recap comes last.

use super::Exit;
use super::run::{RunArgs, Verb, run as run_stages};
use crate::system::Mode;
use std::time::Duration;

/// Bring the hosts to what the inventory says.
#[derive(clap::Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Change nothing; show what would change
    #[arg(short = 'C', long)]
    check: bool,
    /// Show what is replaced in files
    #[arg(short = 'D', long)]
    diff: bool,
    /// Wait this long for another run that has the cluster
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    lock_timeout: u64,
    /// Go on with the last run of these hosts, if it failed or was interrupted
    #[arg(long, conflicts_with_all = ["check", "limit", "tags", "skip_tags"])]
    resume: bool,
}

pub fn run(mut args: ApplyArgs) -> Exit {
    args.run.lock_timeout = Duration::from_secs(args.lock_timeout);
    if args.resume {
        return super::resume::run(&args.run, args.diff);
    }
    let mode = if args.check { Mode::Plan } else { Mode::Apply };
    match run_stages(args.run, Verb { mode, diff: args.diff, only_preconditions: false }) {
        Ok(done) => done.exit,
        Err(exit) => exit,
    }
}
