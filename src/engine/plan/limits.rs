//! `--max-disruption`: on how many hosts a unit may be down at the same time.
//!
//! A percentage is of the hosts of the run on which the unit runs now, rounded up, as a PodDisruptionBudget's
//! `maxUnavailable` is: 10% of 37 are 4. Source: <https://kubernetes.io/docs/tasks/run-application/configure-pdb/>.

use super::consequences::{Effects, short};
use super::{Objection, Plan};
use crate::engine::run::Run;
use crate::playbook::{Playbook, Step, Task};
use crate::source::near_miss;
use crate::system::unit_name;
use crate::value::Value;
use std::collections::BTreeSet;
use std::str::FromStr;

/// One `UNIT=NUMBER` or `UNIT=PERCENT%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `kubelet.service`
    unit: String,
    most: Most,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Most {
    Hosts(usize),
    /// 0 to 100.
    Percent(usize),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}`: expected UNIT=NUMBER or UNIT=PERCENT%, as in kubelet=10%");
        let (unit, most) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<usize>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let most = match most.strip_suffix('%') {
            Some(percent) => Most::Percent(number(percent)?),
            None => Most::Hosts(number(most)?),
        };
        match most {
            Most::Percent(101..) => Err(format!("`{text}`: more than 100%")),
            _ if unit.is_empty() => Err(wrong()),
            _ => Ok(Self { unit: unit_name(unit), most }),
        }
    }
}

impl Limit {
    /// How many of so many hosts may be down.
    fn allows(&self, running: usize) -> usize {
        match self.most {
            Most::Hosts(hosts) => hosts,
            Most::Percent(percent) => (running * percent).div_ceil(100),
        }
    }
}

/// All limits of a run.
#[derive(Clone, Debug, Default)]
pub struct Limits(pub Vec<Limit>);

impl Limits {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses units that no task of the playbook looks after, and limits that are given twice.
    pub fn check(&self, playbook: &Playbook) -> Result<(), String> {
        let Some(known) = units_of(playbook) else { return Ok(()) };
        let mut seen = BTreeSet::new();
        for Limit { unit, .. } in &self.0 {
            let name = short(unit);
            if !known.contains(unit) {
                let near = near_miss(name, known.iter().map(|unit| short(unit)));
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", known.iter().map(|u| short(u)).collect::<Vec<_>>().join(", ")),
                };
                return Err(format!("--max-disruption: no task of the playbook looks after a unit {name}; {help}"));
            }
            if !seen.insert(unit) {
                return Err(format!("--max-disruption: {name} is given twice"));
            }
        }
        Ok(())
    }

    /// What of a plan is too much.
    pub fn exceeded(&self, plan: &Plan, run: &Run) -> Vec<Objection> {
        let effects = Effects::new(&plan.steps, &run.shapes);
        let too_much = |limit: &Limit| {
            let down = effects.down(&limit.unit, &run.shapes);
            let running = effects.running(&limit.unit);
            let allowed = limit.allows(running);
            (down.len() > allowed).then(|| Objection {
                text: format!(
                    "disruption : {} would be down on {} of the {running} hosts that run it at the same time, allowed \
                     are {allowed} (--max-disruption {}) : apply in parts with -l, give the play a `serial`, or allow more",
                    short(&limit.unit),
                    down.len(),
                    limit.text(),
                ),
                hosts: down.into_iter().collect(),
            })
        };
        self.0.iter().filter_map(too_much).collect()
    }
}

impl Limit {
    fn text(&self) -> String {
        match self.most {
            Most::Hosts(hosts) => format!("{}={hosts}", short(&self.unit)),
            Most::Percent(percent) => format!("{}={percent}%", short(&self.unit)),
        }
    }
}

/// The units that tasks name; `None` where that is known only on the hosts.
fn units_of(playbook: &Playbook) -> Option<BTreeSet<String>> {
    let mut units = BTreeSet::new();
    let mut open: Vec<&Step> = playbook.plays.iter().flat_map(|play| &play.steps).collect();
    let mut tasks: Vec<&Task> = playbook.plays.iter().flat_map(|play| &play.handlers).map(|task| &**task).collect();
    while let Some(step) = open.pop() {
        match step {
            Step::Task(task) => tasks.push(task),
            Step::Block(block) => open.extend(block.body.iter().chain(&block.rescue).chain(&block.always)),
            _ => {}
        }
    }
    for task in tasks {
        if !matches!(task.module.as_str(), "systemd" | "systemd_service" | "service") {
            continue;
        }
        let Some(Value::String(name)) = ["name", "service", "unit"].iter().find_map(|key| task.args.get(key)) else {
            continue;
        };
        let items = match &task.keywords.loop_ {
            Some(list) if name.replace(' ', "") == format!("{{{{{}}}}}", list.var) => match &list.items.value {
                Value::List(items) => items.iter().map(ToString::to_string).collect(),
                _ => return None,
            },
            _ => vec![name.clone()],
        };
        if items.iter().any(|name| name.contains("{{")) {
            return None;
        }
        units.extend(items.iter().map(|name| unit_name(name)));
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Limit {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_and_percentages() {
        assert_eq!(limit("etcd=1"), Limit { unit: "etcd.service".into(), most: Most::Hosts(1) });
        assert_eq!(limit("swap.target=0").unit, "swap.target");
        for wrong in ["kubelet", "kubelet=", "=1", "kubelet=-1", "kubelet=1.5", "kubelet=10 %", "kubelet=%", "k=+1"] {
            let error = wrong.parse::<Limit>().unwrap_err();
            assert!(error.contains("expected UNIT=NUMBER"), "{wrong}: {error}");
        }
        assert!("kubelet=101%".parse::<Limit>().unwrap_err().contains("more than 100%"));
    }

    #[test]
    fn percentages_round_up() {
        let allows = |text: &str, running| limit(text).allows(running);
        assert_eq!(allows("kubelet=10%", 37), 4);
        assert_eq!(allows("kubelet=10%", 500), 50);
        assert_eq!(allows("kubelet=10%", 501), 51);
        assert_eq!(allows("kubelet=1%", 3), 1);
        assert_eq!(allows("kubelet=0%", 500), 0);
        assert_eq!(allows("kubelet=100%", 500), 500);
        assert_eq!(allows("kubelet=7", 500), 7);
    }
}
