//! `kprov lab up`: from nothing, or from what there is, to nodes that answer.

use super::command::check_requirements;
use super::node::Node;
use super::{Lab, LabError, Progress, Request, cgroup, inventory, network, plan, rootfs, state, status, sysctl};
use crate::source::InputError;
use std::path::{Path, PathBuf};

/// Makes or completes a lab and returns it once every node lets its user in over ssh.
///
/// Safe to run again, also after it was killed: what is there stays as it is.
pub fn up(request: &Request, progress: Progress) -> Result<Lab, LabError> {
    check_requirements()?;
    let rootfs = match Lab::load(&request.name)? {
        Some(lab) => lab.rootfs,
        None => rootfs::ensure(progress)?,
    };
    let dir = state::directory(&request.name);
    let _lock = state::lock(&dir, progress)?;
    let lab = record(request, rootfs, progress).inspect_err(|_| {
        // A new lab that cannot be leaves no directory; one with contents stays.
        let _ = std::fs::remove_dir(&dir);
    })?;
    sysctl::raise(progress)?;
    network::ensure(&lab)?;
    let user_key = inventory::user_key(&lab)?;
    let host_keys = each_node(&lab, |node| {
        let host_key = node.prepare(&user_key)?;
        status::mend_link(node)?;
        node.launch()?;
        Ok(host_key)
    })?;
    inventory::write(&lab, &host_keys)?;
    each_node(&lab, |node| status::wait_for_ssh(&lab, node))?;
    Ok(lab)
}

/// Decides what the lab is to be and writes it down before anything of it is made.
fn record(request: &Request, rootfs: PathBuf, progress: Progress) -> Result<Lab, LabError> {
    // Two new labs must not pick one subnet.
    let _lock = state::lock(Path::new(state::ROOT), progress)?;
    let default = || Path::new("inventory").join(request.name.as_str());
    let dir = inventory::absolute(&request.inventory.clone().unwrap_or_else(default))?;
    let request = Request { inventory: request.inventory.as_ref().map(|_| dir.clone()), ..request.clone() };
    let existing = Lab::load(&request.name)?;
    let (taken, cgroups) = match &existing {
        Some(_) => Default::default(),
        None => (plan::taken(&request.name, network::machine_routes()?), cgroup::discover(request.name.as_str())?),
    };
    let fresh = || -> Result<Lab, InputError> {
        let subnet = network::pick_subnet(request.subnet, &taken)?;
        Ok(Lab { name: request.name.clone(), subnet, inventory: dir, rootfs, nodes: Vec::new(), cgroups })
    };
    let lab = plan::plan(&request, existing, fresh)?;
    inventory::check(&lab)?;
    lab.save()?;
    Ok(lab)
}

/// Runs `work` for all nodes at once; the results are in their order, the error is the first node's that failed.
pub fn each_node<T: Send>(lab: &Lab, work: impl Fn(&Node) -> Result<T, LabError> + Sync) -> Result<Vec<T>, LabError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = lab.nodes.iter().map(|spec| scope.spawn(|| work(&Node::new(lab, spec)))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.collect()
    })
}
