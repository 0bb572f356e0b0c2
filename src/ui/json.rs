//! Events as JSON lines. The core of each object is a contract (see docs/json.md); fields may be added.

use super::Show;
use crate::engine::event::{Event, Status, Subject};
use crate::engine::recap::Recap;
use crate::modules::{Diff, Grade};
use serde_json::{Map, Value, json};

pub fn event(show: Show, event: &Event) -> String {
    let object = match event {
        Event::Task { subject, status: Status::Changed, diff, grade, took, .. } if show.plan => {
            let mut object = about("change", subject);
            object.insert("grade".to_owned(), grade_name(*grade).into());
            object.insert("diff".to_owned(), diffs(diff));
            object.insert("seconds".to_owned(), took.as_secs_f64().into());
            object
        }
        Event::Task { status: Status::Ok | Status::Skipped, .. } if show.plan => return String::new(),
        Event::Task { subject, status, message, diff, took, .. } => {
            let mut object = about("task", subject);
            object.insert("status".to_owned(), status.name().into());
            if let Some(message) = message {
                object.insert("message".to_owned(), message.as_str().into());
            }
            if show.diff && !diff.is_empty() {
                object.insert("diff".to_owned(), diffs(diff));
            }
            object.insert("seconds".to_owned(), took.as_secs_f64().into());
            object
        }
        Event::Stage { .. } => return String::new(),
        Event::StageDone { name, took } => {
            object(json!({"event": "stage", "stage": name, "seconds": took.as_secs_f64()}))
        }
        Event::Play { name, hosts } => object(json!({"event": "play", "play": name, "hosts": hosts})),
        Event::Finding { host, text, fatal } => {
            object(json!({"event": "finding", "host": host, "message": text, "fatal": fatal}))
        }
        Event::Warning { text } => object(json!({"event": "warning", "message": text})),
    };
    format!("{}\n", Value::Object(object))
}

pub fn recap(recap: &Recap) -> String {
    let hosts: Map<String, Value> = recap
        .hosts
        .iter()
        .map(|(host, counts)| {
            let columns = counts.columns().iter().map(|(name, n)| ((*name).to_owned(), (*n).into())).collect();
            (host.clone(), Value::Object(columns))
        })
        .collect();
    format!("{}\n", json!({"event": "recap", "hosts": hosts}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn about(event: &str, subject: &Subject) -> Map<String, Value> {
    let Subject { host, task_id, role, task } = subject;
    object(json!({"event": event, "host": host, "task_id": task_id, "role": role, "task": task}))
}

pub fn grade_name(grade: Grade) -> &'static str {
    match grade {
        Grade::Exact => "exact",
        Grade::KnownAfterApply => "known_after_apply",
        Grade::Opaque => "opaque",
    }
}

pub fn diffs(diffs: &[Diff]) -> Value {
    diffs
        .iter()
        .map(|diff| match diff {
            Diff::Text { path, before, after } => json!({"path": path, "before": before, "after": after}),
            Diff::Fields { subject, fields } => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(name, before, after)| json!({"field": name, "before": before, "after": after}))
                    .collect();
                json!({"subject": subject, "fields": fields})
            }
            Diff::Note(note) => json!({"note": note}),
        })
        .collect()
}
