//! Variables: precedence, the origin of every value, argument specs, secrets.
//!
//! [`Variables`] reads `group_vars`, `host_vars` and `-e` on top of an [`Inventory`](crate::inventory::Inventory) and
//! gives each host a [`Stack`] of layers; the engine pushes a play's and a role's layers into it. Values are kept as
//! written, each with its file and line; `template` renders them when they are read. Nothing here needs a host.

mod check;
mod extra;
mod files;
mod secret;
mod specs;
mod var;
mod variables;
mod vault;

pub use check::{Findings, check, check_values};
pub use files::{read_file, read_map};
pub use secret::Secret;
pub use specs::{ArgumentSpecs, Spec, Type};
pub use var::{Layer, Level, Stack, Var, VarMap};
pub use variables::Variables;
pub use vault::{Vault, VaultError};

/// Whether a template can read a variable of this name: letters, digits and `_`, and no digit first.
pub fn is_valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}
