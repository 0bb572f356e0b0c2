//! `kprov lint`: everything that can be known without a host.

use super::args::InputArgs;
use super::{Exit, refuse};
use crate::engine::lint::{self, Subject};
use crate::source::InputErrors;
use crate::ui;

/// Find mistakes in inventory, variables, playbook, roles and templates, without connecting to a host; without an
/// inventory, in the playbook and its roles alone.
#[derive(clap::Args)]
pub struct LintArgs {
    #[command(flatten)]
    input: InputArgs,
}

pub fn run(args: LintArgs) -> Exit {
    let InputArgs { inventory, extra_vars, playbook, vault_password_file } = args.input;
    let report = lint::lint(&Subject {
        inventories: inventory,
        extra_vars,
        vault_password_files: vault_password_file,
        playbook,
    });
    ui::diagnostic::warn(&report.warnings);
    if !report.errors.is_empty() {
        return refuse(&InputErrors(report.errors));
    }
    let counts = [(report.hosts, "host"), (report.tasks, "task"), (report.warnings.len(), "warning")];
    ui::out(&format!("{}\n", counts.map(|(n, what)| ui::count(n, what)).join(", ")));
    Exit::Ok
}
