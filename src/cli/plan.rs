//! `kprov plan`: shows what `apply` would change, computed by the code that changes it. Nothing on a host is touched.

use super::Exit;
use super::args::{LimitArgs, RunArgs};
use super::run::{Verb, run as run_stages};
use crate::system::Mode;
use std::path::PathBuf;

/// Show what `apply` would change.
#[derive(clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Keep the plan in this file, for `apply --plan`
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Exit with 3 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
}

pub fn run(args: PlanArgs) -> Exit {
    let verb = Verb { diff: true, limits: args.limits.into(), out: args.out, ..Verb::new("plan", Mode::Plan) };
    match run_stages(args.run, verb) {
        Ok(done) if done.exit == Exit::Ok && args.detailed_exitcode && done.recap.total().changed > 0 => Exit::Changes,
        Ok(done) => done.exit,
        Err(exit) => exit,
    }
}
