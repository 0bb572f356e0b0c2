//! Variables: precedence, the origin of every value, argument specs, secrets.

mod secret;

pub use secret::Secret;
