//! `kprov lint`: everything that can be known without a host.

use super::{Exit, refuse};
use crate::engine::lint::{self, Subject};
use crate::source::InputErrors;
use crate::ui;
use std::path::PathBuf;

/// Find mistakes in inventory, variables, playbook, roles and templates, without connecting to a host.
#[derive(clap::Args)]
pub struct LintArgs {
    /// Inventory file or directory; without one, only the playbook is read. Can be given more than once
    #[arg(short, long, value_name = "INVENTORY")]
    inventory: Vec<PathBuf>,
    /// Variables: key=value, @file or JSON; can be given more than once
    #[arg(short, long, value_name = "VARS")]
    extra_vars: Vec<String>,
    /// A built-in playbook by name, or a file
    #[arg(long, default_value = "cluster", value_name = "NAME|FILE")]
    playbook: String,
    /// Read the password of vaulted variables from this file
    #[arg(long, value_name = "FILE", env = "ANSIBLE_VAULT_PASSWORD_FILE")]
    vault_password_file: Vec<PathBuf>,
}

pub fn run(args: LintArgs) -> Exit {
    let report = lint::lint(&Subject {
        inventories: args.inventory,
        extra_vars: args.extra_vars,
        vault_password_files: args.vault_password_file,
        playbook: args.playbook,
    });
    ui::diagnostic::warn(&report.warnings);
    if !report.errors.is_empty() {
        return refuse(&InputErrors(report.errors));
    }
    let counts = [(report.hosts, "host"), (report.tasks, "task"), (report.warnings.len(), "warning")];
    ui::out(&format!("{}\n", counts.map(|(n, what)| ui::count(n, what)).join(", ")));
    Exit::Ok
}
