//! Reduces plays to what the graph needs: hosts in batches, selected steps, what waits for what.

use super::options::Options;
use crate::graph::{PlayShape, StepKind, StepShape};
use crate::inventory::Inventory;
use crate::playbook::{BatchSize, Playbook, Step, Task};
use crate::source::{InputError, InputErrors, Source};
use crate::template::Templar;
use crate::value::Value;
use std::sync::Arc;

/// The shapes of all plays, for the hosts that `limit` leaves.
pub fn shapes(
    playbook: &Playbook,
    inventory: &Inventory,
    limit: Option<&[String]>,
    options: &Options,
    templar: &Templar,
) -> Result<Vec<PlayShape>, InputErrors> {
    let mut shapes = Vec::new();
    let mut errors = Vec::new();
    for (number, play) in playbook.plays.iter().enumerate() {
        let mut hosts = match inventory.select(&play.hosts.value) {
            Ok(hosts) => hosts,
            Err(error) => {
                errors.push(InputError { span: Some(play.hosts.span.clone()), ..error });
                continue;
            }
        };
        if let Some(limit) = limit {
            hosts.retain(|host| limit.contains(host));
        }
        let mut steps = Vec::new();
        collect_steps(&play.steps, options, templar, &mut steps);
        let needs = match &play.needs {
            None if number == 0 => Vec::new(),
            None => vec![number - 1],
            Some(names) => names
                .iter()
                .filter_map(|need| playbook.plays[..number].iter().position(|p| p.name == need.value))
                .collect(),
        };
        shapes.push(PlayShape { name: play.name.clone(), batches: batches(hosts, &play.serial), steps, needs });
    }
    if errors.is_empty() { Ok(shapes) } else { Err(InputErrors(errors)) }
}

fn batches(hosts: Vec<String>, sizes: &[BatchSize]) -> Vec<Vec<String>> {
    if hosts.is_empty() {
        return Vec::new();
    }
    if sizes.is_empty() {
        return vec![hosts];
    }
    let total = hosts.len();
    let mut rest = hosts.as_slice();
    let mut batches = Vec::new();
    let mut i = 0;
    while !rest.is_empty() {
        let size = match sizes[i.min(sizes.len() - 1)] {
            BatchSize::Hosts(n) => n,
            BatchSize::Percent(percent) => ((total as f64 * percent / 100.0) as usize).max(1),
        };
        let (batch, more) = rest.split_at(size.min(rest.len()));
        batches.push(batch.to_vec());
        rest = more;
        i += 1;
    }
    batches
}

fn collect_steps(steps: &[Step], options: &Options, templar: &Templar, shapes: &mut Vec<StepShape>) {
    for step in steps {
        match step {
            Step::Task(task) if options.selects(&task.keywords.tags) => {
                let Some(index) = task.index else { continue };
                let kind = match task {
                    task if task.keywords.run_once => StepKind::Once,
                    task if reads_other_hosts(task, templar) => StepKind::Gather,
                    _ => StepKind::PerHost,
                };
                shapes.push(StepShape { index, kind, title: task.title() });
            }
            Step::Task(_) => {}
            Step::Block(block) => {
                for part in [&block.body, &block.rescue, &block.always] {
                    collect_steps(part, options, templar, shapes);
                }
            }
            Step::FlushHandlers { index, .. } => {
                shapes.push(StepShape { index: *index, kind: StepKind::PerHost, title: "handlers".to_owned() })
            }
            Step::Barrier { index } => {
                shapes.push(StepShape { index: *index, kind: StepKind::Barrier, title: "barrier".to_owned() })
            }
        }
    }
}

/// Whether the task itself names `hostvars`. Variables that read facts of other hosts need no barrier: facts are there
/// before the first task.
fn reads_other_hosts(task: &Task, templar: &Templar) -> bool {
    let mut texts = vec![task.args.clone()];
    texts.extend(task.free_form.clone().map(Value::String));
    texts.extend(task.keywords.when.iter().map(|c| Value::String(format!("{{{{ {} }}}}", c.value))));
    texts.extend(task.keywords.loop_.iter().map(|l| l.items.value.clone()));
    texts.extend(task.keywords.vars.iter().flat_map(|layer| layer.values().map(|var| (*var.value).clone())));
    texts.extend(template_of(task).map(|source| Value::String(source.text.clone())));
    texts.iter().any(|value| reads_hostvars(value, templar))
}

/// The template that a task renders, where its name is no template itself.
pub fn template_of(task: &Task) -> Option<Arc<Source>> {
    let name = matches!(task.module.as_str(), "template" | "k8s")
        .then(|| task.args.get("src").or(task.args.get("template")))??;
    task.files.template(name.as_str()?).ok()
}

fn reads_hostvars(value: &Value, templar: &Templar) -> bool {
    match value {
        Value::String(text) => templar.reads(text).contains("hostvars"),
        Value::List(items) => items.iter().any(|item| reads_hostvars(item, templar)),
        Value::Map(map) => map.values().any(|item| reads_hostvars(item, templar)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_batch_size_repeats() {
        let hosts: Vec<String> = (1..=7).map(|n| format!("n{n}")).collect();
        let sizes: Vec<usize> =
            batches(hosts.clone(), &[BatchSize::Hosts(1), BatchSize::Hosts(3)]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 3, 3]);
        let sizes: Vec<usize> = batches(hosts, &[BatchSize::Percent(30.0)]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 2, 1]);
    }
}
