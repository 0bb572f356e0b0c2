//! One run at a time: takes the lock of a cluster, begins the run on its hosts, and notices when the lock is lost.
//!
//! The hosts of `kube_control_plane` hold the lock, also those that `--limit` leaves out; a run that a majority of them
//! grants it to has it. Where the inventory has no such hosts, every host of the run holds a lock of its own. What a node
//! does with it is `agent`'s business; what becomes of a run that was replaced is [`Run::stop`]'s.

use super::event::{Event, Status};
use super::link::Link;
use super::run::Run;
use crate::agent::protocol::{Holder, LockRequest, LockState, RunHeader};
use crate::modules::Failure;
use futures_util::future::join_all;
use indexmap::IndexMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

/// The group whose hosts hold the lock.
const HOLDERS: &str = "kube_control_plane";
/// How often a run that waits for the lock asks for it.
const RETRY: Duration = Duration::from_secs(1);
/// How long a node may take to give the lock back at the end of a run. It does so anyway when the link closes.
const RELEASE: Duration = Duration::from_secs(5);

/// The lock that a run has.
#[derive(Default)]
pub struct RunLock(OnceLock<Taken>);

struct Taken {
    token: u64,
    links: Vec<Arc<Link>>,
    keeping: JoinHandle<()>,
}

impl RunLock {
    /// The run's token, once it has the lock.
    pub fn token(&self) -> Option<u64> {
        self.0.get().map(|taken| taken.token)
    }
}

/// What a host says about its lock, or why it says nothing.
pub type Answer = (String, Result<LockState, Failure>);

/// Takes the lock for the run. False: the run stops here, and it has been said why.
pub async fn take(run: &Arc<Run>) -> bool {
    let Some(header) = &run.header else { return true };
    let (links, away, need) = reach(run).await;
    let quorum = holder_names(run).is_some();
    let deadline = Instant::now() + run.options.lock_timeout;
    let mut told = false;
    let granted = loop {
        let attempt = attempt(&links, header, need).await;
        if attempt.granted.len() >= need {
            break attempt.granted;
        }
        let_go(&attempt.granted).await;
        let why = attempt.why(run, links.len() + away.len(), need, &away);
        if Instant::now() >= deadline || attempt.held.is_empty() || run.cancelled() {
            return refuse(run, &why);
        }
        if !told {
            run.events.send(Event::Warning { text: format!("waiting for the lock: {why}") });
            told = true;
        }
        tokio::time::sleep(RETRY.min(deadline.saturating_duration_since(Instant::now()))).await;
    };
    // Larger than that of any run before it on the hosts that it changes.
    let hosts = run.hosts.keys().filter_map(|host| run.existing_link(host));
    let states = join_all(hosts.chain(links.iter().cloned()).map(|link| async move { show(&link).await.1.ok() })).await;
    let newest = states.into_iter().flatten().filter_map(|state| state.newest).map(|run| run.token).max();
    let token = newest.unwrap_or_default() + 1;
    // The others too: an agent that holds a lock there for a run that is gone lets go of it.
    let fence = LockRequest::Fence(RunHeader { token, ..header.clone() });
    let fenced = join_all(links.iter().map(|link| link.agent.lock(fence.clone()))).await;
    let holds = |link: &Arc<Link>| granted.iter().any(|other| Arc::ptr_eq(link, other));
    let (good, bad): (Vec<_>, Vec<_>) =
        links.iter().zip(fenced).filter(|(link, _)| holds(link)).partition(|(_, fenced)| fenced.is_ok());
    if good.len() < need {
        let_go(&granted).await;
        let why = bad.into_iter().find_map(|(link, fenced)| Some(format!("{}: {}", link.host, fenced.err()?)));
        return refuse(run, &why.unwrap_or_default());
    }
    let links: Vec<_> = good.into_iter().map(|(link, _)| link.clone()).collect();
    let keeping = tokio::spawn(keep(run.clone(), links.clone(), if quorum { need } else { 0 }));
    // This runs once.
    let _ = run.lock.0.set(Taken { token, links, keeping });
    true
}

