//! `kprov lab`: throwaway nodes on this machine, with an inventory for them.

use super::{Exit, refuse};
use crate::lab::{self, Lab, LabError, LabName, LinkState, NodeStatus, Request, SizeFor};
use crate::ui::{self, Format, talk as say};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

/// Throwaway nodes on this machine that behave like machines, and an inventory for them.
///
/// Needs root, Linux, and on Debian the packages debootstrap, systemd-container, iproute2, iptables, openssh-client, e2fsprogs.
#[derive(Args)]
pub struct LabArgs {
    #[command(subcommand)]
    verb: LabVerb,
}

#[derive(Subcommand)]
enum LabVerb {
    /// Make a lab, or add what is missing, and wait until ssh answers on every node.
    Up(UpArgs),
    /// Remove a lab and everything it made; the cached root file system stays.
    Down(Which),
    /// Switch nodes off; their disks stay.
    Stop(Nodes),
    /// Switch nodes on and wait until ssh answers.
    Start(Nodes),
    /// Stop and start nodes.
    Restart(Nodes),
    /// Show the nodes of one lab, or of all.
    Status(StatusArgs),
    /// Run a command as root inside a node, past ssh.
    Exec(ExecArgs),
    /// Cut or mend the link of a node.
    Link(LinkArgs),
}

#[derive(Args)]
struct Which {
    /// The lab.
    #[arg(long, default_value = "lab")]
    name: LabName,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    lab: Which,
    /// How many nodes: n1, n2, … [default: 3, or as many as there are]
    #[arg(long)]
    nodes: Option<u32>,
    /// The memory limit of one node, or of all [default: 2G]
    #[arg(long, value_name = "[NODE=]SIZE")]
    memory: Vec<SizeFor>,
    /// How much one node, or each, can store [default: what the machine has room for]
    #[arg(long, value_name = "[NODE=]SIZE")]
    disk: Vec<SizeFor>,
    /// The nodes' network [default: the first free one of 10.77.0.0/24, 10.77.1.0/24, …]
    #[arg(long)]
    subnet: Option<Ipv4Net>,
    /// Where to write the inventory [default: inventory/NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct Nodes {
    #[command(flatten)]
    lab: Which,
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Args)]
struct StatusArgs {
    /// The lab [default: all]
    #[arg(long)]
    name: Option<LabName>,
    /// Text, or JSON lines
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args)]
struct ExecArgs {
    #[command(flatten)]
    lab: Which,
    node: String,
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
struct LinkArgs {
    #[command(flatten)]
    lab: Which,
    node: String,
    state: Link,
}

#[derive(Clone, Copy, ValueEnum)]
enum Link {
    Down,
    Up,
}

pub fn run(args: LabArgs) -> Exit {
    let result = match args.verb {
        LabVerb::Up(args) => up(args),
        LabVerb::Down(args) => lab::down(&args.name, &say).map(|existed| match existed {
            true => say(&format!("{} is gone", args.name)),
            false => say(&format!("{} was not there", args.name)),
        }),
        LabVerb::Stop(args) => Lab::get(&args.lab.name).and_then(|lab| lab::stop(&lab, &args.nodes, &say)),
        LabVerb::Start(args) => Lab::get(&args.lab.name).and_then(|lab| lab::start(&lab, &args.nodes, &say)),
        LabVerb::Restart(args) => Lab::get(&args.lab.name).and_then(|lab| {
            lab::stop(&lab, &args.nodes, &say)?;
            lab::start(&lab, &args.nodes, &say)
        }),
        LabVerb::Status(args) => status(&args),
        LabVerb::Exec(args) => Lab::get(&args.lab.name).and_then(|lab| Err(lab::exec(&lab, &args.node, &args.command))),
        LabVerb::Link(args) => Lab::get(&args.lab.name).and_then(|lab| {
            let state = match args.state {
                Link::Down => LinkState::Cut,
                Link::Up => LinkState::Up,
            };
            lab::set_link(&lab, &args.node, state)
        }),
    };
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&error),
    }
}

fn up(args: UpArgs) -> Result<(), LabError> {
    let begin = Instant::now();
    let request = Request {
        name: args.lab.name,
        nodes: args.nodes,
        memory: args.memory,
        disk: args.disk,
        subnet: args.subnet,
        inventory: args.dir,
    };
    let lab = lab::up(&request, &say)?;
    let (nodes, seconds) = (lab.nodes.len(), begin.elapsed().as_secs_f64());
    say(&format!("{nodes} nodes answer after {seconds:.1} s; inventory: {}", lab.inventory_file().display()));
    Ok(())
}

fn status(args: &StatusArgs) -> Result<(), LabError> {
    let labs = match &args.name {
        Some(name) => vec![Lab::get(name)?],
        None => Lab::all()?,
    };
    let nodes: Vec<NodeStatus> = labs.iter().flat_map(lab::status).collect();
    ui::out(&match args.format {
        Format::Json => nodes.iter().filter_map(|node| Some(serde_json::to_string(node).ok()? + "\n")).collect(),
        Format::Text => table(&nodes),
    });
    Ok(())
}

fn table(nodes: &[NodeStatus]) -> String {
    let rows = nodes.iter().map(|node| {
        [
            node.lab.to_string(),
            node.name.clone(),
            format!("{:?}", node.state).to_lowercase(),
            node.address.to_string(),
            node.memory.to_string(),
            node.disk.map_or("-".into(), |disk| disk.to_string()),
            node.pid.map_or("-".into(), |pid| pid.to_string()),
            format!("{:?}", node.link).to_lowercase(),
        ]
    });
    let head = ["LAB", "NODE", "STATE", "ADDRESS", "MEMORY", "DISK", "PID", "LINK"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let line = |row: &[String; 8]| {
        let cells: Vec<_> =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column))).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn fail(error: &LabError) -> Exit {
    if let LabError::Input(input) = error {
        return refuse(&input.clone().into());
    }
    say(&format!("error: {error}"));
    match error {
        LabError::Missing(_) => Exit::Usage,
        LabError::NotAnswering { .. } => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{NodeState, Size};

    #[test]
    fn the_table_is_aligned() {
        let node = |name: &str, state, pid: Option<i32>| NodeStatus {
            lab: "lab".parse().unwrap(),
            name: name.into(),
            state,
            address: [10, 77, 0, 11].into(),
            memory: Size(512 << 20),
            disk: pid.map(|_| Size(2 << 30)),
            pid,
            link: LinkState::Up,
        };
        insta::assert_snapshot!(table(&[node("n1", NodeState::Running, Some(4711)), node("n10", NodeState::Stopped, None)]), @r"
        LAB  NODE  STATE    ADDRESS     MEMORY  DISK  PID   LINK
        lab  n1    running  10.77.0.11  512M    2G    4711  up
        lab  n10   stopped  10.77.0.11  512M    -     -     up
        ");
    }
}
