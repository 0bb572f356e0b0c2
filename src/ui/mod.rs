//! What the user sees: events as text or JSON lines, diffs, the recap, mistakes with carets.
//!
//! stdout is data, stderr is talk. Colour is never the only carrier of a meaning, and every line about a host begins with
//! the host.

pub mod diagnostic;
mod json;
mod recap;
pub mod runs;
mod summary;
mod text;
mod unified;

use crate::engine::event::Event;
use crate::engine::recap::Recap;
use crate::value::Value;
use clap::ValueEnum;
use serde::Serialize;
use std::io::Write;
use tokio::sync::mpsc::UnboundedReceiver;

/// `--format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Of JSON lines: docs/json.md.
const SCHEMA: u32 = 1;

/// How a run is shown.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    /// `apply`, `plan` or `validate`.
    pub verb: &'static str,
    pub format: Format,
    /// Tasks that changed nothing too, and how long stages took.
    pub verbose: bool,
    pub diff: bool,
    /// Changes are planned, not made.
    pub plan: bool,
}

/// Shows events until the run is over; returns what they came to. The recap comes last.
pub async fn follow(show: Show, hosts: Vec<String>, mut events: UnboundedReceiver<Event>) -> Recap {
    let mut recap = Recap::new(hosts);
    if show.format == Format::Json {
        out(&json::run(show));
    }
    while let Some(event) = events.recv().await {
        recap.read(&event);
        let lines = match show.format {
            Format::Text => text::event(show, &event),
            Format::Json => json::event(show, &event),
        };
        out(&lines);
    }
    out(&match show.format {
        Format::Text => recap::text(show, &recap),
        Format::Json => json::recap(&recap),
    });
    recap
}

/// Writes to stdout. A reader that has gone away ends nothing: the run goes on to its recap and exit code.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// JSON with sorted keys and four spaces, as `ansible-inventory` prints it.
pub fn pretty(value: &Value) -> String {
    let mut sorted = serde_json::Value::from(value);
    sorted.sort_all_objects();
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // Writing to memory does not fail, and every key is text.
    let _ = sorted.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    out.push(b'\n');
    String::from_utf8_lossy(&out).into_owned()
}

/// `1 host`, `2 hosts`
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Writes a line to stderr.
pub fn talk(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Asks on stderr, without ending the line.
pub fn prompt(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{text}").and_then(|()| stderr.flush());
}
