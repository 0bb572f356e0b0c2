//! Compares a saved plan with what the same would change now. Pure.

use super::saved::{Change, changes};
use super::{Objection, Plan, SavedPlan};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

type Key<'a> = (&'a str, &'a str, Option<u32>);

impl SavedPlan {
    /// What differs, in the order of hosts and tasks. `resume`: the plan was applied in part, so what is done needs not be
    /// done again, and what was not known then may be known now.
    pub fn differences(&self, now: &Plan, resume: bool) -> Vec<Objection> {
        compare(&self.changes, &changes(now), resume)
    }
}

fn compare(saved: &[Change], now: &[Change], resume: bool) -> Vec<Objection> {
    fn by_step(changes: &[Change]) -> BTreeMap<Key<'_>, Vec<&Change>> {
        let mut steps = BTreeMap::<_, Vec<_>>::new();
        for change in changes {
            steps.entry((change.host.as_str(), change.task_id.as_str(), change.item)).or_default().push(change);
        }
        steps
    }
    let (old, new) = (by_step(saved), by_step(now));
    // Which items a task has may be known only when it comes.
    let open: BTreeSet<(&str, &str)> = saved
        .iter()
        .filter(|change| resume && change.grade != "exact")
        .map(|change| (change.host.as_str(), change.task_id.as_str()))
        .collect();
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let mut objections = Vec::new();
    for key in keys {
        let (was, is) = (old.get(&key).map_or(&[][..], Vec::as_slice), new.get(&key).map_or(&[][..], Vec::as_slice));
        for number in 0..was.len().max(is.len()) {
            let difference = match (was.get(number), is.get(number)) {
                (Some(was), Some(is)) if resume => {
                    (!open.contains(&(key.0, key.1)) && !covers(was, is)).then(|| (*is, difference(was, is)))
                }
                (Some(was), Some(is)) => (!same(was, is)).then(|| (*is, difference(was, is))),
                (Some(was), None) => (!resume).then(|| (*was, "there is nothing left to change".to_owned())),
                (None, Some(is)) => {
                    (!open.contains(&(key.0, key.1))).then(|| (*is, format!("not in the plan: {}", about(is))))
                }
                (None, None) => None,
            };
            objections.extend(difference.map(|(change, text)| Objection {
                hosts: vec![change.host.clone()],
                text: format!("{} : {text} : make a new plan", title(change)),
            }));
        }
    }
    objections
}

fn same(was: &Change, is: &Change) -> bool {
    (&was.grade, was.hidden, &was.diff) == (&is.grade, is.hidden, &is.diff)
}

/// Whether what is left to do is part of what was planned: the same things become the same, whatever they are now.
fn covers(was: &Change, is: &Change) -> bool {
    let planned = |diff: &Value| {
        was.diff.iter().any(|old| {
            if old.get("note") != diff.get("note") || old.get("path") != diff.get("path") {
                return false;
            }
            let fields = |diff: &Value| diff.get("fields").and_then(Value::as_array).cloned().unwrap_or_default();
            let becomes = |field: &Value| (field.get("field").cloned(), field.get("after").cloned());
            let old_fields = fields(old);
            old.get("after") == diff.get("after")
                && old.get("subject") == diff.get("subject")
                && fields(diff).iter().all(|field| old_fields.iter().any(|old| becomes(old) == becomes(field)))
        })
    };
    was.hidden == is.hidden && is.diff.iter().all(planned)
}

/// "etcd : Write its unit", with the item where there are several.
fn title(change: &Change) -> String {
    let item = change.item.map(|item| format!(" (item {})", item + 1)).unwrap_or_default();
    let role = if change.role.is_empty() { String::new() } else { format!("{} : ", change.role) };
    format!("{role}{}{item}", change.task)
}

