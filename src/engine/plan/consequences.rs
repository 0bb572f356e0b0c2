//! What a plan does to what runs: which units restart, start, stop, where, in what order, how many at the same time.
//!
//! Comes from the typed effects of the tasks ([`crate::modules::UnitEffect`]) and the order of the plays; pure. What runs
//! on a host side by side is counted as down at the same time wherever nothing forbids it, so the numbers are upper bounds.

use super::play_of;
use crate::engine::event::Step;
use crate::graph::PlayShape;
use crate::system::UnitAction;
use indexmap::{IndexMap, IndexSet};
use std::collections::BTreeSet;

const API_SERVER: &str = "kube-apiserver.service";
const ETCD: &str = "etcd.service";
/// So many plays that touch one unit are looked at in all combinations; the sum of more is no smaller than the truth.
const COMBINED_PLAYS: usize = 12;

/// What becomes of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It did not run before: no disruption.
    Start,
    Restart,
    Reload,
    Stop,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Stop => "stop",
        }
    }
}

/// What a plan does to one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// `kubelet`: without `.service`.
    pub unit: String,
    pub action: Action,
    /// In the order of the plays and batches.
    pub hosts: Vec<String>,
    /// On how many hosts it can be in the middle of it at the same time.
    pub at_once: usize,
}

/// Whether the Kubernetes API stops answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Why it does, if it does.
    pub unavailable: Option<String>,
}

/// Play, batch, host.
type Places = IndexSet<(usize, usize, String)>;

/// What the steps of a plan do to units.
#[derive(Debug, Default)]
pub struct Effects {
    /// Unit, and whether it ran on a host before.
    running: IndexMap<String, IndexMap<String, bool>>,
    /// (Unit, what becomes of it), and where.
    actions: IndexMap<(String, Action), Places>,
}

impl Effects {
    /// Of steps in the order of [`super::Plan::steps`].
    pub fn new(steps: &[Step], plays: &[PlayShape]) -> Self {
        let mut this = Self::default();
        for step in steps {
            let play = play_of(&step.subject.task_id).unwrap_or_default();
            let batches = plays.get(play).map_or(&[][..], |shape| &shape.batches);
            let batch = batches.iter().position(|batch| batch.contains(&step.subject.host)).unwrap_or_default();
            for effect in &step.units {
                let host = effect.host.as_ref().unwrap_or(&step.subject.host);
                let seen = this.running.entry(effect.unit.clone()).or_default();
                // Whether it ran before the plan, not after what the plan has done so far.
                let ran = *seen.entry(host.clone()).or_insert(effect.was_active);
                let action = match effect.action {
                    Some(UnitAction::Restart) if ran => Action::Restart,
                    Some(UnitAction::Reload) if ran => Action::Reload,
                    Some(UnitAction::Start | UnitAction::Restart | UnitAction::Reload) => Action::Start,
                    Some(UnitAction::Stop) if ran => Action::Stop,
                    _ => continue,
                };
                let places = this.actions.entry((effect.unit.clone(), action)).or_default();
                places.insert((play, batch, host.clone()));
            }
        }
        this
    }

    pub fn consequences(&self, plays: &[PlayShape]) -> Vec<Consequence> {
        let one = |((unit, action), places): (&(String, Action), &Places)| Consequence {
            unit: short(unit).to_owned(),
            action: *action,
            hosts: places.iter().map(|(.., host)| host.clone()).collect::<IndexSet<_>>().into_iter().collect(),
            at_once: at_once(places, plays).len(),
        };
        self.actions.iter().map(one).collect()
    }

    /// On how many hosts a unit ran before.
    pub fn running(&self, unit: &str) -> usize {
        self.running.get(unit).map_or(0, |hosts| hosts.values().filter(|ran| **ran).count())
    }

    /// The hosts on which a unit can be down at the same time. One that is stopped stays down.
    pub fn down(&self, unit: &str, plays: &[PlayShape]) -> BTreeSet<String> {
        let places = |action| self.actions.get(&(unit.to_owned(), action));
        let restarted = places(Action::Restart).map(|places| at_once(places, plays)).unwrap_or_default();
        let stopped = places(Action::Stop).into_iter().flatten().map(|(.., host)| host.clone());
        restarted.into_iter().chain(stopped).collect()
    }

