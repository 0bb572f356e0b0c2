//! From what was asked and what exists to the lab as it should be. Pure: nothing is made here.

use super::{Lab, LabName, NodeSpec, Size, SizeFor, network, state};
use crate::source::InputError;
use ipnet::Ipv4Net;
use std::path::PathBuf;

/// What `kprov lab up` was asked for; `None`: what the lab has, or the default.
#[derive(Clone, Debug)]
pub struct Request {
    pub name: LabName,
    pub nodes: Option<u32>,
    /// Later ones win; for all nodes first, then for one.
    pub memory: Vec<SizeFor>,
    /// In the same way. Of new nodes only: a disk keeps its size.
    pub disk: Vec<SizeFor>,
    pub subnet: Option<Ipv4Net>,
    /// The inventory directory.
    pub inventory: Option<PathBuf>,
}

pub const DEFAULT_NODES: u32 = 3;
/// Above the 1500 MB that a control plane needs at least (Kubespray's `minimal_master_memory_mb`).
const DEFAULT_MEMORY: Size = Size(2 << 30);
/// systemd, sshd and a login need about 40 MB; below this a node only dies in odd ways.
const LEAST_MEMORY: Size = Size(64 << 20);
/// What an empty file system takes for itself, and some room.
const LEAST_DISK: Size = Size(64 << 20);
/// Two digits: an interface name holds 15 characters (`super::names`).
const MOST_NODES: u32 = 99;

/// Returns the lab with what is missing added; nodes are never taken away.
///
/// `fresh` is the empty lab to start from when there is none.
pub fn plan(
    request: &Request,
    existing: Option<Lab>,
    fresh: impl FnOnce() -> Result<Lab, InputError>,
) -> Result<Lab, InputError> {
    let mut lab = match existing {
        Some(lab) => unchanged(request, lab)?,
        None => fresh()?,
    };
    let there = u32::try_from(lab.nodes.len()).unwrap_or(MOST_NODES);
    let wanted = request.nodes.unwrap_or(if there == 0 { DEFAULT_NODES } else { there });
    if !(1..=MOST_NODES).contains(&wanted) {
        return Err(InputError::new(format!("{wanted} nodes asked for, expected 1 to {MOST_NODES}")));
    }
    for number in there + 1..=wanted {
        let address = network::address(lab.subnet, number)?;
        lab.nodes.push(NodeSpec { name: format!("n{number}"), address, memory: DEFAULT_MEMORY, disk: None });
    }
    let names: Vec<_> = lab.nodes.iter().map(|node| node.name.clone()).collect();
    for (number, node) in (1..).zip(&mut lab.nodes) {
        if let Some(memory) = asked("--memory", &request.memory, LEAST_MEMORY, &names, &node.name)? {
            node.memory = memory;
        }
        match asked("--disk", &request.disk, LEAST_DISK, &names, &node.name)? {
            disk @ Some(_) if number > there => node.disk = disk,
            Some(disk) if node.disk != Some(disk) => {
                let has = node.disk.map_or("no limit".to_owned(), |disk| format!("a size of {disk}"));
                let again = format!("`kprov lab down --name {}` first, or choose another --name", lab.name);
                return Err(InputError::new(format!("the disk of node {} already has {has}", node.name)).help(again));
            }
            _ => {}
        }
    }
    Ok(lab)
}

/// What a flag says of a node: the last that is for it alone, or else for all.
fn asked(flag: &str, sizes: &[SizeFor], least: Size, names: &[String], node: &str) -> Result<Option<Size>, InputError> {
    for SizeFor { node, size } in sizes {
        if let Some(name) = node.as_ref().filter(|name| !names.contains(name)) {
            return Err(InputError::new(format!("{flag} is for `{name}`, but the nodes are {}", names.join(", "))));
        }
        if *size < least {
            return Err(InputError::new(format!("{flag} is {size}, a node needs at least {least}")));
        }
    }
    let last = |of: Option<&str>| sizes.iter().rev().find(|asked| asked.node.as_deref() == of);
    Ok(last(Some(node)).or_else(|| last(None)).map(|asked| asked.size))
}

