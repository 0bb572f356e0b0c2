//! What a plan comes to, as text: counts, what is known later, what restarts.

use crate::engine::plan::{Action, Consequence, Grades, Summary};
use console::style;
use indexmap::IndexMap;

/// Hosts up to this many are named.
const NAMED: usize = 3;

pub fn text(summary: &Summary) -> String {
    let hosts = summary.hosts.len();
    let total = match summary.grades.total() {
        0 => "no changes".to_owned(),
        _ => format!("{} on {hosts} host{}", grades(summary.grades), if hosts == 1 { "" } else { "s" }),
    };
    let mut lines = format!("\n{} {total}\n", style("PLAN SUMMARY").bold());
    if !summary.incomplete.is_empty() {
        lines += &format!("not planned to the end: {}\n", summary.incomplete.join(", "));
    }
    for (host, of) in &summary.hosts {
        lines += &format!("{host} : {}\n", grades(*of));
    }
    let mut later: IndexMap<_, usize> = IndexMap::new();
    for (_, after) in &summary.later {
        *later.entry(after).or_default() += 1;
    }
    for (after, n) in later {
        lines += &format!("{n} known after {after}\n");
    }
    let api = summary.api.as_ref().map(|api| match &api.unavailable {
        Some(why) => format!("API unavailable: {}", style(format!("yes, {why}")).yellow()),
        None => "API unavailable: no".to_owned(),
    });
    let told = [Action::Restart, Action::Stop, Action::Reload, Action::Start].map(|action| told(summary, action));
    let told: Vec<String> = told.into_iter().flatten().chain(api.filter(|_| summary.grades.total() > 0)).collect();
    if !told.is_empty() {
        lines += &format!("{}\n", told.join("; "));
    }
    lines
}

/// "9 changes: 8 exact, 1 opaque"
fn grades(grades: Grades) -> String {
    let columns = grades.columns().into_iter().filter(|(_, n)| *n > 0);
    let columns: Vec<String> = columns.map(|(grade, n)| format!("{n} {}", grade.name().replace('_', " "))).collect();
    let n = grades.total();
    format!("{n} change{}: {}", if n == 1 { "" } else { "s" }, columns.join(", "))
}

/// "restarts etcd on n1, n2 and n3 one at a time, kubelet on 37 hosts at once"
fn told(summary: &Summary, action: Action) -> Option<String> {
    let parts: Vec<String> = summary.consequences.iter().filter(|one| one.action == action).map(part).collect();
    (!parts.is_empty()).then(|| format!("{}s {}", action.name(), parts.join(", then ")))
}

fn part(Consequence { unit, action, hosts, at_once }: &Consequence) -> String {
    let place = match hosts.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if hosts.len() <= NAMED => format!("{} and {last}", first.join(", ")),
        _ => format!("{} hosts", hosts.len()),
    };
    let pace = match (*at_once, hosts.len()) {
        (_, 1) => String::new(),
        _ if *action == Action::Start => String::new(),
        (1, _) => " one at a time".to_owned(),
        (n, all) if n == all => " at once".to_owned(),
        (n, _) => format!(" {n} at a time"),
    };
    format!("{unit} on {place}{pace}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Subject;
    use crate::engine::plan::Api;
    use crate::value::After;

    fn consequence(unit: &str, action: Action, hosts: usize, at_once: usize) -> Consequence {
        Consequence { unit: unit.into(), action, hosts: (1..=hosts).map(|n| format!("n{n}")).collect(), at_once }
    }

    #[test]
    fn says_what_it_comes_to() {
        let n1 = Grades { exact: 8, known_after_apply: 1, opaque: 0 };
        let subject = Subject {
            host: "n1".into(),
            task_id: "1.2".into(),
            role: "etcd".into(),
            task: "Make its certificate".into(),
        };
        let summary = Summary {
            grades: n1,
            incomplete: Vec::new(),
            hosts: [("n1".to_owned(), n1)].into_iter().collect(),
            later: vec![(
                subject,
                After { task_id: "1.1".into(), task: "pki : Make the CA".into(), host: "n1".into() },
            )],
            consequences: vec![
                consequence("etcd", Action::Restart, 3, 1),
                consequence("kubelet", Action::Restart, 37, 37),
                consequence("containerd", Action::Restart, 10, 4),
                consequence("kube-proxy", Action::Start, 2, 2),
            ],
            api: Some(Api { unavailable: None }),
        };
        insta::assert_snapshot!(console::strip_ansi_codes(&text(&summary)), @r"

        PLAN SUMMARY 9 changes: 8 exact, 1 known after apply on 1 host
        n1 : 9 changes: 8 exact, 1 known after apply
        1 known after pki : Make the CA on n1
        restarts etcd on n1, n2 and n3 one at a time, then kubelet on 37 hosts at once, then containerd on 10 hosts 4 at a time; starts kube-proxy on n1 and n2; API unavailable: no
        ");
        let nothing = Summary {
            grades: Grades::default(),
            incomplete: vec!["n2".to_owned()],
            hosts: Default::default(),
            later: Vec::new(),
            consequences: Vec::new(),
            api: Some(Api { unavailable: None }),
        };
        assert_eq!(
            console::strip_ansi_codes(&text(&nothing)),
            "\nPLAN SUMMARY no changes\nnot planned to the end: n2\n"
        );
    }
}