    /// Whether the API stops answering, for a cluster with these control-plane nodes and etcd members. Nodes of which the
    /// plan does not see whether they run the API server or etcd are taken to.
    pub fn api(&self, control_plane: &[String], etcd: &[String], plays: &[PlayShape]) -> Api {
        let runs = |unit: &str, hosts: &[String]| -> BTreeSet<String> {
            let seen = self.running.get(unit);
            let known = seen.into_iter().flatten().filter(|(_, ran)| **ran).map(|(host, _)| host.clone());
            let unseen = hosts.iter().filter(|host| seen.is_none_or(|seen| !seen.contains_key(*host)));
            known.chain(unseen.cloned()).collect()
        };
        let servers = runs(API_SERVER, control_plane);
        let members = runs(ETCD, etcd);
        let down = |unit: &str| self.down(unit, plays);
        let unavailable = if servers.is_empty() {
            // There is none yet.
            None
        } else if servers.is_subset(&down(API_SERVER)) {
            Some(format!("while {} {}", self.becomes(API_SERVER), on_all(&servers, "control-plane node")))
        } else {
            let down = down(ETCD);
            let left = members.difference(&down).count();
            let quorum = members.len() / 2 + 1;
            (!members.is_empty() && left < quorum).then(|| match members.len() == down.len() {
                true => format!("while {} {}", self.becomes(ETCD), on_all(&members, "etcd member")),
                false => format!(
                    "while {} on {} of {} members at the same time, {quorum} are needed",
                    self.becomes(ETCD),
                    down.len(),
                    members.len()
                ),
            })
        };
        Api { unavailable }
    }

    /// "etcd restarts"
    fn becomes(&self, unit: &str) -> String {
        let stops = self.actions.contains_key(&(unit.to_owned(), Action::Stop));
        format!("{} {}", short(unit), if stops { "stops" } else { "restarts" })
    }
}

fn on_all(hosts: &BTreeSet<String>, what: &str) -> String {
    match hosts.len() {
        1 => format!("on {}, the only {what}", hosts.iter().map(String::as_str).collect::<String>()),
        n => format!("on all {n} {what}s at the same time"),
    }
}

/// A service's name without its suffix.
pub fn short(unit: &str) -> &str {
    unit.strip_suffix(".service").unwrap_or(unit)
}

/// The largest set of hosts that can be at it at the same time: those of one batch of a play, with those of plays that
/// nothing puts before or after it.
fn at_once(places: &Places, plays: &[PlayShape]) -> BTreeSet<String> {
    let mut batches: IndexMap<usize, IndexMap<usize, BTreeSet<String>>> = IndexMap::new();
    for (play, batch, host) in places {
        batches.entry(*play).or_default().entry(*batch).or_default().insert(host.clone());
    }
    let largest = |batches: IndexMap<usize, BTreeSet<String>>| batches.into_values().max_by_key(BTreeSet::len);
    let of_play: Vec<(usize, BTreeSet<String>)> =
        batches.into_iter().map(|(play, batches)| (play, largest(batches).unwrap_or_default())).collect();
    if of_play.len() > COMBINED_PLAYS {
        return of_play.into_iter().flat_map(|(_, hosts)| hosts).collect();
    }
    let apart = |a: usize, b: usize| !needs(plays, a, b) && !needs(plays, b, a);
    let mut best = BTreeSet::new();
    for chosen in 0_u32..1 << of_play.len() {
        let chosen: Vec<_> = of_play.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1).map(|(_, p)| p).collect();
        let together = chosen.iter().enumerate().all(|(i, (a, _))| chosen[..i].iter().all(|(b, _)| apart(*a, *b)));
        let hosts: BTreeSet<String> = chosen.iter().flat_map(|(_, hosts)| hosts.iter().cloned()).collect();
        if together && hosts.len() > best.len() {
            best = hosts;
        }
    }
    best
}

