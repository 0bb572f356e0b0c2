//! `kprov apply`: brings the hosts to what the inventory says. The recap comes last.

use super::Exit;
use super::run::{LimitArgs, RunArgs, Verb, run as run_stages};
use crate::system::Mode;
use std::path::PathBuf;

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
    /// With --plan: go on where a run of the same plan was stopped; what of it is done stays done
    #[arg(long, requires = "plan")]
    resume: bool,
    /// Change nothing; show what would change
    #[arg(short = 'C', long)]
    check: bool,
    /// Show what is replaced in files
    #[arg(short = 'D', long)]
    diff: bool,
}

pub fn run(args: ApplyArgs) -> Exit {
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
