//! What runs on a node: see `kprov::agent`. Started by the controller as `kprov-agent DIRECTORY VERB … [LINE]`.

use kprov::agent;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The last is the line after which stdin is for the agent.
    let ended = match *arguments.as_slice() {
        ["--version"] => std::io::stdout().write_all(agent::BUILD.as_bytes()),
        [state, "serve", ref line @ ..] if line.len() < 2 => agent::run(Path::new(state), line.first().copied()),
        [state, "start", id, patience, ref line @ ..] if line.len() < 2 => {
            agent::start(Path::new(state), id, patience, line.first().copied())
        }
        [state, "attach", id, ref line @ ..] if line.len() < 2 => {
            agent::attach(Path::new(state), id, line.first().copied())
        }
        [state, "work", id, patience] => agent::work(Path::new(state), id, patience),
        _ => return complain("kprov starts this over SSH; there is nothing to do by hand"),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "stderr is what the controller shows of an agent that cannot go on")]
fn complain(message: &str) -> ExitCode {
    eprintln!("kprov-agent: {message}");
    ExitCode::FAILURE
}
