//! `kprov init`: an inventory to start from.

use super::{Exit, usage};
use crate::playbook::Tree;
use crate::ui;
use std::io;
use std::path::{Path, PathBuf};

/// Where the sample is among the built-in files.
const SAMPLE: &str = "inventory/sample/";

/// Write a new inventory directory, with the variables that are most often set.
#[derive(clap::Args)]
pub struct InitArgs {
    /// Made if it is not there; has to be empty
    dir: PathBuf,
}

pub fn run(args: InitArgs) -> Exit {
    match write(&args.dir) {
        Ok(()) => {
            let inventory = args.dir.join("inventory.ini");
            ui::talk(&format!("name your hosts in {0}, then: kprov apply -i {0}", inventory.display()));
            Exit::Ok
        }
        Err(error) => usage(&format!("{}: {error}", args.dir.display())),
    }
}

fn write(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if dir.read_dir()?.next().is_some() {
        return Err(io::Error::other("the directory is not empty"));
    }
    for (name, bytes) in Tree::built_in(SAMPLE) {
        let path = dir.join(name.trim_start_matches(SAMPLE));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}
