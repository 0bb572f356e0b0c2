//! `kprov graph`: what runs on which host, and what waits for what.

use super::Exit;
use super::args::{InputArgs, SelectArgs};
use super::run::load;
use crate::ui;

/// Print the task graph in the DOT language of Graphviz.
#[derive(clap::Args)]
pub struct GraphArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    select: SelectArgs,
}

pub fn run(args: GraphArgs) -> Exit {
    let options = args.input.options("graph".to_owned());
    match options.and_then(|options| load(args.select.of(options))) {
        Ok((run, _)) => {
            ui::out(&run.progress.graph().to_dot());
            Exit::Ok
        }
        Err(exit) => exit,
    }
}
