//! Recorded runs, as text and as JSON lines (docs/record.md).

use super::{json, unified};
use crate::agent::journal::{Before, Entry, Status};
use crate::agent::protocol::StepName;
use crate::engine::record::{Recorded, State};
use crate::modules::Diff;
use console::style;
use serde_json::json;

/// Names a run in a sentence.
pub fn title(run: &Recorded) -> String {
    format!("run {} ({}, {})", run.header.id, run.header.operator, time(run.header.started))
}

/// One line a run.
pub fn table<'a>(runs: impl Iterator<Item = &'a Recorded>) -> String {
    let mut rows = vec![["RUN", "STATE", "STARTED", "OPERATOR", "CHANGES", "HOSTS", "COMMAND"].map(str::to_owned)];
    for run in runs {
        // Other hosts may know of more.
        let more = if run.end.is_some() { "" } else { "+" };
        rows.push([
            run.header.id.clone(),
            run.state().name().to_owned(),
            time(run.header.started),
            run.header.operator.clone(),
            format!("{}{more}", run.changes()),
            run.header.hosts.len().to_string(),
            run.header.command.clone(),
        ]);
    }
    if rows.len() == 1 {
        return "no run is recorded on these hosts\n".to_owned();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect::<String>();
        format!("{cells}{}\n", row[6])
    };
    rows.iter().map(line).collect()
}

/// A run with all its steps.
pub fn text(run: &Recorded) -> String {
    let header = &run.header;
    let mut lines = format!("{}\n", style(format!("run {}: {}", header.id, state(run.state()))).bold());
    let ended = run.end.as_ref().map_or(String::new(), |(at, _)| format!(" to {}", time(*at as i64)));
    let mut facts = vec![
        ("operator", header.operator.clone()),
        ("time", format!("{}{ended}", time(header.started))),
        ("command", header.command.clone()),
        ("playbook", header.playbook.clone()),
        ("hosts", header.hosts.join(", ")),
        ("changes", run.changes().to_string()),
    ];
    facts.extend(header.plan.clone().map(|plan| ("saved plan", plan)));
    facts.extend(header.resumes.clone().map(|id| ("resumes", id)));
    for (name, value) in facts {
        lines += &format!("  {name:<10}  {value}\n");
    }
    for step in steps(run) {
        lines += &step.text(&header.id);
    }
    lines
}

/// The object of a run.
pub fn json(run: &Recorded) -> String {
    let header = &run.header;
    let object = json!({
        "event": "run", "run": header.id, "state": run.state().name(), "operator": header.operator,
        "started": header.started, "ended": run.end.as_ref().map(|(at, _)| at), "command": header.command,
        "playbook": header.playbook, "hosts": header.hosts, "changes": run.changes(), "plan": header.plan,
        "resumes": header.resumes, "recap": run.end.as_ref().map(|(_, end)| &end.hosts),
    });
    format!("{object}\n")
}

/// An object for each step.
pub fn json_steps(run: &Recorded) -> String {
    steps(run).iter().map(Step::json).collect()
}

/// What a journal says of one step.
struct Step<'a> {
    host: &'a str,
    number: u32,
    at: f64,
    name: &'a StepName,
    end: Option<(Status, f64, Option<&'a str>)>,
    diff: &'a [Diff],
    before: Vec<&'a Before>,
}

/// The steps, host by host. Two agents of one run that wrote to one journal count on: a number names the last step of it.
fn steps(run: &Recorded) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    for (host, entries) in &run.hosts {
        for entry in entries {
            if let Entry::Step { step, at, name } = entry {
                steps.push(Step { host, number: *step, at: *at, name, end: None, diff: &[], before: Vec::new() });
                continue;
            }
            let number = match entry {
                Entry::Before(before) => before.step,
                Entry::Diff { step, .. } | Entry::Done { step, .. } => *step,
                _ => continue,
            };
            let Some(step) = steps.iter_mut().rfind(|step| step.host == host && step.number == number) else {
                continue;
            };
            match entry {
                // What a task with no_log changed is nobody's business.
                Entry::Before(before) if !step.name.no_log => step.before.push(before),
                Entry::Diff { diff, .. } if !step.name.no_log => step.diff = diff,
                Entry::Done { status, seconds, message, .. } => {
                    step.end = Some((*status, *seconds, message.as_deref()));
                }
                _ => {}
            }
        }
    }
    steps
}

impl Step<'_> {
    fn status(&self) -> &'static str {
        match self.end {
            None => "unfinished",
            Some((Status::Changed, ..)) => "changed",
            Some((Status::Unchanged, ..)) => "ok",
            Some((Status::Failed, ..)) => "failed",
        }
    }

    fn text(&self, run: &str) -> String {
        let StepName { role, task, item, .. } = self.name;
        let status = match self.status() {
            name @ "changed" => style(name).yellow(),
            name @ "ok" => style(name).green(),
            name => style(name).red(),
        };
        let role = if role.is_empty() { String::new() } else { format!("{role} : ") };
        let mut lines = format!("{} | {status} | {role}{task}", self.host);
        lines.extend(item.map(|item| format!(" (item {item})")));
        if let Some((_, seconds, message)) = self.end {
            lines += &format!(" [{seconds:.2}s]");
            lines.extend(message.map(|message| format!(": {message}")));
        }
        lines.push('\n');
        lines.extend(self.diff.iter().map(unified::lines));
        for before in &self.before {
            let Before { path, size, image, not_kept, .. } = before;
            let size = size.map_or(String::new(), |size| format!(", {size} bytes"));
            lines += &match (image, not_kept) {
                (Some(image), _) => format!("  before: {path}{size}: runs/{run}/{image}\n"),
                (None, Some(why)) => format!("  before: {path}{size}: not kept, {why}\n"),
                (None, None) => continue,
            };
        }
        lines
    }

    fn json(&self) -> String {
        let StepName { task_id, role, task, item, no_log } = self.name;
        let object = json!({
            "event": "step", "host": self.host, "step": self.number, "task_id": task_id, "role": role, "task": task,
            "item": item, "no_log": no_log, "status": self.status(), "at": self.at,
            "seconds": self.end.map(|(_, seconds, _)| seconds), "message": self.end.and_then(|(.., message)| message),
            "diff": json::diffs(self.diff), "before": self.before,
        });
        format!("{object}\n")
    }
}

fn state(state: State) -> String {
    let name = state.name();
    match state {
        State::Done => style(name).green(),
        State::Failed | State::Interrupted => style(name).red(),
        State::Running => style(name).yellow(),
    }
    .to_string()
}

/// Seconds since 1970, for people.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
