//! The record that nodes keep of runs: naming a run, recording its end, reading what is there and putting it together.
//!
//! What a node writes is `agent::journal`'s business. The hosts of `kube_control_plane` (all, where there are none) record
//! every run, the others those that changed them. What is read is what the hosts that answer know.

use super::connect;
use super::link::Link;
use super::options::Options;
use super::recap::Recap;
use super::run::{Run, is_file};
use super::scope::TaskScope;
use crate::agent::journal::{Entry, Status, VERSION};
use crate::agent::protocol::{Did, GivenVars, Keep, RunEnd, RunHeader, StepName, ToAgent};
use crate::inventory::Inventory;
use crate::modules::{Failure, Outcome};
use crate::source::InputError;
use crate::template::Scope;
use indexmap::IndexMap;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The group whose hosts record every run.
const WITNESSES: &str = "kube_control_plane";
/// How long a host may take to record the end of a run. One that does not is shown as interrupted.
const END: Duration = Duration::from_secs(10);

/// Names a new run.
pub fn header(options: &Options, hosts: &[String]) -> RunHeader {
    let now = jiff::Timestamp::now();
    let id = run_id(now);
    RunHeader {
        operator: operator(),
        started: now.as_second(),
        command: options.command.clone(),
        hosts: hosts.to_vec(),
        playbook: playbook(&options.playbook),
        limit: options.limit.clone(),
        tags: options.tags.clone(),
        skip_tags: options.skip_tags.clone(),
        extra_vars: options.extra_vars.iter().map(|argument| given(&id, argument)).collect(),
        plan: options.plan.clone(),
        resumes: options.resumes.clone(),
        id,
        ..RunHeader::default()
    }
}

/// When it began, and 24 random bits: two operators may begin at the same tick of their clocks, and the lock goes by this.
fn run_id(now: jiff::Timestamp) -> String {
    // Keyed by the system's random numbers in every process.
    let random = RandomState::new().hash_one(now) & 0xff_ffff;
    format!("{}-{random:06x}", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// `USER@HOST` of whoever runs this.
pub fn operator() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{host}", user.unwrap_or_else(|| "unknown".to_owned()))
}

/// The playbook as it is found from any directory.
pub fn playbook(name: &str) -> String {
    if is_file(name) { absolute(name) } else { name.to_owned() }
}

fn absolute(path: &str) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string()
}

fn given(run: &str, argument: &str) -> GivenVars {
    match argument.strip_prefix('@') {
        Some(file) => GivenVars::File(absolute(file)),
        None => {
            // Only the first name: what stands behind it is a value, or hard to tell from one.
            let name = argument.split_once('=').map(|(name, _)| name.trim().to_owned());
            let names = name.into_iter().filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_')).collect();
            GivenVars::Typed { names, digest: digest(run, argument) }
        }
    }
}

