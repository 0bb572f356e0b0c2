//! `kprov vars`: which value a variable has, where it was written and what it overrode.

use super::Exit;
use super::inventory::SourceArgs;
use crate::playbook::{self, Tree};
use crate::source::{InputError, InputErrors, near_miss};
use crate::vars::{Level, Stack, Var};
use indexmap::IndexMap;

/// Shows variables with the places where they were written, without connecting to a host.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct VarsArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    verb: Option<VarsVerb>,
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only hosts that match this pattern
    #[arg(long, value_name = "PATTERN", default_value = "all")]
    host: String,
}

#[derive(clap::Subcommand)]
enum VarsVerb {
    /// Show the value of one variable, its origin, and what it overrode
    Explain {
        name: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

pub fn run(args: VarsArgs) -> Exit {
    super::print(match args.verb {
        Some(VarsVerb::Explain { name, list }) => explain(&name, &list),
        None => show(&args.list),
    })
}

/// The hosts that the pattern selects, each with its stack, kprov's and the roles' defaults at the bottom.
fn stacks(args: &ListArgs) -> Result<Vec<(String, Stack)>, InputErrors> {
    let (inventory, variables) = args.source.load_cluster()?;
    let hosts = inventory.select(&args.host)?;
    if hosts.is_empty() {
        return Err(InputError::new(format!("no host matches `{}`", args.host)).into());
    }
    let declared = playbook::declared(&Tree::new(inventory.dirs.clone()))?;
    let stack = |host: &str| {
        let mut stack = variables.stack(host);
        for layer in &declared.defaults {
            stack.push(Level::RoleDefaults, layer.clone());
        }
        stack
    };
    Ok(hosts.iter().map(|host| (host.clone(), stack(host))).collect())
}

fn show(args: &ListArgs) -> Result<String, InputErrors> {
    let stacks = stacks(args)?;
    let mut out = String::new();
    for (host, stack) in stacks {
        let mut names = stack.names();
        names.sort_unstable();
        for name in names {
            if let Some(&(level, var)) =
                stack.explain(name).first().filter(|(level, _)| !matches!(level, Level::RoleDefaults | Level::Magic))
            {
                out.push_str(&format!("{host}: {name} = {}  # {}\n", text(var), place(level, var)));
            }
        }
    }
    Ok(out)
}

fn explain(name: &str, args: &ListArgs) -> Result<String, InputErrors> {
    let stacks = stacks(args)?;
    // Hosts with the same history share one paragraph.
    let mut histories: IndexMap<String, Vec<&str>> = IndexMap::new();
    let mut unset = Vec::new();
    for (host, stack) in &stacks {
        let mut history = String::new();
        for (i, (level, var)) in stack.explain(name).into_iter().enumerate() {
            let lead = if i == 0 { name } else { "  overrides" };
            let sign = if i == 0 { " =" } else { "" };
            history.push_str(&format!("{lead}{sign} {}\n    {}\n", text(var), place(level, var)));
        }
        if history.is_empty() {
            unset.push(host.as_str());
        } else {
            histories.entry(history).or_default().push(host);
        }
    }
    if histories.is_empty() {
        let error = InputError::new(format!("nothing sets {name} for {}", unset.join(", ")));
        let names: Vec<&str> = stacks.iter().flat_map(|(_, stack)| stack.names()).collect();
        return Err(match near_miss(name, names) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help("searched: inventory, group_vars, host_vars, -e and the defaults of all roles"),
        }
        .into());
    }
    let mut out: Vec<String> =
        histories.iter().map(|(history, hosts)| format!("{}:\n{history}", hosts.join(", "))).collect();
    if !unset.is_empty() {
        out.push(format!("{}:\n{name} is not set\n", unset.join(", ")));
    }
    Ok(out.join("\n"))
}

/// The value as it was written, in JSON; templates are not rendered. A secret is not shown.
fn text(var: &Var) -> String {
    if var.secret { "***".into() } else { serde_json::Value::from(&*var.value).to_string() }
}

fn place(level: Level, var: &Var) -> String {
    match &var.origin {
        Some(span) => format!("{span} ({level})"),
        None => format!("({level})"),
    }
}
