//! Nodes of an existing lab: what they do, stopping, starting, cutting the link.

use super::command::{check_requirements, run};
use super::node::Node;
use super::{Lab, LabError, LabName, NodeSpec, Progress, Size, inventory, network, rootfs, state, up};
use serde::Serialize;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take until it lets its user in; about a second on an idle machine, a minute on an emulated one.
const SSH_WITHIN: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Running,
    /// Between two boots, or before its PID 1 is there.
    Booting,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    Up,
    Cut,
}

#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    pub lab: LabName,
    pub name: String,
    pub state: NodeState,
    pub address: Ipv4Addr,
    /// In bytes.
    pub memory: Size,
    /// In bytes; `None` is without a limit.
    pub disk: Option<Size>,
    /// The node's PID 1 as the machine sees it.
    pub pid: Option<i32>,
    pub link: LinkState,
}

/// Asks the kernel for the state of every node.
pub fn status(lab: &Lab) -> Vec<NodeStatus> {
    let one = |spec: &NodeSpec| {
        let node = Node::new(lab, spec);
        let pid = node.init();
        let state = match pid {
            Some(_) => NodeState::Running,
            None if node.is_running() => NodeState::Booting,
            None => NodeState::Stopped,
        };
        let link = if node.cut_mark().exists() { LinkState::Cut } else { LinkState::Up };
        NodeStatus {
            lab: lab.name.clone(),
            name: spec.name.clone(),
            state,
            address: spec.address,
            memory: spec.memory,
            disk: spec.disk,
            pid,
            link,
        }
    };
    lab.nodes.iter().map(one).collect()
}

/// Switches nodes off, all at once, and returns when they are; their disks stay.
pub fn stop(lab: &Lab, nodes: &[String], progress: Progress) -> Result<(), LabError> {
    check_requirements()?;
    let _lock = state::lock(&state::directory(&lab.name), progress)?;
    up::each_node(&only(lab, nodes)?, |node| node.stop()).map(drop)
}

/// Boots nodes that are off, all at once, and returns when they let their user in, or have booted with the link cut.
pub fn start(lab: &Lab, nodes: &[String], progress: Progress) -> Result<(), LabError> {
    check_requirements()?;
    let _lock = state::lock(&state::directory(&lab.name), progress)?;
    network::ensure(lab)?;
    let user_key = inventory::user_key(lab)?;
    up::each_node(&only(lab, nodes)?, |node| {
        node.prepare(&user_key)?;
        node.launch()?;
        if node.cut_mark().exists() { Ok(()) } else { wait_for_ssh(lab, node) }
    })
    .map(drop)
}

/// Cuts or mends the link between a node and the lab's bridge; it stays cut over a reboot, and until `up`.
pub fn set_link(lab: &Lab, node: &str, link: LinkState) -> Result<(), LabError> {
    check_requirements()?;
    let node = Node::new(lab, lab.node(node)?);
    match link {
        LinkState::Up => mend_link(&node),
        LinkState::Cut => {
            fs::write(node.cut_mark(), "").map_err(LabError::io(node.cut_mark()))?;
            plug(&node, "down")
        }
    }
}

pub fn mend_link(node: &Node) -> Result<(), LabError> {
    if !node.cut_mark().exists() {
        return Ok(());
    }
    fs::remove_file(node.cut_mark()).map_err(LabError::io(node.cut_mark()))?;
    plug(node, "up")
}

/// A node that is off has no cable.
fn plug(node: &Node, direction: &str) -> Result<(), LabError> {
    if network::interface_exists(&node.link()) {
        run("ip", ["link", "set", &node.link(), direction])?;
    }
    Ok(())
}

/// The lab with these of its nodes only.
fn only(lab: &Lab, nodes: &[String]) -> Result<Lab, LabError> {
    let nodes = nodes.iter().map(|name| lab.node(name).cloned()).collect::<Result<_, _>>()?;
    Ok(Lab { nodes, ..lab.clone() })
}

/// Returns when the lab's user can run a command on the node over ssh, with the node's host key verified.
pub fn wait_for_ssh(lab: &Lab, node: &Node) -> Result<(), LabError> {
    let begin = Instant::now();
    loop {
        let last = match try_ssh(lab, node.spec.address) {
            Ok(()) => return Ok(()),
            Err(last) => last,
        };
        if !node.is_running() {
            let log = fs::read(node.log()).unwrap_or_default();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
            return Err(LabError::Stopped { node: node.spec.name.clone(), log: node.log(), tail });
        }
        let waited = begin.elapsed();
        if waited > SSH_WITHIN {
            let (node_name, address) = (node.spec.name.clone(), node.spec.address);
            return Err(LabError::NotAnswering { node: node_name, address, within: SSH_WITHIN, last, log: node.log() });
        }
        std::thread::sleep((waited / 20).clamp(Duration::from_millis(20), Duration::from_millis(500)));
    }
}

/// One attempt; the error is what was seen last. A look at the port first: starting ssh in vain costs the boot time.
fn try_ssh(lab: &Lab, address: Ipv4Addr) -> Result<(), String> {
    let timeout = Duration::from_secs(1);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((address, 22)), timeout).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(timeout)).map_err(|e| e.to_string())?;
    stream.read_exact(&mut [0; 4]).map_err(|e| e.to_string())?;
    drop(stream);
    let output = Command::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "IdentitiesOnly=yes"])
        .args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            &format!("UserKnownHostsFile={}", inventory::known_hosts(lab).display()),
        ])
        .arg("-i")
        .arg(inventory::private_key(lab))
        .args([&format!("{}@{address}", rootfs::USER), "true"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
