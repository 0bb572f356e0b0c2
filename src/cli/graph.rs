//! `kprov graph`: what runs on which host, and what waits for what.

use super::Exit;
use super::run::{RunArgs, Verb, load, options};
use crate::system::Mode;
use crate::ui;

/// Print the task graph in the DOT language of Graphviz.
#[derive(clap::Args)]
pub struct GraphArgs {
    #[command(flatten)]
    run: RunArgs,
}

pub fn run(args: GraphArgs) -> Exit {
    match options(&args.run, &Verb::new("graph", Mode::Plan)).and_then(load) {
        Ok((run, _)) => {
            ui::out(&run.progress.graph().to_dot());
            Exit::Ok
        }
        Err(exit) => exit,
    }
}