/// Refuses what cannot change while the lab exists.
fn unchanged(request: &Request, lab: Lab) -> Result<Lab, InputError> {
    let again = format!("`kprov lab down --name {}` first, or choose another --name", lab.name);
    match (request.subnet, &request.inventory) {
        (Some(subnet), _) if subnet != lab.subnet => {
            Err(InputError::new(format!("lab {} already has subnet {}", lab.name, lab.subnet)).help(again))
        }
        (_, Some(dir)) if *dir != lab.inventory => {
            let dir = lab.inventory.display();
            Err(InputError::new(format!("lab {} already has its inventory in {dir}", lab.name)).help(again))
        }
        _ => Ok(lab),
    }
}

/// What other labs and the machine use, with the words for an error.
pub fn taken(name: &LabName, routes: Vec<Ipv4Net>) -> Vec<(Ipv4Net, String)> {
    let others = state::names().into_iter().filter(|other| other != name);
    let labs = others.filter_map(|other| Lab::load(&other).ok()?).map(|lab| (lab.subnet, format!("lab {}", lab.name)));
    labs.chain(routes.into_iter().map(|net| (net, format!("this machine's route to {net}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Result<Lab, InputError> {
        let subnet = "10.77.0.0/24".parse().unwrap();
        let (inventory, rootfs) = ("/i".into(), "/r".into());
        Ok(Lab { name: "lab".parse()?, subnet, inventory, rootfs, nodes: Vec::new(), cgroups: Vec::new() })
    }

    fn request(nodes: Option<u32>, memory: &[&str]) -> Request {
        let memory = memory.iter().map(|text| text.parse().unwrap()).collect();
        Request { name: "lab".parse().unwrap(), nodes, memory, disk: Vec::new(), subnet: None, inventory: None }
    }

    fn summary(lab: &Lab) -> Vec<String> {
        lab.nodes.iter().map(|node| format!("{} {} {}", node.name, node.address, node.memory)).collect()
    }

    #[test]
    fn a_new_lab_has_three_nodes() {
        let lab = plan(&request(None, &["n3=512M", "1G"]), None, fresh).unwrap();
        assert_eq!(summary(&lab), ["n1 10.77.0.11 1G", "n2 10.77.0.12 1G", "n3 10.77.0.13 512M"]);
    }

    #[test]
    fn a_second_up_adds_what_is_missing_and_takes_nothing_away() {
        let lab = plan(&request(Some(2), &["n1=3G"]), None, fresh).unwrap();
        let same = plan(&request(None, &[]), Some(lab.clone()), fresh).unwrap();
        assert_eq!(same, lab);
        let fewer = plan(&request(Some(1), &[]), Some(lab.clone()), fresh).unwrap();
        assert_eq!(fewer, lab);
        let more = plan(&request(Some(3), &["n2=1G"]), Some(lab), fresh).unwrap();
        assert_eq!(summary(&more), ["n1 10.77.0.11 3G", "n2 10.77.0.12 1G", "n3 10.77.0.13 2G"]);
    }

    #[test]
    fn a_disk_keeps_its_size() {
        let disk = |nodes, sizes: &[&str]| {
            let disk = sizes.iter().map(|text| text.parse().unwrap()).collect();
            Request { disk, ..request(nodes, &[]) }
        };
        let lab = plan(&disk(Some(2), &["n2=2G"]), None, fresh).unwrap();
        assert_eq!(lab.nodes.iter().map(|node| node.disk).collect::<Vec<_>>(), [None, Some(Size(2 << 30))]);
        assert_eq!(plan(&disk(None, &["n2=2G"]), Some(lab.clone()), fresh).unwrap(), lab);
        let error = plan(&disk(Some(3), &["3G"]), Some(lab), fresh).unwrap_err();
        assert_eq!(error.to_string(), "the disk of node n1 already has no limit");
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let error = plan(&request(Some(2), &["n22=1G"]), None, fresh).unwrap_err();
        assert_eq!(error.to_string(), "--memory is for `n22`, but the nodes are n1, n2");
        let error = plan(&request(None, &["1M"]), None, fresh).unwrap_err();
        assert_eq!(error.to_string(), "--memory is 1M, a node needs at least 64M");
        for nodes in [0, 100] {
            assert!(plan(&request(Some(nodes), &[]), None, fresh).is_err());
        }
        let moved = Request { subnet: Some("10.78.0.0/24".parse().unwrap()), ..request(None, &[]) };
        let error = plan(&moved, Some(fresh().unwrap()), fresh).unwrap_err();
        assert_eq!(error.to_string(), "lab lab already has subnet 10.77.0.0/24");
    }
}
