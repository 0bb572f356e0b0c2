//! The operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(kprov::cli::main() as u8)
}
