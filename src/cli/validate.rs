//! `kprov validate`: checks the preconditions of all hosts and prints every finding. Changes nothing.

use super::Exit;
use super::args::RunArgs;
use super::run::{Verb, run as run_stages};
use crate::system::Mode;

/// Check the preconditions of all hosts.
#[derive(clap::Args)]
pub struct ValidateArgs {
    #[command(flatten)]
    run: RunArgs,
}

pub fn run(args: ValidateArgs) -> Exit {
    match run_stages(args.run, Verb { only_preconditions: true, ..Verb::new("validate", Mode::Plan) }) {
        Ok(done) => done.exit,
        Err(exit) => exit,
    }
}
