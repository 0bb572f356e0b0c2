//! The lines of a journal. Written by one build and read by another: fields are added and never change their meaning, and
//! what a reader does not know it leaves out.

use crate::agent::protocol::{RunEnd, RunHeader, StepName};
use crate::modules::Diff;
use serde::{Deserialize, Serialize};

/// Of the format: rises when an older reader would misread a journal.
pub const VERSION: u32 = 1;

/// How the lines begin that are looked for without reading the rest.
pub(super) const STEP: &[u8] = br#"{"record":"step""#;
pub(super) const DIFF: &[u8] = br#"{"record":"diff""#;
pub(super) const BEFORE: &[u8] = br#"{"record":"before""#;
pub(super) const IDLE: &[u8] = br#"{"record":"end","changed":0,"#;

/// One line. Times are seconds since 1970 by the node's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Entry {
    /// The first line.
    Run { version: u32, run: RunHeader },
    /// Something is about to change. Steps are counted from 1, on each node.
    Step { step: u32, at: f64, name: StepName },
    /// What was there before the step changed it.
    Before(Before),
    /// What the step changed, as it is shown to people.
    Diff { step: u32, diff: Vec<Diff> },
    /// The step has ended. One without this was cut off.
    Done { step: u32, status: Status, seconds: f64, message: Option<String> },
    /// The run has ended, with so many changes on all hosts. One without this was cut off, or is still there.
    End { changed: u32, at: f64, end: RunEnd },
    #[serde(other)]
    Unknown,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Changed,
    /// It turned out that there was nothing to change.
    Unchanged,
    Failed,
}

/// What was at a path before a step changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Before {
    pub step: u32,
    /// Absolute, without links in it.
    pub path: String,
    pub kind: Kind,
    /// Whether only mode or owner were about to change.
    pub attributes: bool,
    /// Four octal digits.
    pub mode: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Where a link leads.
    pub target: Option<String>,
    /// Of a file, in bytes; of what was left out of a tree, the sum.
    pub size: Option<u64>,
    pub sha256: Option<String>,
    /// The file below the run's directory that holds the content.
    pub image: Option<String>,
    /// Why there is none.
    pub not_kept: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing: the step made it.
    #[default]
    Absent,
    File,
    Directory,
    Link,
    /// A device, a pipe or a socket.
    Special,
    /// What a removed tree held beyond what was recorded one by one.
    Rest,
}
