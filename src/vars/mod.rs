//! Variables: precedence, the origin of every value, argument specs, secrets.

mod secret;

use crate::source::Span;
use crate::value::Value;

pub use secret::Secret;

/// A variable as it was written: the value is not rendered yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Var {
    pub value: Value,
    /// Where the value was written; `None` for what kprov made itself (facts, results, magic variables).
    pub origin: Option<Span>,
    /// Never shown: vault values, passwords, what a `no_log` task registered.
    pub secret: bool,
}

/// A value that nobody wrote in a file.
impl From<Value> for Var {
    fn from(value: Value) -> Self {
        Self { value, origin: None, secret: false }
    }
}
