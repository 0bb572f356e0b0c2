//! Events as text: one line a task that did something, its diff below it where wanted.

use super::{Show, summary, unified};
use crate::engine::event::{Event, Status, Subject};
use crate::modules::Grade;
use crate::value::After;
use console::style;

pub fn event(show: Show, event: &Event) -> String {
    match event {
        Event::Task { subject, status, message, diff, grade, after, took } => {
            let said = *status == Status::Ok && message.is_some();
            if matches!(status, Status::Ok | Status::Skipped) && !show.verbose && !said {
                return String::new();
            }
            let mut lines = format!("{} | {} | {}", subject.host, word(show, *status), title(subject));
            if show.plan && *status == Status::Changed && *grade != Grade::Exact {
                // What a task itself brings to light, as the packages that others depend on, has no task before it.
                let other = |after: &&After| (&after.host, &after.task_id) != (&subject.host, &subject.task_id);
                let after = after.as_ref().filter(other).map(|after| format!(", after {after}")).unwrap_or_default();
                lines += &format!(" ({}{after})", grade.name().replace('_', " "));
            }
            if show.verbose && !show.plan {
                lines += &format!(" [{:.2}s]", took.as_secs_f64());
            }
            if let Some(message) = message.as_ref().filter(|_| *status != Status::Skipped || show.verbose) {
                let separator = if message.contains('\n') { "\n" } else { ": " };
                lines += &format!("{separator}{message}");
            }
            lines.push('\n');
            if show.diff && matches!(status, Status::Changed) {
                lines.extend(diff.iter().map(unified::lines));
            }
            lines
        }
        Event::Stage { .. } | Event::Step(_) => String::new(),
        Event::Summary(told) => summary::text(told),
        Event::StageDone { name, took } if show.verbose => format!("{name}: {:.2}s\n", took.as_secs_f64()),
        Event::StageDone { .. } => String::new(),
        Event::Play { name, hosts } => {
            let line = format!("PLAY [{name}] {hosts} host{}", if *hosts == 1 { "" } else { "s" });
            format!("{}\n", style(line).bold())
        }
        Event::Finding { text, fatal, .. } => match fatal {
            true => format!("{}\n", style(text).red()),
            false => format!("{}\n", style(text).yellow()),
        },
        Event::Warning { text } => format!("{}\n", style(format!("warning: {text}")).yellow()),
    }
}

pub fn title(subject: &Subject) -> String {
    if subject.role.is_empty() { subject.task.clone() } else { format!("{} : {}", subject.role, subject.task) }
}

fn word(show: Show, status: Status) -> String {
    let name = if show.plan && status == Status::Changed { "change" } else { status.name() };
    let styled = match status {
        Status::Ok => style(name).green(),
        Status::Changed | Status::Ignored | Status::Rescued => style(name).yellow(),
        Status::Skipped => style(name).cyan(),
        Status::Failed | Status::Unreachable => style(name).red(),
    };
    styled.to_string()
}
