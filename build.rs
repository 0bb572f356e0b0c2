//! Names the build: what both ends of the wire are made of, so that kprov can tell an agent of another build by its file.

use std::fs;
use std::path::{Path, PathBuf};

/// The sources of the agent. Two builds of one state of them understand each other, whatever else differs.
const SOURCES: [&str; 7] =
    ["src/agent", "src/modules", "src/pki", "src/system", "src/bin/kprov-agent.rs", "src/source.rs", "src/value.rs"];

/// The controller's end only.
const CLIENT: &str = "src/agent/client";

fn main() {
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
        collect(Path::new(source), &mut files);
    }
    files.sort();
    // FNV-1a: it has to tell builds apart, not to withstand anybody.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name = file.to_string_lossy().into_owned();
        let text = fs::read(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for byte in name.as_bytes().iter().chain(&text) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    println!("cargo:rustc-env=KPROV_AGENT_BUILD={}-{hash:016x}", env!("CARGO_PKG_VERSION"));
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.starts_with(CLIENT) || path == Path::new(CLIENT).with_extension("rs") {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| collect(&entry.path(), files)),
        Err(_) => files.push(path.to_owned()),
    }
}
