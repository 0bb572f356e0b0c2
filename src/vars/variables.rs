//! All variables that files and the command line set, per host, in order of precedence.

use super::files::VarsDir;
use super::{Layer, Level, Stack, Var, VarMap, Vault, extra};
use crate::inventory::{Inventory, LOCALHOST};
use crate::source::{InputError, InputErrors};
use crate::value::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Variables of an inventory, of `group_vars` and `host_vars` beside it and beside the playbook, and of `-e`.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    stacks: HashMap<String, Stack>,
    /// Every layer that was read, also of groups without hosts.
    layers: Vec<(Level, Layer)>,
    pub warnings: Vec<InputError>,
}

impl Variables {
    /// Reads everything, and reports everything that is wrong at once.
    ///
    /// `playbook_dir` is the directory of the playbook, where there is one on disk. Each item of `extra` is an argument
    /// of `-e`.
    pub fn load(
        inventory: &Inventory,
        playbook_dir: Option<&Path>,
        extra: &[String],
        vault: &Vault,
    ) -> Result<Self, InputErrors> {
        let mut reader = Reader::new(inventory, playbook_dir, vault);
        let extra: Vec<Layer> = extra.iter().map(|argument| reader.extra(argument)).collect();
        let shared = shared_magic(inventory);
        let mut stacks = HashMap::new();
        let implicit = LOCALHOST.into_iter().filter(|name| !inventory.hosts.contains_key(*name));
        for host in inventory.hosts.keys().map(String::as_str).chain(implicit) {
            let mut stack = reader.stack(host);
            for layer in &extra {
                stack.push(Level::ExtraVars, layer.clone());
            }
            stack.push(Level::Magic, shared.clone());
            stack.push(Level::Magic, Arc::new(host_magic(inventory, host, playbook_dir)));
            stacks.insert(host.to_owned(), stack);
        }
        reader.finish(stacks, extra)
    }

    /// The variables of a host, ready for the layers of a play to be pushed. A host that is not in the inventory has
    /// those of an implicit localhost, if that is what it is, and else none.
    pub fn stack(&self, host: &str) -> Stack {
        self.stacks.get(host).cloned().unwrap_or_default()
    }

    /// Every layer that was read, each once.
    pub fn layers(&self) -> &[(Level, Layer)] {
        &self.layers
    }
}

/// Reads each file once, whatever the number of hosts that it applies to.
struct Reader<'a> {
    inventory: &'a Inventory,
    vault: &'a Vault,
    dirs: Vec<Dir>,
    layers: Vec<(Level, Layer)>,
    /// Layers of each group by place: the inventory itself, then each directory.
    groups: HashMap<String, Vec<Vec<(Level, Layer)>>>,
    warnings: Vec<InputError>,
    errors: Vec<InputError>,
}

/// A directory beside which variables are looked for.
struct Dir {
    of_playbook: bool,
    groups: VarsDir,
    hosts: VarsDir,
}

impl<'a> Reader<'a> {
    fn new(inventory: &'a Inventory, playbook_dir: Option<&Path>, vault: &'a Vault) -> Self {
        let mut reader = Self {
            inventory,
            vault,
            dirs: Vec::new(),
            layers: Vec::new(),
            groups: HashMap::new(),
            warnings: inventory.warnings.clone(),
            errors: Vec::new(),
        };
        let mut seen: Vec<PathBuf> = Vec::new();
        let inventory_dirs = inventory.dirs.iter().map(|dir| (dir.as_path(), false));
        for (dir, of_playbook) in inventory_dirs.chain(playbook_dir.map(|dir| (dir, true))) {
            let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            if !seen.contains(&canonical) {
                seen.push(canonical);
                // Paths are shown: without a `./` that nobody typed.
                let dir = dir.strip_prefix(".").unwrap_or(dir);
                let opened = VarsDir::open(dir.join("group_vars"))
                    .and_then(|groups| Ok(Dir { of_playbook, groups, hosts: VarsDir::open(dir.join("host_vars"))? }));
                match opened {
                    Ok(dir) => reader.dirs.push(dir),
                    Err(error) => reader.errors.push(error),
                }
            }
        }
        for group in inventory.groups.values() {
            let places = reader.group(&group.name, &group.vars);
            reader.layers.extend(places.iter().flatten().cloned());
            reader.groups.insert(group.name.clone(), places);
        }
        reader
    }

    fn group(&mut self, name: &str, own: &Layer) -> Vec<Vec<(Level, Layer)>> {
        let mut places = vec![vec![(Level::InventoryGroup, own.clone())]];
        for dir in &self.dirs {
            let level = match (name == "all", dir.of_playbook) {
                (true, false) => Level::InventoryGroupVarsAll,
                (true, true) => Level::PlaybookGroupVarsAll,
                (false, false) => Level::InventoryGroupVars,
                (false, true) => Level::PlaybookGroupVars,
            };
            let layers = dir.groups.read(name, self.vault, &mut self.warnings).unwrap_or_else(|mut more| {
                self.errors.append(&mut more.0);
                Vec::new()
            });
            places.push(layers.into_iter().map(|layer| (level, layer)).collect());
        }
        places
    }

