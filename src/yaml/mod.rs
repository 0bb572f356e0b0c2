//! YAML as Ansible reads it: nodes with spans, YAML 1.1 scalars, merge keys.
//!
//! [`load`] turns a [`Source`](crate::source::Source) into a [`Node`] tree by way of granit-parser's events. Scalars
//! resolve as in PyYAML's safe loader (`yes` is true, `0644` is 420, `1:30` is 90, `1e3` is a string), with two
//! differences: dates stay strings, and an integer that 64 bits cannot hold stays a string. JSON is read as the YAML
//! that it is. [`Fields`] reads a mapping with known keys. Nothing is rendered and nothing is decrypted here: a
//! [`Node`] keeps its tag (`!vault`, `!unsafe`) for the reader. Output is serde_yaml's business.

mod fields;
mod load;
mod node;
mod scalar;

pub use fields::Fields;
pub use load::{load, load_all, load_with};
pub use node::{Kind, Node, escape_template};
pub use scalar::resolve;
