//! `kprov plan`: shows what `apply` would change, computed by the code that changes it. Nothing on a host is touched.

use super::Exit;
use super::run::{RunArgs, Verb, run as run_stages};
use crate::system::Mode;

/// Show what `apply` would change.
#[derive(clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Exit with 3 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
}

pub fn run(args: PlanArgs) -> Exit {
    match run_stages(args.run, Verb { mode: Mode::Plan, diff: true, only_preconditions: false }) {
        Ok(done) if done.exit == Exit::Ok && args.detailed_exitcode && done.recap.total().changed > 0 => Exit::Changes,
        Ok(done) => done.exit,
        Err(exit) => exit,
    }
}