/// Whether a play comes after another one.
fn needs(plays: &[PlayShape], play: usize, other: usize) -> bool {
    let mut open = vec![play];
    let mut seen = BTreeSet::new();
    while let Some(play) = open.pop() {
        for &need in plays.get(play).map_or(&[][..], |shape| &shape.needs) {
            if need == other {
                return true;
            }
            if seen.insert(need) {
                open.push(need);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::testing::unit;
    use super::*;
    use UnitAction::{Reload, Restart, Start, Stop};

    fn play(hosts: &[&[&str]], needs: &[usize]) -> PlayShape {
        let own = |batch: &&[&str]| batch.iter().map(|&host| host.to_owned()).collect();
        PlayShape {
            name: String::new(),
            batches: hosts.iter().map(own).collect(),
            steps: Vec::new(),
            needs: needs.to_vec(),
        }
    }

    fn told(steps: &[Step], plays: &[PlayShape]) -> Vec<String> {
        let all = Effects::new(steps, plays).consequences(plays);
        all.iter().map(|c| format!("{} {} {} {}", c.action.name(), c.unit, c.hosts.join(","), c.at_once)).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn in_the_order_of_the_plays_and_batches() {
        let plays =
            [play(&[&["n1"], &["n2"], &["n3"]], &[]), play(&[&["n1", "n2", "n3"]], &[0]), play(&[&["n4"]], &[0])];
        let steps = [
            unit("n1", "1.h1", "etcd", Some(Restart), true),
            unit("n2", "1.h1", "etcd", Some(Restart), true),
            unit("n3", "1.h1", "etcd", Some(Restart), true),
            unit("n1", "2.h1", "kubelet", Some(Restart), true),
            unit("n2", "2.h1", "kubelet", Some(Restart), true),
            unit("n4", "3.h1", "kubelet", Some(Restart), true),
            unit("n4", "3.4", "containerd", Some(Start), false),
        ];
        let expected = ["restart etcd n1,n2,n3 1", "restart kubelet n1,n2,n4 3", "start containerd n4 1"];
        assert_eq!(told(&steps, &plays), expected, "plays 2 and 3 run side by side");
        let in_a_row = [plays[0].clone(), plays[1].clone(), play(&[&["n4"]], &[1])];
        assert_eq!(told(&steps, &in_a_row)[1], "restart kubelet n1,n2,n4 2", "and now one after the other");
    }

    #[test]
    fn what_did_not_run_starts() {
        let plays = [play(&[&["n1", "n2"]], &[])];
        let steps = [
            unit("n1", "1.1", "etcd", Some(Start), false),
            // The overlay has it running by now.
            unit("n1", "1.h1", "etcd", Some(Restart), true),
            unit("n2", "1.1", "etcd", Some(Reload), true),
            unit("n1", "1.2", "swap.target", Some(Stop), true),
            unit("n2", "1.2", "swap.target", Some(Stop), false),
            unit("n2", "1.3", "sshd", None, true),
        ];
        assert_eq!(told(&steps, &plays), ["start etcd n1 1", "reload etcd n2 1", "stop swap.target n1 1"]);
    }

    #[test]
    fn the_api_is_there_while_one_server_is() {
        let nodes = names(&["n1", "n2"]);
        let restart = |host| unit(host, "1.h1", "kube-apiserver", Some(Restart), true);
        let steps = [restart("n1"), restart("n2")];
        let verdict = |steps: &[Step], plays: &[PlayShape], nodes: &[String]| {
            Effects::new(steps, plays).api(nodes, &names(&["e1"]), plays).unavailable
        };
        let at_once = [play(&[&["n1", "n2"]], &[])];
        let why = verdict(&steps, &at_once, &nodes).unwrap();
        assert_eq!(why, "while kube-apiserver restarts on all 2 control-plane nodes at the same time");
        let serial = [play(&[&["n1"], &["n2"]], &[])];
        assert_eq!(verdict(&steps, &serial, &nodes), None);
        assert_eq!(verdict(&steps, &at_once, &names(&["n1", "n2", "n3"])), None, "n3 is not looked at, and runs");
        let why = verdict(&steps[..1], &at_once, &nodes[..1]).unwrap();
        assert_eq!(why, "while kube-apiserver restarts on n1, the only control-plane node");
        let first = [unit("n1", "1.1", "kube-apiserver", Some(Start), false)];
        assert_eq!(verdict(&first, &at_once, &nodes[..1]), None, "there was none");
    }

    #[test]
    fn the_api_needs_a_quorum_of_etcd() {
        let members = names(&["e1", "e2", "e3"]);
        let restart = |host| unit(host, "1.h1", "etcd", Some(Restart), true);
        let steps = [restart("e1"), restart("e2")];
        let verdict = |steps: &[Step], plays: &[PlayShape], members: &[String]| {
            Effects::new(steps, plays).api(&names(&["n1"]), members, plays).unavailable
        };
        let at_once = [play(&[&["e1", "e2", "e3"]], &[])];
        let why = verdict(&steps, &at_once, &members).unwrap();
        assert_eq!(why, "while etcd restarts on 2 of 3 members at the same time, 2 are needed");
        assert_eq!(verdict(&steps, &[play(&[&["e1"], &["e2"]], &[])], &members), None);
        let why = verdict(&steps[..1], &at_once, &members[..1]).unwrap();
        assert_eq!(why, "while etcd restarts on e1, the only etcd member");
    }

    #[test]
    fn five_hundred_hosts() {
        let hosts: Vec<String> = (0..500).map(|n| format!("n{n}")).collect();
        let steps: Vec<_> = hosts.iter().map(|host| unit(host, "1.h1", "kubelet", Some(Restart), true)).collect();
        let all: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let by_fifty: Vec<&[&str]> = all.chunks(50).collect();
        let plays = [play(&by_fifty, &[])];
        let effects = Effects::new(&steps, &plays);
        assert_eq!(effects.running("kubelet.service"), 500);
        assert_eq!(effects.down("kubelet.service", &plays).len(), 50);
        assert_eq!(effects.consequences(&plays)[0].hosts, hosts);
    }
}
