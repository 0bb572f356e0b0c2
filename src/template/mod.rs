//! Templates: text with `{{ }}` becomes values, as Ansible evaluates it.
//!
//! [`Templar`] renders values and files and evaluates conditions on minijinja; a [`Scope`] gives it the variables. What
//! holds here and nowhere else:
//!
//! - **Variables are lazy.** A [`Scope`] hands out what was written. A variable that is a template itself is evaluated
//!   when it is read, a list or mapping only in the parts that are read. A cycle is an error that names the chain.
//! - **Types survive.** Text that is one expression and nothing else but white space (`"{{ x }}"`) gives the value of
//!   the expression with its type; anything around it makes a string, and that string stays one even if it looks like a
//!   list. (Ansible with `jinja2_native`, and every ansible-core since 2.19.) `None` inside text prints nothing.
//! - **What a plan cannot know stays unknown.** Reading a [`Value::Unknown`](crate::value::Value::Unknown) makes the
//!   whole result unknown, be it by attribute, index, filter, test, comparison or text. Two things are known about an
//!   unknown value: it `is defined`, and a container that was not looked into passes it on in its place.
//! - **Undefined is an error,** with the nearest name there is; `default` and `is defined` accept it, also further down
//!   (`a.b.c | default(x)` where there is no `a.b`).
//!
//! Files are rendered with Ansible's settings (`trim_blocks` on, `lstrip_blocks` off, final newline kept, a first line
//! `#jinja2: key:value`). Errors carry `file:line`; they never quote values, which may be secret.

mod call;
mod compiled;
mod convert;
mod error;
mod escapes;
mod filters;
mod lazy;
mod lookups;
mod methods;
mod net;
mod reads;
mod regex;
mod scope;
mod session;
mod templar;
mod tests;
mod time;
mod versions;

pub use compiled::Syntax;
pub use convert::is_omit;
pub use error::TemplateError;
pub use scope::Scope;
pub use templar::{Templar, Truth};
