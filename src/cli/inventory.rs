//! `kprov inventory`: what the inventory says, in the forms of `ansible-inventory`.

use super::Exit;
use crate::inventory::{Group, Inventory};
use crate::playbook::{self, Tree};
use crate::source::{InputError, InputErrors};
use crate::ui;
use crate::value::{Map, Value};
use crate::vars::{self, Level, Stack, Variables, Vault};
use indexmap::IndexSet;
use std::path::PathBuf;

/// Shows the inventory as it is read, without connecting to a host.
#[derive(clap::Args)]
pub struct InventoryArgs {
    #[command(subcommand)]
    verb: InventoryVerb,
}

#[derive(clap::Subcommand)]
enum InventoryVerb {
    /// Print groups, hosts and their variables as JSON, as `ansible-inventory --list` does
    List {
        #[command(flatten)]
        source: SourceArgs,
        /// Only hosts that match this pattern
        #[arg(short, long, value_name = "PATTERN")]
        limit: Option<String>,
    },
    /// Print the tree of groups and hosts, as `ansible-inventory --graph` does
    Graph {
        #[command(flatten)]
        source: SourceArgs,
        /// The group to begin with
        #[arg(default_value = "all")]
        group: String,
    },
    /// Print the variables of one host as JSON, as `ansible-inventory --host` does
    Host {
        #[command(flatten)]
        source: SourceArgs,
        name: String,
    },
    /// Read everything and report what is wrong
    Check {
        #[command(flatten)]
        source: SourceArgs,
    },
}

/// Where inventory and variables come from.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SourceArgs {
    /// Inventory file or directory, or a list of hosts with a comma; can be given more than once
    #[arg(short, long = "inventory", value_name = "INVENTORY", required = true)]
    pub inventory: Vec<PathBuf>,
    /// Variables: name=value, @FILE, or a mapping in YAML or JSON; can be given more than once
    #[arg(short, long = "extra-vars", value_name = "VARS")]
    pub extra_vars: Vec<String>,
    /// File with a password of ansible-vault, or a script that prints it
    #[arg(long = "vault-password-file", value_name = "FILE", env = "ANSIBLE_VAULT_PASSWORD_FILE")]
    pub vault_password_file: Vec<PathBuf>,
    /// Read group_vars and host_vars beside this playbook directory too
    #[arg(long, value_name = "DIR")]
    pub playbook_dir: Option<PathBuf>,
}

impl SourceArgs {
    pub fn vault(&self) -> Result<Vault, InputErrors> {
        let files = self.vault_password_file.iter().map(PathBuf::as_path);
        Vault::from_files(files).map_err(|error| InputError::new(error.to_string()).into())
    }

    /// Reads the inventory as Ansible would, with its variables, and reports warnings.
    pub fn load(&self) -> Result<(Inventory, Variables), InputErrors> {
        self.load_with(Inventory::load)
    }

    /// Reads the inventory as `kprov apply` does, which adds the groups of a cluster.
    pub fn load_cluster(&self) -> Result<(Inventory, Variables), InputErrors> {
        self.load_with(Inventory::load_cluster)
    }

    fn load_with(
        &self,
        load: impl FnOnce(&[PathBuf], &Vault) -> Result<Inventory, InputErrors>,
    ) -> Result<(Inventory, Variables), InputErrors> {
        let vault = self.vault()?;
        let inventory = load(&self.inventory, &vault)?;
        let variables = Variables::load(&inventory, self.playbook_dir.as_deref(), &self.extra_vars, &vault)?;
        ui::diagnostic::warn(&variables.warnings);
        Ok((inventory, variables))
    }
}

pub fn run(args: InventoryArgs) -> Exit {
    super::print(match args.verb {
        InventoryVerb::List { source, limit } => list(&source, limit.as_deref()),
        InventoryVerb::Graph { source, group } => graph(&source, &group),
        InventoryVerb::Host { source, name } => host(&source, &name),
        InventoryVerb::Check { source } => check(&source),
    })
}

