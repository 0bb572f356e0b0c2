//! Variables: precedence, the origin of every value, argument specs, secrets.

mod secret;
mod var;
mod vault;

pub use secret::Secret;
pub use var::{Layer, Level, Stack, Var, VarMap};
pub use vault::{Vault, VaultError};