    /// What the inventory and the files say about a host.
    fn stack(&mut self, name: &str) -> Stack {
        let mut stack = Stack::new();
        let groups = self.inventory.groups_of(name);
        // A directory's groups are above all groups of the directory before, as in Ansible.
        for place in 0..=self.dirs.len() {
            for group in &groups {
                let layers = self.groups.get(&group.name).and_then(|places| places.get(place));
                for (level, layer) in layers.into_iter().flatten() {
                    stack.push(*level, layer.clone());
                }
            }
        }
        let own = match self.inventory.hosts.get(name) {
            Some(host) => host.vars.clone(),
            None => Arc::new(VarMap::from([("ansible_connection".to_owned(), Var::from(Value::from("local")))])),
        };
        let mut layers = vec![(Level::InventoryHost, own)];
        for dir in &self.dirs {
            let level = if dir.of_playbook { Level::PlaybookHostVars } else { Level::InventoryHostVars };
            match dir.hosts.read(name, self.vault, &mut self.warnings) {
                Ok(read) => layers.extend(read.into_iter().map(|layer| (level, layer))),
                Err(mut more) => self.errors.append(&mut more.0),
            }
        }
        for (level, layer) in &layers {
            stack.push(*level, layer.clone());
        }
        if self.inventory.hosts.contains_key(name) {
            self.layers.append(&mut layers);
        }
        stack
    }

    fn extra(&mut self, argument: &str) -> Layer {
        match extra::read(argument, self.vault, &mut self.warnings) {
            Ok(vars) => Arc::new(vars),
            Err(mut more) => {
                self.errors.append(&mut more.0);
                Layer::default()
            }
        }
    }

    fn finish(mut self, stacks: HashMap<String, Stack>, extra: Vec<Layer>) -> Result<Variables, InputErrors> {
        for dir in &self.dirs {
            let groups = self.inventory.groups.keys().map(String::as_str);
            dir.groups.check("group", groups, &mut self.errors, &mut self.warnings);
            let hosts = self.inventory.hosts.keys().map(String::as_str).chain(LOCALHOST);
            dir.hosts.check("host", hosts, &mut self.errors, &mut self.warnings);
        }
        check_addresses(self.inventory, &stacks, &mut self.errors);
        if !self.errors.is_empty() {
            return Err(InputErrors(self.errors));
        }
        self.layers.extend(extra.into_iter().map(|layer| (Level::ExtraVars, layer)));
        Ok(Variables { stacks, layers: self.layers, warnings: self.warnings })
    }
}

/// The variables that are the same for every host.
fn shared_magic(inventory: &Inventory) -> Layer {
    let members = |group: &String| Value::List(inventory.hosts_of(group).into_iter().map(Value::from).collect());
    let groups: Map = inventory.groups.keys().map(|group| (group.clone(), members(group))).collect();
    Arc::new(VarMap::from([("groups".to_owned(), Var::from(Value::Map(groups)))]))
}

fn host_magic(inventory: &Inventory, host: &str, playbook_dir: Option<&Path>) -> VarMap {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = |path: Option<PathBuf>| Value::from(path.map(|path| path.display().to_string()));
    let file = inventory.hosts.get(host).and_then(|host| host.file.as_deref()).map(absolute);
    // An address has no short form.
    let short = if host.parse::<std::net::IpAddr>().is_ok() { host } else { host.split('.').next().unwrap_or(host) };
    let groups = inventory.group_names(host).into_iter().map(Value::from).collect::<Vec<_>>();
    let values = [
        ("inventory_hostname", Value::from(host)),
        ("inventory_hostname_short", Value::from(short)),
        ("group_names", Value::List(groups)),
        ("inventory_dir", text(file.as_deref().and_then(Path::parent).map(Path::to_owned))),
        ("inventory_file", text(file)),
        ("playbook_dir", text(playbook_dir.map(absolute))),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), Var::from(value))).collect()
}

/// Reports hosts that share an address: one machine under two names would be set up twice, each run undoing the other.
fn check_addresses(inventory: &Inventory, stacks: &HashMap<String, Stack>, errors: &mut Vec<InputError>) {
    for variable in ["ansible_host", "ip", "access_ip"] {
        let mut seen: HashMap<String, (&str, &Var)> = HashMap::new();
        for host in inventory.hosts.keys() {
            let Some(stack) = stacks.get(host) else { continue };
            // A template is not known yet; the precondition checks compare the addresses of the machines.
            let written = stack.lookup(variable).filter(|var| !var.value.to_string().contains("{{"));
            let Some(var) = written else { continue };
            let mut address = var.value.to_string();
            if variable == "ansible_host" {
                // Two machines behind one address differ in their port.
                let port = stack.lookup("ansible_port").map_or("22".into(), |port| port.value.to_string());
                address = format!("{address} port {port}");
            }
            let Some((other, first)) = seen.insert(address.clone(), (host, var)) else { continue };
            if other == host {
                continue;
            }
            let place = first.origin.as_ref().map(|span| format!(" ({span})")).unwrap_or_default();
            let message =
                format!("two hosts with one address: {host} and {other}{place} both have {variable} {address}");
            let help = "give each host an address of its own, or list the host once, in several groups";
            errors.push(InputError { message, span: var.origin.clone(), help: Some(help.into()) });
        }
    }
}
