//! The command line: arguments, one file per verb, exit codes.
//!
//! A verb's file has a fixed shape: `XxxArgs` (what was typed) and `run` (which returns the exit code). Everything the
//! user sees goes through `ui`. Exit codes are Ansible's where Ansible has them: [`Exit`].

mod apply;
mod args;
mod artifacts;
mod completion;
mod facts;
mod graph;
mod init;
mod inventory;
mod lab;
mod lint;
mod lock;
mod plan;
mod resume;
mod run;
mod runs;
mod validate;
mod vars;

use crate::source::InputErrors;
use crate::ui;
use clap::{Parser, Subcommand};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Ok = 0,
    /// Usage or input error; nothing was touched.
    Usage = 1,
    /// A host failed.
    Failed = 2,
    /// `plan --detailed-exitcode`: there are changes.
    Changes = 3,
    /// A host was unreachable.
    Unreachable = 4,
    /// Interrupted by the user.
    Interrupted = 99,
}

/// Turns an inventory into a Kubernetes cluster, and keeps it that way.
#[derive(Parser)]
#[command(name = "kprov", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Init(init::InitArgs),
    Inventory(inventory::InventoryArgs),
    Apply(apply::ApplyArgs),
    Artifacts(artifacts::ArtifactsArgs),
    Completion(completion::CompletionArgs),
    Facts(facts::FactsArgs),
    Graph(graph::GraphArgs),
    Lint(lint::LintArgs),
    Plan(plan::PlanArgs),
    Validate(validate::ValidateArgs),
    Lab(lab::LabArgs),
    Lock(lock::LockArgs),
    Runs(runs::RunsArgs),
    Vars(vars::VarsArgs),
}

/// Prints what a verb made, or what is wrong with its input.
fn print(result: Result<String, InputErrors>) -> Exit {
    match result {
        Ok(text) => {
            ui::out(&text);
            Exit::Ok
        }
        Err(errors) => refuse(&errors),
    }
}

/// Says what is wrong with what the user wrote.
fn refuse(errors: &InputErrors) -> Exit {
    ui::diagnostic::report(errors);
    Exit::Usage
}

/// Says what is wrong with what was asked for.
fn usage(message: &str) -> Exit {
    ui::talk(&format!("error: {message}"));
    Exit::Usage
}

/// What everything that connects to something runs on.
fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    let made = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    made.map_err(|error| usage(&format!("cannot start: {error}")))
}

/// Parses the arguments of this process and runs the verb.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a reader that has gone away is no reason to fail.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match cli.verb {
        Verb::Init(args) => init::run(args),
        Verb::Inventory(args) => inventory::run(args),
        Verb::Apply(args) => apply::run(args),
        Verb::Artifacts(args) => artifacts::run(args),
        Verb::Completion(args) => completion::run(args),
        Verb::Facts(args) => facts::run(args),
        Verb::Graph(args) => graph::run(args),
        Verb::Lint(args) => lint::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Validate(args) => validate::run(args),
        Verb::Lab(args) => lab::run(args),
        Verb::Lock(args) => lock::run(args),
        Verb::Runs(args) => runs::run(args),
        Verb::Vars(args) => vars::run(args),
    }
}
