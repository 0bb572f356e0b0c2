//! Runs the precondition checks between connecting and the first change.
//!
//! They belong to kprov's own playbooks; a playbook of the user's has its own idea of what has to hold.

use super::event::{Event, Status};
use super::run::Run;
use super::scope::TaskScope;
use crate::artifacts::{Resolved, architecture};
use crate::preflight::{self, Cluster, Finding, Severity, Vars};
use crate::source::{InputError, Span};
use crate::template::Scope;
use crate::value::Value;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::sync::Arc;

struct RunVars<'a>(&'a Arc<Run>);

impl Vars for RunVars<'_> {
    fn get(&self, host: &str, name: &str) -> Result<Option<(Value, Option<Span>)>, InputError> {
        let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_host(self.0, host));
        self.0.variable(&scope, name)
    }
}

/// Checks all hosts, prints every finding, and fails the hosts that have one. False: the run stops here.
pub async fn check(run: &Arc<Run>) -> bool {
    if !variables(run) {
        return false;
    }
    if !run.checks_preconditions() {
        return true;
    }
    let alive = run.hosts.values().filter(|host| !host.is_dead());
    let facts: IndexMap<String, Value> = alive.map(|host| (host.name.clone(), host.facts_value())).collect();
    let checked = preflight::check(&Cluster { inventory: &run.inventory, vars: &RunVars(run), facts: &facts });
    let mut findings = match checked {
        Ok(findings) => findings,
        Err(errors) => {
            for error in errors.0 {
                run.events.send(Event::Finding {
                    host: None,
                    text: format!("cluster : variables : {}", error.in_one_line()),
                    fatal: true,
                });
            }
            fail(run, facts.keys(), "a variable cannot be read");
            return false;
        }
    };
    // A source that is down matters only to a run that may fetch something.
    match sources(run, &facts).await {
        Ok(more) => findings.extend(more),
        Err(error) => {
            run.events.send(Event::Finding {
                host: None,
                text: format!("cluster : artifacts : {}", error.in_one_line()),
                fatal: true,
            });
            fail(run, facts.keys(), "the artifacts cannot be resolved");
            return false;
        }
    }
    report(run, &findings, facts.keys())
}

/// Whether the variables of every host fit what its roles declare. A host with one that does not is out.
fn variables(run: &Arc<Run>) -> bool {
    let mut failed = BTreeMap::new();
    for (error, hosts) in super::variables::check(run) {
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        run.events.send(Event::Finding {
            host: hosts.first().filter(|_| hosts.len() == 1).cloned(),
            text: format!("{} : variables : {}", names.join(", "), error.in_one_line()),
            fatal: true,
        });
        for host in hosts {
            *failed.entry(host).or_insert(0) += 1;
        }
    }
    for (host, n) in &failed {
        let what = if *n == 1 { "a variable does not fit".to_owned() } else { format!("{n} variables do not fit") };
        outcome(run, host, Status::Failed, Some(what));
    }
    failed.is_empty()
}

/// Tells the findings. Those about a host fail that host, those about the cluster fail all.
fn report<'a>(run: &Run, findings: &[Finding], hosts: impl Iterator<Item = &'a String>) -> bool {
    for (finding, text) in findings.iter().zip(preflight::render(findings)) {
        run.events.send(Event::Finding {
            host: finding.host.clone(),
            text,
            fatal: finding.severity == Severity::Error,
        });
    }
    let fatal: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    if fatal.is_empty() {
        for host in hosts {
            outcome(run, host, Status::Ok, None);
        }
        return true;
    }
    let whole = fatal.iter().any(|finding| finding.host.is_none());
    for host in hosts {
        let own = fatal.iter().filter(|finding| finding.host.as_deref() == Some(host)).count();
        match own {
            0 if whole => {
                outcome(run, host, Status::Failed, Some("a precondition of the cluster does not hold".to_owned()))
            }
            0 => outcome(run, host, Status::Ok, None),
            n => outcome(
                run,
                host,
                Status::Failed,
                Some(format!("{n} precondition{} not met", if n == 1 { " is" } else { "s are" })),
            ),
        }
    }
    false
}

fn fail<'a>(run: &Run, hosts: impl Iterator<Item = &'a String>, why: &str) {
    for host in hosts {
        outcome(run, host, Status::Failed, Some(why.to_owned()));
    }
}

fn outcome(run: &Run, host: &str, status: Status, message: Option<String>) {
    run.outcome(host, 0, "Preconditions", status, message);
}

/// Whether every artifact can be had, for each architecture among the hosts.
async fn sources(run: &Arc<Run>, facts: &IndexMap<String, Value>) -> Result<Vec<Finding>, InputError> {
    let mut wanted = BTreeMap::new();
    let mut origin = None;
    for (host, facts) in facts {
        let machine = facts.get("ansible_architecture").and_then(Value::as_str).unwrap_or_default();
        let Some(arch) = architecture(machine) else { continue };
        let catalog = run.artifacts.catalog(run, host)?;
        let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_host(run, host));
        origin = origin.or(scope.lookup("artifact_sources").and_then(|var| var.origin));
        for name in catalog.names() {
            if let Resolved::File(artifact) = catalog.resolve(name, None, arch)? {
                wanted.insert(artifact.digest.to_string(), artifact);
            }
        }
    }
    let wanted: Vec<_> = wanted.into_values().collect();
    let unreachable = run.artifacts.store.check_reachable(&wanted).await;
    let mut findings = preflight::unreachable(&unreachable, origin.as_ref());
    if facts.values().all(has_kubelet) {
        // Nodes that have everything fetch nothing; a task that does need an artifact fails with the same reason.
        findings.iter_mut().for_each(|finding| finding.severity = Severity::Warning);
    }
    Ok(findings)
}

/// Whether a kubelet of ours listens on the host.
fn has_kubelet(facts: &Value) -> bool {
    let sockets =
        facts.get("kprov").and_then(|kprov| kprov.get("listening")).and_then(Value::as_list).unwrap_or_default();
    sockets.iter().any(|socket| socket.get("unit").and_then(Value::as_str) == Some("kubelet.service"))
}