/// What a change is about, in a few words.
fn about(change: &Change) -> String {
    let text = |diff: &Value| {
        ["path", "subject", "note"]
            .iter()
            .find_map(|key| diff.get(key)?.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    match change.diff.first() {
        Some(diff) => text(diff),
        None if change.hidden => "a change that is not shown".to_owned(),
        None => "a change".to_owned(),
    }
}

/// How a change differs from the planned one.
fn difference(was: &Change, is: &Change) -> String {
    for diff in &is.diff {
        let subject = |key: &str| diff.get(key).and_then(Value::as_str);
        let name = subject("path").or(subject("subject"));
        let Some(old) = was
            .diff
            .iter()
            .find(|old| ["path", "subject"].iter().all(|key| old.get(key) == diff.get(key)) && name.is_some())
        else {
            continue;
        };
        let name = name.unwrap_or_default();
        if subject("path").is_some() {
            if old.get("before") != diff.get("before") {
                return format!("{name} has changed since it was planned");
            }
            if old.get("after") != diff.get("after") {
                return format!("{name} would become something else");
            }
        }
        let fields = |diff: &Value| diff.get("fields").and_then(Value::as_array).cloned().unwrap_or_default();
        let old_fields = fields(old);
        for field in fields(diff) {
            let Some(old) = old_fields.iter().find(|old| old.get("field") == field.get("field")) else { continue };
            if *old != field {
                let show = |value: Option<&Value>| match value {
                    Some(Value::String(text)) => text.clone(),
                    _ => "absent".to_owned(),
                };
                let side = |field: &Value| format!("{} -> {}", show(field.get("before")), show(field.get("after")));
                let field_name = show(field.get("field"));
                return format!("{name}: {field_name} is {}, planned was {}", side(&field), side(old));
            }
        }
    }
    match was.grade == is.grade {
        true => format!("another change was planned than {}", about(is)),
        false => format!("planned as {}, now {}", was.grade.replace('_', " "), is.grade.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(task_id: &str, diff: &[Value]) -> Change {
        Change {
            host: "n1".into(),
            task_id: task_id.into(),
            role: "etcd".into(),
            task: format!("Task {task_id}"),
            item: None,
            grade: "exact".into(),
            after: None,
            hidden: false,
            diff: diff.to_vec(),
        }
    }

    fn file(before: Option<&str>, after: &str) -> Value {
        json!({"path": "/etc/x", "before": before, "after": after})
    }

    fn mode(before: &str, after: &str) -> Value {
        json!({"subject": "/etc/x", "fields": [{"field": "mode", "before": before, "after": after}]})
    }

    fn told(saved: &[Change], now: &[Change], resume: bool) -> Vec<String> {
        let objections = compare(saved, now, resume);
        objections.iter().map(|objection| objection.text.trim_end_matches(" : make a new plan").to_owned()).collect()
    }

    #[test]
    fn what_differs_is_said() {
        let planned = change("1.1", &[file(Some("a"), "b"), mode("0644", "0600")]);
        let now = |diff: &[Value]| told(std::slice::from_ref(&planned), &[change("1.1", diff)], false);
        assert!(now(&planned.diff).is_empty());
        let texts = now(&[file(Some("drifted"), "b"), mode("0644", "0600")]);
        assert_eq!(texts, ["etcd : Task 1.1 : /etc/x has changed since it was planned"]);
        let texts = now(&[file(Some("a"), "c"), mode("0644", "0600")]);
        assert_eq!(texts, ["etcd : Task 1.1 : /etc/x would become something else"]);
        let texts = now(&[file(Some("a"), "b"), mode("0666", "0600")]);
        assert_eq!(texts, ["etcd : Task 1.1 : /etc/x: mode is 0666 -> 0600, planned was 0644 -> 0600"]);
        assert_eq!(told(&[planned], &[], false), ["etcd : Task 1.1 : there is nothing left to change"]);
        let texts = told(&[], &[change("1.2", &[file(None, "b")])], false);
        assert_eq!(texts, ["etcd : Task 1.2 : not in the plan: /etc/x"]);
    }

    #[test]
    fn each_run_of_a_handler_and_each_item_counts() {
        let restart = change("1.h1", &[json!({"note": "restart etcd.service"})]);
        let twice = [restart.clone(), restart.clone()];
        assert!(told(&twice, &twice, false).is_empty());
        assert_eq!(told(&twice[..1], &twice, false).len(), 1);
        let item = |item| Change { item: Some(item), ..restart.clone() };
        assert_eq!(
            told(&[item(0)], &[item(1)], false),
            [
                "etcd : Task 1.h1 (item 1) : there is nothing left to change",
                "etcd : Task 1.h1 (item 2) : not in the plan: restart etcd.service"
            ]
        );
    }

    #[test]
    fn what_was_done_before_a_run_was_killed_is_no_difference() {
        let planned = [change("1.1", &[file(None, "b"), mode("0644", "0600")]), change("1.2", &[file(Some("a"), "b")])];
        assert!(told(&planned, &planned[1..], true).is_empty(), "the first is done");
        let rest = [change("1.1", &[mode("0666", "0600")])];
        assert!(told(&planned, &rest, true).is_empty(), "half of the first is left");
        let other = [change("1.1", &[file(None, "c")])];
        assert_eq!(told(&planned, &other, true), ["etcd : Task 1.1 : /etc/x would become something else"]);
        let more = [change("1.3", &[file(None, "b")])];
        assert_eq!(told(&planned, &more, true), ["etcd : Task 1.3 : not in the plan: /etc/x"]);
        // A loop over what an earlier task found, which is done by now.
        let unknown = [Change { grade: "known_after_apply".into(), ..change("1.4", &[]) }];
        let items = [Change { item: Some(3), ..change("1.4", &[file(None, "b")]) }];
        assert!(told(&unknown, &items, true).is_empty());
        assert_eq!(told(&unknown, &items, false).len(), 2);
    }

    #[test]
    fn hidden_changes_are_compared_by_their_being_there() {
        let hidden = Change { hidden: true, ..change("1.1", &[]) };
        assert!(told(std::slice::from_ref(&hidden), std::slice::from_ref(&hidden), false).is_empty());
        let texts = told(&[], &[hidden], false);
        assert_eq!(texts, ["etcd : Task 1.1 : not in the plan: a change that is not shown"]);
    }
}
