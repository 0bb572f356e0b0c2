//! `kprov lab`.

use super::Exit;

/// Throwaway nodes on this machine.
#[derive(clap::Args)]
pub struct LabArgs {}

pub fn run(_args: LabArgs) -> Exit {
    Exit::Usage
}
