//! `kprov apply --resume`: goes on with the last run of the hosts, where it failed or was cut off.
//!
//! What it did is read from the nodes. Playbook, limit, tags and files of variables are those of that run; tasks that are
//! done are found to be so and change nothing, and handlers that it left behind are run, as in any apply.

use super::Exit;
use super::run::{RunArgs, Verb, follow, load, options, runtime, usage};
use super::runs::{all_hosts, complain};
use crate::engine::Options;
use crate::engine::record::{self, Recorded, State};
use crate::system::Mode;
use crate::ui;
use std::time::Duration;

pub fn run(args: &RunArgs, diff: bool) -> Exit {
    resume(args, Verb { diff, ..Verb::new("apply", Mode::Apply) }).unwrap_or_else(|exit| exit)
}

fn resume(args: &RunArgs, verb: Verb) -> Result<Exit, Exit> {
    let asked = options(args, &verb)?;
    let (run, _) = load(Options { mode: Mode::Plan, ..asked.clone() })?;
    let runtime = runtime()?;
    let records = runtime.block_on(record::read(&run, &all_hosts(&run), None));
    let witnesses = record::witnesses(&run.inventory);
    drop(run);
    runtime.shutdown_timeout(Duration::from_secs(1));
    complain(&records);
    if !witnesses.iter().any(|witness| records.answered.contains(witness)) {
        ui::talk(&format!("error: which run was the last is recorded on {}; none answers", witnesses.join(", ")));
        return Err(Exit::Unreachable);
    }
    let last = records.find("last").map_err(|message| usage(&format!("{message}; there is nothing to resume")))?;
    let what = ui::runs::title(last);
    match last.state() {
        State::Done => {
            ui::talk(&format!("{what} ended well; there is nothing to resume"));
            return Ok(Exit::Ok);
        }
        // Agents outlive a controller that was killed for a while; whether one is still there says the lock.
        State::Running | State::Failed | State::Interrupted => {}
    }
    let options = options_of(last, asked).map_err(|message| usage(&message))?;
    let (done, cut) = (last.steps(|_| true), last.begun() - last.steps(|_| true));
    ui::talk(&format!(
        "continuing {what}, which {}: {done} steps finished, {cut} begun and not finished",
        if last.state() == State::Failed { "failed" } else { "was interrupted" }
    ));
    follow(options, args.show(&verb), verb, None).map(|done| done.exit)
}

/// The options of the run that is gone on with, and the way to the hosts as it was asked for now.
fn options_of(last: &Recorded, asked: Options) -> Result<Options, String> {
    let header = &last.header;
    if header.plan.is_some() {
        return Err(format!("run {} applied a saved plan; go on with `kprov apply --plan FILE --resume`", header.id));
    }
    if asked.playbook != "cluster" && record::playbook(&asked.playbook) != header.playbook {
        return Err(format!("run {} was of the playbook {}; leave out --playbook", header.id, header.playbook));
    }
    Ok(Options {
        extra_vars: last.extra_vars(&asked.extra_vars)?,
        playbook: header.playbook.clone(),
        limit: header.limit.clone(),
        tags: header.tags.clone(),
        skip_tags: header.skip_tags.clone(),
        resumes: Some(header.id.clone()),
        command: asked.command.replacen("apply", "apply --resume", 1),
        ..asked
    })
}
