//! Plans: what a run would change, found out by a rehearsal of it on agents that only remember.
//!
//! [`Plan::make`] rehearses; [`Summary`] is what it comes to, with its consequences; [`Limits`] refuses too much at once;
//! [`SavedPlan`] is the file, which is compared with a new plan before it is applied. A run that keeps to a plan gets its
//! [`Expectations`]: agents compare each change with them before they make it.

mod compare;
mod consequences;
mod limits;
mod saved;
mod summary;

pub use consequences::{Action, Api, Consequence};
pub use limits::{Limit, Limits};
pub use saved::{Asked, SavedPlan, diff_json};
pub use summary::{Grades, Summary};

use super::event::{Event, Events, May, Status, Step, Subject};
use super::run::Run;
use crate::modules::Grade;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a run would do.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of the plays and of their batches; those of a host in the order in which they come.
    pub steps: Vec<Step>,
    /// Tasks that would change a host, as they are counted.
    pub changes: Vec<(Subject, Grade)>,
    /// Hosts of which the plan is not complete.
    pub lost: BTreeSet<String>,
}

impl Plan {
    /// Rehearses the run. `shown`: its events are those of the run; else only what goes wrong is told.
    pub async fn make(run: &Arc<Run>, shown: bool) -> Self {
        let (events, mut receiver) = Events::channel();
        let rehearsal = run.rehearsal(events);
        let told = run.clone();
        let reader = tokio::spawn(async move {
            let mut plan = Self::default();
            while let Some(event) = receiver.recv().await {
                let wrong = plan.read(&event);
                if shown || wrong {
                    told.events.send(event);
                }
            }
            plan
        });
        rehearsal.play().await;
        rehearsal.events.close();
        let mut plan = reader.await.unwrap_or_default();
        plan.lost.iter().filter_map(|host| run.hosts.get(host)).for_each(|host| host.kill());
        let place = |step: &Step| {
            let play = play_of(&step.subject.task_id);
            let batches = play.and_then(|play| run.shapes.get(play)).map(|shape| &shape.batches);
            let batch = batches.and_then(|all| all.iter().position(|batch| batch.contains(&step.subject.host)));
            (play, batch, run.hosts.get_index_of(&step.subject.host))
        };
        plan.steps.sort_by_cached_key(place);
        plan
    }

    /// Takes in an event; says whether it tells of something that went wrong.
    fn read(&mut self, event: &Event) -> bool {
        match event {
            Event::Step(step) => self.steps.push((**step).clone()),
            Event::Task { subject, status: Status::Changed, grade, .. } => self.changes.push((subject.clone(), *grade)),
            Event::Task { subject, status: Status::Failed | Status::Unreachable, .. } => {
                self.lost.insert(subject.host.clone());
                return true;
            }
            Event::Warning { .. } => return true,
            _ => {}
        }
        false
    }

    /// Whether every host of the run was planned to its end.
    pub fn is_complete(&self, run: &Run) -> bool {
        self.lost.is_empty() && !run.stopped() && run.hosts.values().all(|host| !host.is_dead())
    }

    pub fn expectations(&self) -> Expectations {
        let mut hosts: HashMap<String, HashMap<String, Option<Vec<String>>>> = HashMap::new();
        for Step { subject, may, .. } in &self.steps {
            let task = hosts.entry(subject.host.clone()).or_default().entry(subject.task_id.clone());
            let known = task.or_insert_with(|| Some(Vec::new()));
            match (may, known) {
                (May::Change(digest), Some(digests)) => digests.push(digest.clone()),
                (May::Anything, known) => *known = None,
                _ => {}
            }
        }
        Expectations(hosts)
    }
}

/// What the tasks of a run may change: host, task, and the digests of its changes, or nothing where they are not known.
#[derive(Debug, Default)]
pub struct Expectations(HashMap<String, HashMap<String, Option<Vec<String>>>>);

impl Expectations {
    /// What [`crate::agent::protocol::Task::expect`] is for a task; one without a place in the plan may change nothing.
    pub fn of(&self, host: &str, task_id: &str) -> Option<Vec<String>> {
        self.0.get(host).and_then(|tasks| tasks.get(task_id)).cloned().unwrap_or_else(|| Some(Vec::new()))
    }
}

/// A reason not to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Hosts that it is about.
    pub hosts: Vec<String>,
    /// One line, without the hosts.
    pub text: String,
}

/// Tells the objections and fails the hosts that they are about. False: there are some, and the run stops here.
pub fn accept(run: &Run, objections: &[Objection]) -> bool {
    let mut failed = BTreeSet::new();
    for Objection { hosts, text } in objections {
        let host = (hosts.len() == 1).then(|| hosts[0].clone());
        let place = host.as_deref().unwrap_or("cluster");
        run.events.send(Event::Finding { text: format!("{place} : plan : {text}"), fatal: true, host });
        failed.extend(hosts);
    }
    for name in failed {
        run.outcome(name, 0, "Plan", Status::Failed, Some("the plan is refused; nothing was changed".to_owned()));
    }
    objections.is_empty()
}

/// The number of the play, from 0: that of `3.12` is 2.
fn play_of(task_id: &str) -> Option<usize> {
    task_id.split('.').next()?.parse::<usize>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::modules::UnitEffect;
    use crate::system::UnitAction;

    pub fn step(host: &str, task_id: &str) -> Step {
        Step {
            subject: Subject {
                host: host.to_owned(),
                task_id: task_id.to_owned(),
                role: "etcd".to_owned(),
                task: format!("Task {task_id}"),
            },
            item: None,
            changed: true,
            grade: Grade::Exact,
            after: None,
            may: May::Anything,
            hidden: false,
            diff: Vec::new(),
            units: Vec::new(),
        }
    }

    /// What a task does to a unit that ran.
    pub fn unit(host: &str, task_id: &str, unit: &str, action: Option<UnitAction>, was_active: bool) -> Step {
        let unit = crate::system::unit_name(unit);
        Step { units: vec![UnitEffect { unit, action, was_active, host: None }], ..step(host, task_id) }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::step;
    use super::*;

    #[test]
    fn a_task_may_do_what_the_plan_says_and_no_more() {
        let change = |digest: &str| May::Change(digest.to_owned());
        let plan = Plan {
            steps: vec![
                Step { may: change("a"), ..step("n1", "1.1") },
                Step { may: change("b"), item: Some(1), ..step("n1", "1.1") },
                Step { may: May::Nothing, ..step("n1", "1.2") },
                Step { may: change("c"), ..step("n1", "1.3") },
                Step { may: May::Anything, item: Some(0), ..step("n1", "1.3") },
            ],
            ..Plan::default()
        };
        let expected = plan.expectations();
        let may = |host, task| expected.of(host, task).map(|digests| digests.join(" "));
        assert_eq!(may("n1", "1.1").as_deref(), Some("a b"));
        assert_eq!(may("n1", "1.2").as_deref(), Some(""));
        assert_eq!(may("n1", "1.3"), None);
        assert_eq!(may("n1", "9.9").as_deref(), Some(""), "not planned");
        assert_eq!(may("n2", "1.3").as_deref(), Some(""), "not planned there");
    }

    #[test]
    fn the_number_of_a_play() {
        assert_eq!((play_of("3.12"), play_of("1.h2"), play_of("0.plan")), (Some(2), Some(0), None));
    }
}
