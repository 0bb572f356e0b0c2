//! `kprov apply`: brings the hosts to what the inventory says. The recap comes last.

use super::Exit;
use super::run::{RunArgs, Verb, run as run_stages};
use crate::system::Mode;

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
}

pub fn run(args: ApplyArgs) -> Exit {
    let mode = if args.check { Mode::Plan } else { Mode::Apply };
    match run_stages(args.run, Verb { mode, diff: args.diff, only_preconditions: false }) {
        Ok(done) => done.exit,
        Err(exit) => exit,
    }
}