/// Begins the run on every host that is still in. A host that refuses has failed.
pub async fn begin(run: &Arc<Run>) {
    let mut tasks = JoinSet::new();
    for host in run.hosts.values().filter(|host| !host.is_dead()) {
        let Some(link) = run.existing_link(&host.name) else { continue };
        let (run, host) = (run.clone(), host.clone());
        tasks.spawn(async move {
            let Err(failure) = link.begin(&run).await else { return };
            // A run that was replaced has been stopped on all hosts, this one included.
            if !host.is_dead() {
                run.outcome(&host.name, 0, "Begin", Status::Failed, Some(failure.message));
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Gives the lock back.
pub async fn release(run: &Run) {
    if let Some(taken) = run.lock.0.get() {
        taken.keeping.abort();
        let_go(&taken.links).await;
    }
}

/// Asks the hosts that hold the lock who has it.
pub async fn holders(run: &Arc<Run>) -> Vec<Answer> {
    let names = holder_names(run).unwrap_or_else(|| run.inventory.hosts.keys().cloned().collect());
    ask_all(run, names, &LockRequest::Show).await
}

/// Takes the cluster from whoever has it: from now on every host that can be reached refuses what ran before. `states` are
/// what the hosts said of their locks.
pub async fn break_all(run: &Arc<Run>, states: &[Answer]) -> Vec<Answer> {
    let newest = states.iter().filter_map(|(_, state)| state.as_ref().ok()?.newest.as_ref()).map(|run| run.token).max();
    let header = RunHeader { token: newest.unwrap_or_default() + 1, ..super::record::header(&run.options, &[]) };
    let hosts = states.iter().filter(|(_, state)| state.is_ok()).map(|(host, _)| host.clone()).collect();
    ask_all(run, hosts, &LockRequest::Break(header)).await
}

/// Asks all hosts of the inventory about their locks.
pub async fn show_all(run: &Arc<Run>) -> Vec<Answer> {
    ask_all(run, run.inventory.hosts.keys().cloned().collect(), &LockRequest::Show).await
}

async fn ask_all(run: &Arc<Run>, hosts: Vec<String>, request: &LockRequest) -> Vec<Answer> {
    let slots = Arc::new(tokio::sync::Semaphore::new(run.options.forks.max(1)));
    join_all(hosts.into_iter().map(|host| {
        let slots = slots.clone();
        async move {
            let _permit = slots.acquire().await;
            let answer = match run.link_of(&host).await {
                Ok(link) => link.agent.lock(request.clone()).await,
                Err(failure) => Err(failure),
            };
            (host, answer)
        }
    }))
    .await
}

/// What holds the lock, in an order that is the same for every operator.
fn holder_names(run: &Run) -> Option<Vec<String>> {
    let mut names: Vec<String> = run.inventory.hosts_of(HOLDERS).into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    (!names.is_empty()).then_some(names)
}

/// The hosts that hold the lock, those of them that cannot be asked, and how many have to grant it.
async fn reach(run: &Arc<Run>) -> (Vec<Arc<Link>>, Vec<(String, String)>, usize) {
    let Some(names) = holder_names(run) else {
        // A host that cannot be reached is out of the run.
        let mut links: Vec<_> = run.hosts.keys().filter_map(|host| run.existing_link(host)).collect();
        links.retain(|link| run.inventory.hosts.contains_key(&link.host));
        links.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        let need = links.len();
        return (links, Vec::new(), need);
    };
    let need = names.len() / 2 + 1;
    let reached = join_all(names.iter().map(|name| run.link_of(name))).await;
    let (mut links, mut away) = (Vec::new(), Vec::new());
    for (name, reached) in names.into_iter().zip(reached) {
        match reached {
            Ok(link) => links.push(link),
            Err(failure) => away.push((name, failure.message)),
        }
    }
    (links, away, need)
}

/// What came of asking for the lock once.
#[derive(Default)]
struct Attempt {
    granted: Vec<Arc<Link>>,
    held: Vec<(String, Holder)>,
    failed: Vec<(String, String)>,
}

/// Asks the first host alone, and the others when it has granted the lock or is out of the question: of two runs that come
/// at the same time the first host chooses one.
async fn attempt(links: &[Arc<Link>], header: &RunHeader, need: usize) -> Attempt {
    let mut attempt = Attempt::default();
    let mut rest = links;
    while let [first, others @ ..] = rest {
        if attempt.granted.len() + rest.len() < need {
            break;
        }
        rest = others;
        attempt.read(first, first.agent.lock(LockRequest::Take(header.clone())).await, header);
        if !attempt.granted.is_empty() {
            let asked = rest.iter().map(|link| link.agent.lock(LockRequest::Take(header.clone())));
            for (link, answer) in rest.iter().zip(join_all(asked).await) {
                attempt.read(link, answer, header);
            }
            break;
        }
    }
    attempt
}

impl Attempt {
    fn read(&mut self, link: &Arc<Link>, answer: Result<LockState, Failure>, header: &RunHeader) {
        match answer.map(|state| state.holder) {
            Ok(Some(holder)) if holder.run.id == header.id => self.granted.push(link.clone()),
            Ok(Some(holder)) => self.held.push((link.host.clone(), holder)),
            // Given back in between.
            Ok(None) => self.failed.push((link.host.clone(), "did not grant it".to_owned())),
            Err(failure) => self.failed.push((link.host.clone(), failure.message)),
        }
    }

    /// One line: who has it, or what is in the way, and what to do.
    fn why(&self, run: &Run, all: usize, need: usize, away: &[(String, String)]) -> String {
        let inventories: Vec<_> = run.options.inventories.iter().map(|path| format!("-i {}", path.display())).collect();
        if let Some((holder, hosts)) = by_run(&self.held).into_iter().max_by_key(|(_, hosts)| hosts.len()) {
            return format!(
                "held by {} on {} : wait for it (--lock-timeout SECONDS), or `kprov lock break {}` if that run is dead",
                describe(holder),
                hosts.join(", "),
                inventories.join(" ")
            );
        }
        let reasons: Vec<_> = away.iter().chain(&self.failed).map(|(host, why)| format!("{host}: {why}")).collect();
        format!(
            "{need} of {all} hosts of {HOLDERS} have to grant it, {} can ({}) : bring them back, or take them out of the inventory",
            all - away.len() - self.failed.len(),
            reasons.join("; ")
        )
    }
}

/// Holders with the hosts on which they hold the lock.
pub fn by_run(held: &[(String, Holder)]) -> Vec<(&Holder, Vec<&str>)> {
    let mut runs: IndexMap<&str, (&Holder, Vec<&str>)> = IndexMap::new();
    for (host, holder) in held {
        runs.entry(&holder.run.id).or_insert_with(|| (holder, Vec::new())).1.push(host);
    }
    runs.into_values().collect()
}

/// `alice@box since 2026-11-25T03:19:28Z (240 s, run 20261125T031928Z-4f2a91, kprov apply -i inventory.ini)`
pub fn describe(holder: &Holder) -> String {
    let Holder { run, pid, seconds } = holder;
    if run.id.is_empty() {
        return format!("process {pid}, {},", run.operator);
    }
    let since = jiff::Timestamp::from_second(run.started).map(|time| time.to_string()).unwrap_or_default();
    format!("{} since {since} ({seconds} s, run {}, kprov {})", run.operator, run.id, run.command)
}

async fn show(link: &Link) -> Answer {
    (link.host.clone(), link.agent.lock(LockRequest::Show).await)
}

async fn let_go(links: &[Arc<Link>]) {
    let all = join_all(links.iter().map(|link| link.agent.lock(LockRequest::LetGo)));
    // What does not answer lets go when the link closes.
    let _ = tokio::time::timeout(RELEASE, all).await;
}

/// Stops the run when fewer than `need` of the nodes that hold the lock are left.
async fn keep(run: Arc<Run>, links: Vec<Arc<Link>>, need: usize) {
    let mut gone: JoinSet<String> = JoinSet::new();
    for link in links.iter().cloned() {
        gone.spawn(async move { format!("{}: {}", link.host, link.gone().await) });
    }
    while let Some(lost) = gone.join_next().await {
        if gone.len() < need {
            return run.stop(&format!("the lock is lost: {}", lost.unwrap_or_default()));
        }
    }
}

/// Stops the run before it has changed anything.
fn refuse(run: &Run, why: &str) -> bool {
    run.events.send(Event::Finding { host: None, text: format!("cluster : lock : {why}"), fatal: true });
    for host in run.hosts.values().filter(|host| !host.is_dead()) {
        run.outcome(&host.name, 0, "Lock", Status::Failed, Some("the cluster is locked".to_owned()));
    }
    false
}
