//! What the user sees: mistakes with carets, and the two streams.
//!
//! stdout is data, stderr is talk. Colour is never the only carrier of a meaning.

pub mod diagnostic;

use std::io::Write;

/// Writes to stdout. A reader that has gone away ends nothing.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes a line to stderr.
pub fn talk(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
