//! The one way in which `apply`, `plan` and `validate` run.

use super::args::{RunArgs, options};
use super::{Exit, refuse, runtime, usage};
use crate::engine::event::{Event, Events};
use crate::engine::plan::{self, Limits, Plan, SavedPlan, Summary};
use crate::engine::recap::Recap;
use crate::engine::{Options, Run, connect, lock, preconditions, record};
use crate::system::Mode;
use crate::ui::{self, Show};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// How long a run that is stopped may take to end what is in flight.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What a verb makes of the shared flags.
pub struct Verb {
    pub name: &'static str,
    pub mode: Mode,
    pub diff: bool,
    pub only_preconditions: bool,
    pub limits: Limits,
    /// Where the plan is kept.
    pub out: Option<PathBuf>,
    /// The plan that is applied.
    pub plan: Option<PathBuf>,
    /// Of that plan, a part may be done already.
    pub resume: bool,
}

impl Verb {
    pub fn new(name: &'static str, mode: Mode) -> Self {
        let limits = Limits::default();
        Self { name, mode, diff: false, only_preconditions: false, limits, out: None, plan: None, resume: false }
    }
}

/// A run that is over.
pub struct Done {
    pub recap: Recap,
    pub exit: Exit,
}

/// Runs to the end: load, connect and gather facts, check preconditions, play, recap.
pub fn run(mut args: RunArgs, verb: Verb) -> Result<Done, Exit> {
    let saved = verb.plan.as_deref().map(SavedPlan::read).transpose().map_err(|error| usage(&error.to_string()))?;
    if let Some(saved) = &saved {
        args.ask(saved.asked.clone());
    }
    let options = Options { plan: saved.as_ref().map(|saved| saved.digest.clone()), ..options(&args, &verb)? };
    follow(options, args.show(&verb), verb, saved)
}

/// Runs what the options say, as it was `saved` where it was.
pub fn follow(options: Options, show: Show, verb: Verb, saved: Option<SavedPlan>) -> Result<Done, Exit> {
    let (run, receiver) = load_hosts(options)?;
    verb.limits.check(&run.playbook).map_err(|message| usage(&message))?;
    let changed = saved.as_ref().map(SavedPlan::changed_inputs).unwrap_or_default();
    if !changed.is_empty() {
        changed.iter().for_each(|what| ui::talk(&format!("error: not as planned: {what}")));
        return Err(usage("the plan was made of other files; make a new plan"));
    }
    let runtime = runtime()?;
    let (recap, exit) = runtime.block_on(async {
        let hosts = run.hosts.keys().cloned().collect();
        let reader = tokio::spawn(ui::follow(show, hosts, receiver));
        let work = tokio::spawn(stages(run.clone(), verb, saved));
        watch_interrupt(run.clone());
        let kept = work.await;
        if let Err(error) = &kept {
            run.events.send(Event::Warning { text: format!("the run ended early: {error}") });
        }
        run.events.close();
        let recap = reader.await.unwrap_or_default();
        let total = recap.total();
        let exit = match &total {
            _ if run.cancelled() => Exit::Interrupted,
            total if total.unreachable > 0 => Exit::Unreachable,
            total if total.failed > 0 => Exit::Failed,
            _ => match kept {
                Ok(true) => Exit::Ok,
                Ok(false) => Exit::Usage,
                Err(_) => Exit::Failed,
            },
        };
        let status = match exit {
            Exit::Ok => "done",
            Exit::Interrupted => "interrupted",
            _ => "failed",
        };
        for complaint in record::end(&run, status, &recap).await {
            ui::talk(&format!("warning: {complaint}"));
        }
        lock::release(&run).await;
        connect::disconnect_all(&run).await;
        (recap, exit)
    });
    // What still runs belongs to hosts that are lost or to a run that was stopped.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(Done { recap, exit })
}

/// Reads everything that needs no host, and tells what is wrong with it.
pub fn load(options: Options) -> Result<(Arc<Run>, UnboundedReceiver<Event>), Exit> {
    let (events, receiver) = Events::channel();
    let run = Run::load(options, events).map_err(|errors| refuse(&errors))?;
    Ok((run, receiver))
}

