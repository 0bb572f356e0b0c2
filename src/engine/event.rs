//! What happens in a run, as one ordered stream. Recap, live display, JSON lines and the record read it.

use super::plan::Summary;
use crate::agent::client::Lost;
use crate::modules::{Diff, Grade, UnitEffect};
use crate::playbook::TaskId;
use crate::value::After;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// How a task ended on a host. The spelling in JSON is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Ok,
    Changed,
    Skipped,
    Failed,
    Unreachable,
    /// Failed, and a `rescue` takes over.
    Rescued,
    /// Failed, and `ignore_errors` says to go on.
    Ignored,
}

impl Status {
    /// What a lost host counts as: failed where it is there, and only its agent is not.
    pub fn of(lost: &Lost) -> Self {
        match lost {
            Lost::Connection(_) => Self::Unreachable,
            Lost::Agent(_) => Self::Failed,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Changed => "changed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Unreachable => "unreachable",
            Self::Rescued => "rescued",
            Self::Ignored => "ignored",
        }
    }
}

/// A task on a host, as events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub host: String,
    pub task_id: TaskId,
    /// "" outside of roles.
    pub role: String,
    pub task: String,
}

/// What an item of a task may do when it keeps to the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum May {
    Nothing,
    /// The change of this digest: [`crate::modules::digest`].
    Change(String),
    /// The plan does not know what it will do.
    Anything,
}

/// What a plan knows of one item of a task on a host, where that is more than that all is as it should be.
#[derive(Clone, Debug)]
pub struct Step {
    pub subject: Subject,
    /// Which item of the task's loop, counted from 0.
    pub item: Option<u32>,
    /// Whether it counts as a change; `changed_when` may say that it does not.
    pub changed: bool,
    pub grade: Grade,
    /// The task after which it will be known.
    pub after: Option<After>,
    pub may: May,
    /// Whether nothing of it may be shown.
    pub hidden: bool,
    /// Empty where it is hidden.
    pub diff: Vec<Diff>,
    pub units: Vec<UnitEffect>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stage of the run began (connect, facts, preconditions, plays).
    Stage {
        name: &'static str,
    },
    /// A stage ended.
    StageDone {
        name: &'static str,
        took: Duration,
    },
    Play {
        name: String,
        hosts: usize,
    },
    Task {
        subject: Subject,
        status: Status,
        /// Why it failed or was skipped, what `debug` says. One line or several.
        message: Option<String>,
        diff: Vec<Diff>,
        grade: Grade,
        /// Plan: of a change that is known after apply, after which task.
        after: Option<After>,
        took: Duration,
    },
    /// Plan: what is known of one item of a task. Comes before the task.
    Step(Box<Step>),
    /// Plan: what it all comes to.
    Summary(Box<Summary>),
    /// A precondition that does not hold, as text that begins with the host. Fatal ones stop the run.
    Finding {
        host: Option<String>,
        text: String,
        fatal: bool,
    },
    Warning {
        text: String,
    },
}

/// Where events are sent. Sending never blocks and never fails a run.
#[derive(Debug)]
pub struct Events(Mutex<Option<mpsc::UnboundedSender<Event>>>);

impl Events {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Mutex::new(Some(sender))), receiver)
    }

    pub fn send(&self, event: Event) {
        if let Some(sender) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // The reader may be gone when a run is being torn down; nobody is left to tell.
            let _ = sender.send(event);
        }
    }

    /// Ends the stream: its reader has seen everything when it sees the end.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
