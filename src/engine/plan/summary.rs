//! What a plan comes to: how many changes of which grade, where, what is known only later, and the consequences.

use super::consequences::{Api, Consequence, Effects};
use super::{Plan, Step};
use crate::engine::event::Subject;
use crate::engine::run::Run;
use crate::modules::Grade;
use crate::value::After;
use indexmap::IndexMap;

/// How many tasks would change something, by grade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grades {
    pub exact: usize,
    pub known_after_apply: usize,
    pub opaque: usize,
}

impl Grades {
    pub fn total(self) -> usize {
        self.exact + self.known_after_apply + self.opaque
    }

    /// Each grade with its number.
    pub fn columns(self) -> [(Grade, usize); 3] {
        [(Grade::Exact, self.exact), (Grade::KnownAfterApply, self.known_after_apply), (Grade::Opaque, self.opaque)]
    }

    fn add(&mut self, grade: Grade) {
        match grade {
            Grade::Exact => self.exact += 1,
            Grade::KnownAfterApply => self.known_after_apply += 1,
            Grade::Opaque => self.opaque += 1,
        }
    }
}

/// What a plan comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub grades: Grades,
    /// Hosts of which the plan is not complete: unreachable, or a task cannot be planned.
    pub incomplete: Vec<String>,
    /// Of hosts that would change, in the order of the inventory.
    pub hosts: IndexMap<String, Grades>,
    /// What is known after apply only: the task, and after which one.
    pub later: Vec<(Subject, After)>,
    pub consequences: Vec<Consequence>,
    /// Of inventories that have a control plane.
    pub api: Option<Api>,
}

impl Summary {
    pub fn new(plan: &Plan, run: &Run) -> Self {
        let (mut grades, mut hosts) = (Grades::default(), IndexMap::<String, Grades>::new());
        for (subject, grade) in &plan.changes {
            grades.add(*grade);
            hosts.entry(subject.host.clone()).or_default().add(*grade);
        }
        hosts.sort_by_cached_key(|host, _| run.hosts.get_index_of(host));
        let mut later: Vec<(Subject, After)> = Vec::new();
        for Step { subject, after, changed, .. } in &plan.steps {
            let Some(after) = after.as_ref().filter(|_| *changed) else { continue };
            if !later.iter().any(|(known, other)| known == subject && other == after) {
                later.push((subject.clone(), after.clone()));
            }
        }
        let effects = Effects::new(&plan.steps, &run.shapes);
        let group = |name: &str| match run.inventory.groups.contains_key(name) {
            true => run.inventory.select(name).unwrap_or_default(),
            false => Vec::new(),
        };
        let control_plane = group("kube_control_plane");
        let api = (!control_plane.is_empty()).then(|| effects.api(&control_plane, &group("etcd"), &run.shapes));
        let dead = run.hosts.iter().filter(|(_, host)| host.is_dead());
        let incomplete = dead.map(|(name, _)| name.clone()).collect();
        Self { grades, incomplete, hosts, later, consequences: effects.consequences(&run.shapes), api }
    }
}