fn list(source: &SourceArgs, limit: Option<&str>) -> Result<String, InputErrors> {
    let (inventory, variables) = source.load()?;
    let selected: IndexSet<String> = match limit {
        Some(pattern) => inventory.select(pattern)?.into_iter().collect(),
        None => inventory.hosts.keys().cloned().collect(),
    };
    let mut out = Map::new();
    let mut queue = vec!["all"];
    while let Some(name) = queue.pop() {
        let Some(group) = inventory.groups.get(name) else { continue };
        let names = |names: &IndexSet<String>| Value::List(names.iter().map(|name| name.as_str().into()).collect());
        let mut entry = Map::new();
        if !group.children.is_empty() {
            entry.insert("children".into(), names(&group.children));
        }
        let hosts: IndexSet<String> = group.hosts.intersection(&selected).cloned().collect();
        if name != "all" && !hosts.is_empty() {
            entry.insert("hosts".into(), names(&hosts));
        }
        if !entry.is_empty() && out.insert(name.to_owned(), Value::Map(entry)).is_none() {
            queue.extend(group.children.iter().map(String::as_str));
        }
    }
    let hostvars: Map = selected
        .iter()
        .map(|host| (host.clone(), flat(&variables.stack(host))))
        .filter(|(_, vars)| vars.as_map().is_some_and(|vars| !vars.is_empty()))
        .collect();
    let meta = [("hostvars", Value::Map(hostvars)), ("profile", "inventory_legacy".into())];
    out.insert("_meta".into(), meta.into_iter().collect());
    Ok(ui::pretty(&Value::Map(out)))
}

fn host(source: &SourceArgs, name: &str) -> Result<String, InputErrors> {
    let (inventory, variables) = source.load()?;
    match inventory.select(name)?.as_slice() {
        [host] => Ok(ui::pretty(&flat(&variables.stack(host)))),
        hosts => Err(InputError::new(format!("expected one host, `{name}` matches {}", hosts.len())).into()),
    }
}

fn graph(source: &SourceArgs, group: &str) -> Result<String, InputErrors> {
    fn branch(inventory: &Inventory, group: &Group, depth: usize, out: &mut String) {
        let lead = |depth: usize| if depth > 0 { format!("{}--", "  |".repeat(depth)) } else { String::new() };
        out.push_str(&format!("{}@{}:\n", lead(depth), group.name));
        for child in group.children.iter().filter_map(|child| inventory.groups.get(child)) {
            branch(inventory, child, depth + 1, out);
        }
        for host in group.hosts.iter().filter(|_| group.name != "all") {
            out.push_str(&format!("{}{host}\n", lead(depth + 1)));
        }
    }
    let (inventory, _) = source.load()?;
    let Some(start) = inventory.groups.get(group) else {
        let near = crate::source::near_miss(group, inventory.groups.keys().map(String::as_str));
        let error = InputError::new(format!("there is no group {group}"));
        return Err(near.map_or(error.clone(), |near| error.help(format!("did you mean `{near}`?"))).into());
    };
    let mut out = String::new();
    branch(&inventory, start, 0, &mut out);
    Ok(out)
}

fn check(source: &SourceArgs) -> Result<String, InputErrors> {
    let (inventory, variables) = source.load_cluster()?;
    let tree = Tree::new(inventory.dirs.clone());
    let findings = vars::check(&playbook::declared(&tree)?.specs, &variables);
    ui::diagnostic::warn(&findings.warnings);
    if !findings.errors.is_empty() {
        return Err(InputErrors(findings.errors));
    }
    let warnings = variables.warnings.len() + findings.warnings.len();
    Ok(format!("{}, {}\n", ui::count(inventory.hosts.len(), "host"), ui::count(warnings, "warning")))
}

/// The variables of a host as one mapping, without those that kprov adds. A secret is not shown.
fn flat(stack: &Stack) -> Value {
    let mut vars = Map::new();
    for (_, layer) in stack.layers().iter().filter(|(level, _)| *level != Level::Magic) {
        for (name, var) in layer.iter() {
            let value = if var.secret { Value::from("***") } else { (*var.value).clone() };
            vars.insert(name.clone(), value);
        }
    }
    Value::Map(vars)
}