/// Of the run's id too, so that one value looks different in each run.
fn digest(run: &str, argument: &str) -> String {
    Sha256::digest(format!("{run}\0{argument}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a host records the run.
pub fn header_for(run: &Arc<Run>, host: &str) -> Result<Option<RunHeader>, InputError> {
    let Some(header) = &run.header else { return Ok(None) };
    let scope: Arc<dyn Scope> = Arc::new(TaskScope::of_host(run, host));
    let number = |name: &str| match run.variable(&scope, name)? {
        None => Err(InputError::new(format!("{name} is not set"))),
        Some((value, origin)) => value.to_string().parse::<u32>().map_err(|_| {
            let message = format!("{name}: expected a number, found `{value}`");
            origin.map_or_else(|| InputError::new(message.clone()), |origin| InputError::at(&origin, message.clone()))
        }),
    };
    let keep = Keep {
        runs: number("kprov_record_runs")?,
        file_mb: number("kprov_record_file_mb")?,
        run_mb: number("kprov_record_mb")?,
    };
    let always = witnesses(&run.inventory).iter().any(|witness| witness == host);
    // The controller's own machine is no part of the cluster, and of no other one.
    let token = run.lock.token().filter(|_| run.inventory.hosts.contains_key(host)).unwrap_or_default();
    Ok(Some(RunHeader { token, always, keep, ..header.clone() }))
}

/// The hosts that record every run.
pub fn witnesses(inventory: &Inventory) -> Vec<String> {
    let in_group = inventory.hosts.values().filter(|host| host.groups.contains(WITNESSES));
    let names: Vec<String> = in_group.map(|host| host.name.clone()).collect();
    if names.is_empty() { inventory.hosts.keys().cloned().collect() } else { names }
}

/// Has all hosts record the end of the run. Returns why some could not.
pub async fn end(run: &Arc<Run>, status: &str, recap: &Recap) -> Vec<String> {
    if run.header.is_none() {
        return Vec::new();
    }
    let columns = |counts: &super::recap::Counts| {
        counts.columns().iter().map(|(name, n)| ((*name).to_owned(), u32::try_from(*n).unwrap_or(u32::MAX))).collect()
    };
    let hosts = recap.hosts.iter().map(|(host, counts)| (host.clone(), columns(counts))).collect();
    let end = RunEnd { status: status.to_owned(), hosts };
    let mut tasks = JoinSet::new();
    for link in run.all_links().into_iter().filter(|link| !link.is_lost()) {
        let end = end.clone();
        tasks.spawn(async move {
            match tokio::time::timeout(END, link.agent.end(end)).await {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(format!("{}: {failure}", link.host)),
                Err(_) => Some(format!("{}: did not record the end of the run within {} s", link.host, END.as_secs())),
            }
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Has a host record what the controller changed for it, or failed to.
pub async fn did(run: &Run, link: &Link, name: StepName, took: Duration, result: &Result<Outcome, Failure>) {
    let result = match result {
        Ok(outcome) if outcome.changed => Ok(if name.no_log { Vec::new() } else { outcome.diff.clone() }),
        Ok(_) => return,
        Err(failure) => Err(Failure::new(failure.message.clone())),
    };
    if run.header.is_some() {
        let did = Did { name, seconds: took.as_secs_f64(), result };
        // A host that is gone is noticed where its answers end.
        let _ = link.agent.send(ToAgent::Did(Box::new(did))).await;
    }
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Done,
    Failed,
    /// Stopped by its operator, or killed.
    Interrupted,
    Running,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Running => "running",
        }
    }
}

/// One run, as the hosts that answered know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    pub header: RunHeader,
    /// When it ended, by the clock of the node that wrote it, and how.
    pub end: Option<(f64, RunEnd)>,
    running: bool,
    /// What each host that recorded something of it has.
    pub hosts: IndexMap<String, Vec<Entry>>,
}

impl Recorded {
    pub fn state(&self) -> State {
        match &self.end {
            Some((_, end)) if end.status == "done" => State::Done,
            Some((_, end)) if end.status == "failed" => State::Failed,
            None if self.running => State::Running,
            _ => State::Interrupted,
        }
    }

    /// How many tasks changed something; how many steps are known to have, where the run has no end.
    pub fn changes(&self) -> usize {
        match &self.end {
            Some((_, end)) => end.hosts.values().filter_map(|columns| columns.get("changed")).sum::<u32>() as usize,
            None => self.steps(|status| status == Status::Changed),
        }
    }

    /// How many steps ended in one of these ways.
    pub fn steps(&self, of: impl Fn(Status) -> bool) -> usize {
        let entries = self.hosts.values().flatten();
        entries.filter(|entry| matches!(entry, Entry::Done { status, .. } if of(*status))).count()
    }

    /// How many steps began.
    pub fn begun(&self) -> usize {
        self.hosts.values().flatten().filter(|entry| matches!(entry, Entry::Step { .. })).count()
    }

    /// The arguments of `-e` to run it again with, where `typed` is what was given in place of what is not recorded.
    pub fn extra_vars(&self, typed: &[String]) -> Result<Vec<String>, String> {
        let RunHeader { id, extra_vars, .. } = &self.header;
        let names: Vec<String> = extra_vars
            .iter()
            .filter_map(|given| match given {
                GivenVars::File(_) => None,
                GivenVars::Typed { names, .. } if names.is_empty() => Some("-e …".to_owned()),
                GivenVars::Typed { names, .. } => Some(format!("-e {}=…", names.join(" "))),
            })
            .collect();
        // A file that is recorded may be given again: the way to the hosts may be in it.
        let (files, typed): (Vec<_>, Vec<_>) = typed.iter().partition(|argument| argument.starts_with('@'));
        let known = |file: &&String| extra_vars.contains(&GivenVars::File(absolute(file.trim_start_matches('@'))));
        if let Some(other) = files.into_iter().find(|file| !known(file)) {
            return Err(format!("run {id} did not have `-e {other}`; leave it out, or start anew with `kprov apply`"));
        }
        if typed.len() != names.len() {
            return Err(match names.len() {
                0 => format!("run {id} had no variables typed on its command line; leave out -e"),
                _ => format!(
                    "values that were typed are not recorded; give them again as in run {id}: {}",
                    names.join(" ")
                ),
            });
        }
        let mut typed = typed.into_iter();
        let mut arguments = Vec::new();
        for given in extra_vars {
            match given {
                GivenVars::File(path) if Path::new(path).exists() => arguments.push(format!("@{path}")),
                GivenVars::File(path) => {
                    return Err(format!("{path}, from which run {id} had variables, is not on this machine"));
                }
                GivenVars::Typed { digest: recorded, .. } => {
                    let argument = typed.next().cloned().unwrap_or_default();
                    if digest(id, &argument) != *recorded {
                        return Err(format!(
                            "`-e {}=…` is not what run {id} had; give the same, or start anew with `kprov apply`",
                            argument.split('=').next().filter(|_| argument.contains('=')).unwrap_or_default()
                        ));
                    }
                    arguments.push(argument);
                }
            }
        }
        Ok(arguments)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Records {
    /// By their ids, oldest first.
    pub runs: BTreeMap<String, Recorded>,
    pub answered: Vec<String>,
    /// The hosts that did not answer, and why.
    pub silent: Vec<(String, String)>,
    /// Journals that this build cannot read.
    pub newer: Vec<String>,
}

impl Records {
    /// The run that a user means: `last`, an id, or how only one begins.
    pub fn find(&self, name: &str) -> Result<&Recorded, String> {
        if name == "last" {
            return self.runs.values().next_back().ok_or_else(|| "no run is recorded on these hosts".to_owned());
        }
        let mut matching = self.runs.iter().filter(|(id, _)| id.starts_with(name));
        match (self.runs.get(name), matching.next(), matching.next()) {
            (Some(run), ..) | (None, Some((_, run)), None) => Ok(run),
            (None, None, _) => Err(format!("no run {name} is recorded on these hosts; see `kprov runs list`")),
            (None, Some((one, _)), Some((other, _))) => {
                Err(format!("{name} may be {one}, {other} or more; give more of it"))
            }
        }
    }
}

/// Reads what these hosts have recorded: all of one run, or the main lines of every run.
pub async fn read(run: &Arc<Run>, hosts: &[String], id: Option<&str>) -> Records {
    let slots = Arc::new(Semaphore::new(run.options.forks.max(1)));
    let mut tasks = JoinSet::new();
    for (order, host) in hosts.iter().cloned().enumerate() {
        let (run, slots, id) = (run.clone(), slots.clone(), id.map(str::to_owned));
        tasks.spawn(async move {
            let _permit = slots.acquire_owned().await;
            let answer = match link(&run, &host).await {
                Ok(link) => link.agent.records(id).await.map_err(|failure| failure.to_string()),
                Err(why) => Err(why),
            };
            (order, host, answer)
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(order, ..)| *order);
    let mut records = Records::default();
    for (_, host, answer) in answers {
        match answer {
            Err(why) => records.silent.push((host, why)),
            Ok(answer) => {
                records.answered.push(host.clone());
                for crate::agent::client::Record { run, running, bytes } in answer {
                    add(&mut records, &host, run, running, &bytes);
                }
            }
        }
    }
    records
}

async fn link(run: &Arc<Run>, host: &str) -> Result<Arc<Link>, String> {
    if let Some(link) = run.existing_link(host) {
        return Ok(link);
    }
    let link = connect::connect(run, host).await.map_err(|lost| lost.to_string())?;
    run.add_link(host, link.clone());
    Ok(link)
}

/// Adds what one host has of a run. A line that was cut off, by a crash or because it is just being written, says nothing.
fn add(records: &mut Records, host: &str, id: String, running: bool, journal: &[u8]) {
    let lines = journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let entries: Vec<Entry> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    if entries.iter().any(|entry| matches!(entry, Entry::Run { version, .. } if *version > VERSION)) {
        records.newer.push(format!("{host}: run {id} was recorded by a newer kprov"));
        return;
    }
    let run = records.runs.entry(id.clone()).or_default();
    for entry in &entries {
        match entry {
            Entry::Run { run: header, .. } => run.header = header.clone(),
            Entry::End { at, end, .. } => run.end = Some((*at, end.clone())),
            _ => {}
        }
    }
    if run.header.id.is_empty() {
        run.header.id = id;
    }
    run.running |= running;
    run.hosts.insert(host.to_owned(), entries);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_moment_have_different_names() {
        let [one, other] = [run_id(jiff::Timestamp::UNIX_EPOCH), run_id(jiff::Timestamp::UNIX_EPOCH)];
        assert_ne!(one, other);
        assert!(one.starts_with("19700101T000000Z-") && one.len() == 23, "{one}");
    }

    fn records(journals: &[(&str, &str, bool, &str)]) -> Records {
        let mut records = Records::default();
        for (host, id, running, journal) in journals {
            add(&mut records, host, (*id).to_owned(), *running, journal.as_bytes());
        }
        records
    }

    const RUN: &str = r#"{"record":"run","version":1,"run":{"id":"20260101T000000Z-aa","operator":"me@here","later":7}}
{"record":"step","step":1,"at":1.5,"name":{"task_id":"1.1","task":"One"}}
{"record":"diff","step":1,"diff":[{"Note":"shown"}]}
{"record":"done","step":1,"status":"changed","seconds":0.5,"message":null}
{"record":"from a later build","step":1}
"#;

    #[test]
    fn a_run_is_what_its_hosts_know_together() {
        let id = "20260101T000000Z-aa";
        let end =
            r#"{"record":"end","changed":1,"at":9.0,"end":{"status":"done","hosts":{"n1":{"ok":1,"changed":1}}}}"#;
        let cut = format!("{RUN}{}", &end[..40]);
        let found = records(&[("n1", id, false, &cut), ("n2", id, false, "")]);
        let run = found.find("last").unwrap();
        assert_eq!((run.state(), run.changes(), run.begun()), (State::Interrupted, 1, 1));
        assert_eq!(run.header.operator, "me@here");
        assert_eq!(records(&[("n1", id, false, &cut), ("n2", id, true, "")]).runs[id].state(), State::Running);
        let ended = records(&[("n1", id, true, RUN), ("n2", id, false, end)]);
        assert_eq!((ended.runs[id].state(), ended.runs[id].changes()), (State::Done, 1));
        let newer = records(&[("n1", id, false, &RUN.replace("\"version\":1", "\"version\":2"))]);
        assert!(newer.runs.is_empty() && newer.newer[0].contains("n1"));
    }

    #[test]
    fn a_run_is_found_by_what_makes_it_the_only_one() {
        let found = records(&[("n1", "20260101-aa", false, ""), ("n1", "20260102-bb", false, "")]);
        assert_eq!(found.find("last").unwrap().header.id, "20260102-bb");
        assert_eq!(found.find("20260101").unwrap().header.id, "20260101-aa");
        assert!(found.find("2026").unwrap_err().contains("may be"));
        assert!(found.find("2025").unwrap_err().contains("runs list"));
        assert!(Records::default().find("last").is_err());
    }

    #[test]
    fn values_are_known_again_and_not_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vars.yml");
        std::fs::write(&file, "a: 1").unwrap();
        let path = format!("@{}", file.display());
        let given = ["word=hush a=b", &path, r#"{"json": "hush"}"#].map(|argument| given("r1", argument));
        let header = RunHeader { id: "r1".to_owned(), extra_vars: given.to_vec(), ..RunHeader::default() };
        let stored = serde_json::to_string(&header).unwrap();
        assert!(!stored.contains("hush") && stored.contains("word"), "{stored}");
        let run = Recorded { header, ..Recorded::default() };
        let again = |typed: &[&str]| run.extra_vars(&typed.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let right = ["word=hush a=b", r#"{"json": "hush"}"#];
        assert_eq!(again(&right).unwrap(), [right[0], &path, right[1]]);
        assert_eq!(again(&[right[0], &path, right[1]]).unwrap().len(), 3);
        assert!(again(&[]).unwrap_err().contains("-e word=… -e …"));
        let wrong = again(&["word=loud", right[1]]).unwrap_err();
        assert!(wrong.contains("word") && !wrong.contains("loud"), "{wrong}");
        assert!(again(&["@other.yml", right[0], right[1]]).unwrap_err().contains("other.yml"));
        std::fs::remove_file(&file).unwrap();
        assert!(again(&right).unwrap_err().contains("not on this machine"));
    }
}
