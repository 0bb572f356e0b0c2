//! `kprov artifacts`: which files will be installed and from where, and fetching them ahead.

use super::inventory::SourceArgs;
use super::{Exit, refuse, runtime, usage};
use crate::artifacts::{Artifact, Catalog, Resolved, Store, architecture, cache_dir};
use crate::playbook;
use crate::source::{InputError, InputErrors};
use crate::template::{Scope, Templar};
use crate::ui;
use crate::value::Value;
use crate::vars::{Layer, Level, Stack, Var, VarMap};
use indexmap::IndexMap;
use std::path::Path;
use std::sync::Arc;

/// Show and fetch the files that are installed on hosts.
#[derive(clap::Args)]
pub struct ArtifactsArgs {
    #[command(subcommand)]
    verb: ArtifactsVerb,
}

#[derive(clap::Subcommand)]
enum ArtifactsVerb {
    /// List artifacts, each with the sources that are asked and the digest that each is held to; asks nobody
    List(WhichArgs),
    /// Download, verify and unpack into the cache what is not there yet
    Fetch(WhichArgs),
}

#[derive(clap::Args)]
struct WhichArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Architectures of the hosts; this machine's by default
    #[arg(long, value_name = "ARCH", value_delimiter = ',', value_parser = ["amd64", "arm64"])]
    arch: Vec<String>,
}

pub fn run(args: ArtifactsArgs) -> Exit {
    match &args.verb {
        ArtifactsVerb::List(which) => super::print(resolve(which).map(|resolved| table(&resolved))),
        ArtifactsVerb::Fetch(which) => match resolve(which) {
            Ok(resolved) => fetch(&resolved).unwrap_or_else(|exit| exit),
            Err(errors) => refuse(&errors),
        },
    }
}

/// Every artifact of every host and architecture, each once. The key is its name, version and architecture.
fn resolve(args: &WhichArgs) -> Result<IndexMap<[String; 3], Resolved>, InputErrors> {
    let (inventory, variables) = args.source.load()?;
    let base = inventory.dirs.first().map_or(Path::new("."), |dir| dir.as_path());
    let defaults = playbook::group_vars()?;
    let templar = Templar::new();
    let own = architecture(std::env::consts::ARCH).unwrap_or(std::env::consts::ARCH).to_owned();
    let archs = if args.arch.is_empty() { vec![own] } else { args.arch.clone() };
    let mut found = IndexMap::new();
    let mut errors: Vec<InputError> = Vec::new();
    for host in inventory.hosts.keys() {
        for arch in &archs {
            let scope: Arc<dyn Scope> = Arc::new(HostScope::new(variables.stack(host), &defaults, arch));
            let catalog = Catalog::from_vars(base, &|name| {
                let Some(var) = scope.lookup(name) else { return Ok(None) };
                let value = templar.render(&var.value, &scope).map_err(|error| match &var.origin {
                    Some(origin) => error.into_input(origin),
                    None => InputError::new(format!("{name}: {error}")),
                })?;
                Ok(Some((value, var.origin)))
            })?;
            for name in catalog.names() {
                match catalog.resolve(name, None, arch) {
                    Ok(resolved) => {
                        let version = match &resolved {
                            Resolved::File(artifact) => artifact.version.clone(),
                            Resolved::Pull { image } => image.rsplit(':').next().unwrap_or_default().to_owned(),
                        };
                        found.insert([name.to_owned(), version, arch.clone()], resolved);
                    }
                    Err(error) if errors.iter().any(|known| known.message == error.message) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(InputErrors(errors)) }
}

/// A line for each source: name, version, architecture, digest, where.
fn table(resolved: &IndexMap<[String; 3], Resolved>) -> String {
    let mut lines = String::new();
    for (key, resolved) in resolved {
        let what = key.join(" ");
        match resolved {
            Resolved::Pull { image } => lines += &format!("{what} - pulled by the node: {image}\n"),
            Resolved::File(artifact) => {
                for candidate in &artifact.candidates {
                    lines += &format!("{what} {} {}\n", candidate.digest, candidate.location);
                }
            }
        }
    }
    lines
}

fn fetch(resolved: &IndexMap<[String; 3], Resolved>) -> Result<Exit, Exit> {
    let root = cache_dir().ok_or_else(|| usage("no directory for the cache: set HOME or XDG_CACHE_HOME"))?;
    let runtime = runtime()?;
    let store = Store::new(root);
    let artifacts = resolved.values().filter_map(|resolved| match resolved {
        Resolved::File(artifact) => Some(artifact),
        Resolved::Pull { .. } => None,
    });
    let fetched =
        runtime.block_on(futures_util::future::join_all(artifacts.map(|artifact| fetch_one(&store, artifact))));
    let mut exit = Exit::Ok;
    for result in fetched {
        match result {
            Ok(line) => ui::out(&line),
            Err(message) => {
                ui::talk(&format!("error: {message}"));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

/// Fetches one artifact with all its members; says where it is.
async fn fetch_one(store: &Store, artifact: &Arc<Artifact>) -> Result<String, String> {
    let mut line = String::new();
    for member in std::iter::once(None).chain(artifact.members.iter().map(|member| Some(member.as_str()))) {
        let blob = store.blob(artifact, member).map_err(|error| error.to_string())?;
        let opened = store.open(&blob).await.map_err(|error| format!("{error}\n  help: {}", error.help()))?;
        if member.is_none() {
            line = format!("{artifact}: {} ({} bytes)\n", opened.path.display(), opened.size);
        }
    }
    Ok(line)
}

/// The variables of a host that was not asked for facts, but for its architecture.
struct HostScope(Stack);

impl HostScope {
    fn new(mut stack: Stack, defaults: &Layer, arch: &str) -> Self {
        let machine = if arch == "arm64" { "aarch64" } else { "x86_64" };
        let facts = VarMap::from([("ansible_architecture".to_owned(), Var::from(Value::from(machine)))]);
        stack.push(Level::RoleDefaults, defaults.clone());
        stack.push(Level::Facts, Arc::new(facts));
        Self(stack)
    }
}

impl Scope for HostScope {
    fn lookup(&self, name: &str) -> Option<Var> {
        self.0.lookup(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.names().into_iter().map(str::to_owned).collect()
    }

    fn hosts(&self) -> Vec<String> {
        Vec::new()
    }

    fn host(&self, _: &str) -> Option<Arc<dyn Scope>> {
        None
    }
}
