//! Variables: precedence, the origin of every value, argument specs, secrets.

mod secret;
mod var;
mod vault;

pub use secret::Secret;
pub use var::{Layer, Level, Stack, Var, VarMap};
pub use vault::{Vault, VaultError};

/// Whether a template can read a variable of this name: letters, digits and `_`, and no digit first.
pub fn is_valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_') && name.chars().all(|c| c.is_alphanumeric() || c == '_')
}