/// The same, and makes sure of the agent and of the way to every host before any of them is asked.
pub fn load_hosts(options: Options) -> Result<(Arc<Run>, UnboundedReceiver<Event>), Exit> {
    let (run, receiver) = load(options)?;
    connect::check_targets(&run).map_err(|errors| refuse(&errors))?;
    run.connector.find_agent().map_err(|error| usage(&error.to_string()))?;
    Ok((run, receiver))
}

/// The stages in order. Nothing is changed on any host before the preconditions of all of them hold, and nobody else
/// changes them from before facts are gathered until the end. False: the plan could not be kept in its file.
async fn stages(run: Arc<Run>, verb: Verb, saved: Option<SavedPlan>) -> bool {
    stage(&run, "connect", connect::connect_all(&run)).await;
    if run.cancelled() {
        return true;
    }
    if !run.planning() {
        if !stage(&run, "lock", lock::take(&run)).await {
            return true;
        }
        stage(&run, "facts", connect::facts_all(&run)).await;
    }
    if run.stopped()
        || !stage(&run, "preconditions", preconditions::check(&run)).await
        || run.options.only_preconditions
        || run.stopped()
    {
        return true;
    }
    if run.planning() {
        let plan = stage(&run, "plays", Plan::make(&run, true)).await;
        run.events.send(Event::Summary(Box::new(Summary::new(&plan, &run))));
        let accepted = plan::accept(&run, &verb.limits.exceeded(&plan, &run));
        return !accepted || verb.out.is_none_or(|out| save(&run, &plan, &out));
    }
    if (saved.is_some() || !verb.limits.is_empty())
        && !stage(&run, "plan", keep_to_plan(&run, &verb, saved.as_ref())).await
    {
        return true;
    }
    stage(&run, "begin", run.begin()).await;
    stage(&run, "plays", run.play()).await;
    true
}

/// Plans, and has the run keep to that, if it is as saved and not too much at once. False: the run stops here.
async fn keep_to_plan(run: &Arc<Run>, verb: &Verb, saved: Option<&SavedPlan>) -> bool {
    let plan = Plan::make(run, false).await;
    if saved.is_some() && !plan.is_complete(run) {
        let text = "cluster : plan : not every host could be planned again, so none was changed".to_owned();
        run.events.send(Event::Finding { host: None, text, fatal: true });
        return false;
    }
    let mut objections = saved.map(|saved| saved.differences(&plan, verb.resume)).unwrap_or_default();
    objections.extend(verb.limits.exceeded(&plan, run));
    run.keep_to(plan.expectations());
    plan::accept(run, &objections) && !run.cancelled()
}

/// Keeps a plan in a file, if it is complete. False: that failed.
fn save(run: &Run, plan: &Plan, out: &Path) -> bool {
    let written = match plan.is_complete(run) {
        true => SavedPlan::new(plan, &run.options).and_then(|saved| saved.write(out)),
        false => {
            let text = format!("{} is not written: the plan is not complete", out.display());
            run.events.send(Event::Warning { text });
            return false;
        }
    };
    match written {
        Ok(()) => true,
        Err(error) => {
            run.events.send(Event::Finding { host: None, text: format!("plan : {error}"), fatal: true });
            false
        }
    }
}

async fn stage<T>(run: &Run, name: &'static str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    run.events.send(Event::Stage { name });
    let result = work.await;
    run.events.send(Event::StageDone { name, took: started.elapsed() });
    result
}

/// Ctrl-C once: tasks in flight are finished and the recap is printed. Twice: now.
fn watch_interrupt(run: Arc<Run>) {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        ui::talk("interrupted: finishing the tasks in flight; once more stops now");
        run.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            run.cancel_now();
            // Hosts that answer in time are in the recap.
            let _ = tokio::time::timeout(LAST_WORDS, tokio::signal::ctrl_c()).await;
            #[expect(clippy::exit, reason = "the user asked twice; agents that did not hear begin no other task")]
            std::process::exit(Exit::Interrupted as i32);
        }
    });
}
