//! `kprov completion`: for a shell to load.

use super::{Cli, Exit};
use crate::ui;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell: source <(kprov completion bash)
#[derive(clap::Args)]
pub struct CompletionArgs {
    shell: Shell,
}

pub fn run(args: CompletionArgs) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kprov", &mut text);
    ui::out(&String::from_utf8_lossy(&text));
    Exit::Ok
}
