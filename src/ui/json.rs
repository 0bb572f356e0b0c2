//! Events as JSON lines. The core of each object is a contract (see docs/json.md); fields may be added.

use super::{SCHEMA, Show};
use crate::engine::event::{Event, Status, Subject};
use crate::engine::plan::{Grades, Summary, diff_json};
use crate::engine::recap::Recap;
use crate::modules::Diff;
use serde_json::{Map, Value, json};

/// The first line: what the others are.
pub fn run(show: Show) -> String {
    let kprov = env!("CARGO_PKG_VERSION");
    format!("{}\n", json!({"event": "run", "schema": SCHEMA, "verb": show.verb, "plan": show.plan, "kprov": kprov}))
}

pub fn event(show: Show, event: &Event) -> String {
    let object = match event {
        Event::Task { subject, status: Status::Changed, diff, grade, after, took, .. } if show.plan => {
            let mut object = about("change", subject);
            object.insert("grade".to_owned(), grade.name().into());
            let after = after.as_ref();
            object.insert("after".to_owned(), after.map(|after| after.task_id.as_str()).into());
            object.insert("after_task".to_owned(), after.map(|after| after.task.as_str()).into());
            object.insert("after_host".to_owned(), after.map(|after| after.host.as_str()).into());
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
        Event::Stage { .. } | Event::Step(_) => return String::new(),
        Event::Summary(told) => return summary(told),
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

pub fn diffs(diffs: &[Diff]) -> Value {
    diffs.iter().map(diff_json).collect()
}

/// A line for the counts, and one for each consequence.
fn summary(summary: &Summary) -> String {
    let grades = |grades: &Grades| {
        let mut object = object(json!({"changes": grades.total()}));
        object.extend(grades.columns().map(|(grade, n)| (grade.name().to_owned(), n.into())));
        object
    };
    let mut first = object(json!({"event": "summary"}));
    first.extend(grades(&summary.grades));
    first.insert("incomplete".to_owned(), summary.incomplete.as_slice().into());
    let hosts: Map<String, Value> =
        summary.hosts.iter().map(|(host, of)| (host.clone(), Value::Object(grades(of)))).collect();
    first.insert("hosts".to_owned(), Value::Object(hosts));
    let later = summary.later.iter().map(|(Subject { host, task_id, role, task }, after)| {
        json!({"host": host, "task_id": task_id, "role": role, "task": task, "after": after.task,
            "after_task_id": after.task_id, "after_host": after.host})
    });
    first.insert("known_after".to_owned(), later.collect());
    if let Some(api) = &summary.api {
        first.insert("api_unavailable".to_owned(), api.unavailable.is_some().into());
        first.insert("api_unavailable_why".to_owned(), api.unavailable.as_deref().into());
    }
    let consequences = summary.consequences.iter().map(|one| {
        object(json!({
            "event": "consequence", "unit": one.unit, "action": one.action.name(), "hosts": one.hosts,
            "at_once": one.at_once,
        }))
    });
    std::iter::once(first).chain(consequences).map(|line| format!("{}\n", Value::Object(line))).collect()
}
