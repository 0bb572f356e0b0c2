//! What runs on a node: see `kprov::agent`. Started by the controller as `kprov-agent DIRECTORY [LINE]`.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(state), skip, None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return complain(
            "usage: kprov-agent DIRECTORY [LINE] (kprov starts it over SSH; there is nothing to do by hand)",
        );
    };
    if state == "--version" {
        return match std::io::stdout().write_all(kprov::agent::BUILD.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string()),
        };
    }
    match kprov::agent::run(Path::new(&state), skip.as_deref().and_then(OsStr::to_str)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "stderr is what the controller shows of an agent that cannot go on")]
fn complain(message: &str) -> ExitCode {
    eprintln!("kprov-agent: {message}");
    ExitCode::FAILURE
}
