//! Variables: precedence, the origin of every value, argument specs, secrets.

mod secret;
mod var;

pub use secret::Secret;
pub use var::{Layer, Level, Stack, Var, VarMap};
