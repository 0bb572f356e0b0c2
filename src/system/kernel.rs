//! The running kernel: its modules, sysctls and the host name; with an overlay when planning.
//!
//! Only the live state. What makes it last (files in /etc/sysctl.d, /etc/modules-load.d, /etc/hostname) is written as
//! files by the modules that need it.

use super::process::execute;
use super::{Command, Mode, Result, SystemError};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Whether the kernel has a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleState {
    Loaded,
    /// Part of the kernel itself: as good as loaded, and cannot be unloaded.
    BuiltIn,
    /// On disk; not loaded.
    Loadable,
    Absent,
}

impl ModuleState {
    /// Whether it can be used now.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Loaded | Self::BuiltIn)
    }
}

/// The build options of modules that Kubernetes nodes use. Where /lib/modules is missing (containers, kernels without
/// modules), the kernel's own configuration is the only place that tells of built-in ones without parameters.
const OPTIONS: [(&str, &str); 22] = [
    ("br_netfilter", "BRIDGE_NETFILTER"),
    ("bridge", "BRIDGE"),
    ("dummy", "DUMMY"),
    ("ip6_tables", "IP6_NF_IPTABLES"),
    ("ip_set", "IP_SET"),
    ("ip_tables", "IP_NF_IPTABLES"),
    ("ip_vs", "IP_VS"),
    ("ip_vs_rr", "IP_VS_RR"),
    ("ip_vs_sh", "IP_VS_SH"),
    ("ip_vs_wrr", "IP_VS_WRR"),
    ("ipip", "NET_IPIP"),
    ("iptable_nat", "IP_NF_NAT"),
    ("nf_conntrack", "NF_CONNTRACK"),
    ("nf_nat", "NF_NAT"),
    ("nf_tables", "NF_TABLES"),
    ("nft_compat", "NFT_COMPAT"),
    ("overlay", "OVERLAY_FS"),
    ("rbd", "BLK_DEV_RBD"),
    ("tun", "TUN"),
    ("veth", "VETH"),
    ("vxlan", "VXLAN"),
    ("wireguard", "WIREGUARD"),
];

/// Paths that are there only while a module is at work, whichever way it came into the kernel.
const SIGNS: [(&str, &str); 3] = [
    ("br_netfilter", "/proc/sys/net/bridge"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ("ip_tables", "/proc/net/ip_tables_names"),
];

/// The node's kernel.
pub struct Kernel {
    /// `None` where changes are real.
    overlay: Option<Overlay>,
    inventory: OnceCell<Inventory>,
}

#[derive(Default)]
struct Overlay {
    modules: BTreeMap<String, ModuleState>,
    sysctls: BTreeMap<String, String>,
    hostname: Option<String>,
}

/// What the kernel could have, which does not change while it runs.
#[derive(Default)]
struct Inventory {
    built_in: BTreeSet<String>,
    loadable: BTreeSet<String>,
}

impl Kernel {
    pub(super) fn new(mode: Mode) -> Self {
        Self { overlay: (mode == Mode::Plan).then(Overlay::default), inventory: OnceCell::new() }
    }

    /// Release of the running kernel, as `uname -r` prints it.
    pub fn release(&self) -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    /// Whether a module can be used now: loaded or built in.
    pub fn has_module(&self, name: &str) -> bool {
        self.module(name).is_usable()
    }

    /// Whether the kernel has a module, in which way.
    pub fn module(&self, name: &str) -> ModuleState {
        let name = module_name(name);
        if let Some(planned) = self.overlay.as_ref().and_then(|overlay| overlay.modules.get(&name)) {
            return *planned;
        }
        let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        if modules.lines().any(|line| line.split(' ').next() == Some(&name)) {
            return ModuleState::Loaded;
        }
        let inventory = self.inventory.get_or_init(|| Inventory::read(&self.release()));
        let signs = SIGNS.iter().any(|(module, path)| *module == name && Path::new(path).exists());
        if signs || Path::new("/sys/module").join(&name).exists() || inventory.built_in.contains(&name) {
            ModuleState::BuiltIn
        } else if inventory.loadable.contains(&name) {
            ModuleState::Loadable
        } else {
            ModuleState::Absent
        }
    }

    /// Whether the kernel can load modules at all.
    pub fn loads_modules(&self) -> bool {
        // Without CONFIG_MODULES the file is missing; this sysctl ends loading until the next boot.
        Path::new("/proc/modules").exists()
            && self.sysctl("kernel.modules_disabled").ok().flatten().as_deref() != Some("1")
    }

    /// Loads a module, with parameters as for modprobe(8).
    pub fn load_module(&mut self, name: &str, params: &str) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.modules.insert(module_name(name), ModuleState::Loaded);
            return Ok(());
        }
        let argv = ["modprobe", "--", name].into_iter().chain(params.split_whitespace());
        execute(&Command::new(argv), None)?.checked().map(drop)
    }

    pub fn unload_module(&mut self, name: &str) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.modules.insert(module_name(name), ModuleState::Loadable);
            return Ok(());
        }
        execute(&Command::new(["modprobe", "--remove", "--", name]), None)?.checked().map(drop)
    }

    /// The value of a sysctl, without the newline at its end; `None` where the kernel has no such setting.
    pub fn sysctl(&self, name: &str) -> Result<Option<String>> {
        if let Some(planned) = self.overlay.as_ref().and_then(|overlay| overlay.sysctls.get(&dotted(name))) {
            return Ok(Some(planned.clone()));
        }
        let path = sysctl_path(name);
        match std::fs::read_to_string(&path) {
            Ok(value) => Ok(Some(value.trim_end_matches('\n').to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SystemError::file(path)(error)),
        }
    }

    pub fn set_sysctl(&mut self, name: &str, value: &str) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.sysctls.insert(dotted(name), value.to_owned());
            return Ok(());
        }
        let path = sysctl_path(name);
        std::fs::write(&path, value).map_err(SystemError::file(path))
    }

    /// Whether settings may appear that the kernel has not now: modules were planned to be loaded, which bring their own.
    pub fn sysctls_may_appear(&self) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| overlay.modules.values().any(|state| state.is_usable()))
    }

    /// The host name that the kernel has (not the one in /etc/hostname).
    pub fn hostname(&self) -> String {
        match self.overlay.as_ref().and_then(|overlay| overlay.hostname.clone()) {
            Some(planned) => planned,
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    pub fn set_hostname(&mut self, name: &str) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.hostname = Some(name.to_owned());
            return Ok(());
        }
        rustix::system::sethostname(name.as_bytes())
            .map_err(|error| SystemError::Other(format!("cannot set the host name: {error}")))
    }
}

impl Inventory {
    fn read(release: &str) -> Self {
        let mut inventory = Self::default();
        for root in ["/lib/modules", "/usr/lib/modules"].map(Path::new) {
            let dir = root.join(release);
            let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
            inventory.built_in.extend(read("modules.builtin").lines().filter_map(module_of_file));
            let depends = read("modules.dep");
            inventory.loadable.extend(depends.lines().filter_map(|line| module_of_file(line.split(':').next()?)));
        }
        let config = build_config(release).unwrap_or_default();
        let enabled: BTreeSet<&str> = config.lines().filter_map(|line| line.strip_suffix("=y")).collect();
        let enabled = |option: &str| enabled.contains(format!("CONFIG_{option}").as_str());
        inventory
            .built_in
            .extend(OPTIONS.iter().filter(|(_, option)| enabled(option)).map(|(module, _)| (*module).to_owned()));
        inventory
    }
}

/// What the kernel was built with, where it tells.
fn build_config(release: &str) -> Option<String> {
    if let Ok(packed) = std::fs::File::open("/proc/config.gz") {
        let mut text = String::new();
        return flate2::read::GzDecoder::new(packed).read_to_string(&mut text).is_ok().then_some(text);
    }
    std::fs::read_to_string(format!("/boot/config-{release}")).ok()
}

/// The kernel's spelling: `br-netfilter` is `br_netfilter`.
fn module_name(name: &str) -> String {
    name.replace('-', "_")
}

/// `br_netfilter` of `kernel/net/bridge/br_netfilter.ko.xz`.
fn module_of_file(path: &str) -> Option<String> {
    let (name, _) = path.rsplit('/').next()?.split_once(".ko")?;
    Some(module_name(name))
}

/// The file of a setting. As in sysctl(8): if the first separator is a slash, dots are part of names.
fn sysctl_path(name: &str) -> PathBuf {
    let swapped: String = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    Path::new("/proc/sys").join(swapped.trim_start_matches('/'))
}

/// One spelling for each setting.
fn dotted(name: &str) -> String {
    sysctl_path(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/100.rp_filter"),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.100/rp_filter"),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
    }

    #[test]
    fn plans_leave_the_kernel_alone() {
        let mut planned = Kernel::new(Mode::Plan);
        let before = planned.sysctl("kernel.panic").unwrap().unwrap();
        planned.set_sysctl("kernel.panic", "4711").unwrap();
        planned.set_hostname("planned").unwrap();
        planned.load_module("no-such-module", "").unwrap();
        assert_eq!(planned.sysctl("kernel/panic").unwrap().as_deref(), Some("4711"));
        assert_eq!(planned.hostname(), "planned");
        assert!(planned.has_module("no_such_module") && planned.sysctls_may_appear());

        let real = Kernel::new(Mode::Apply);
        assert_eq!(real.sysctl("kernel.panic").unwrap().unwrap(), before);
        assert_eq!(real.module("no_such_module"), ModuleState::Absent);
        assert_ne!(real.hostname(), "planned");
        assert_eq!(real.sysctl("kernel.no_such_setting").unwrap(), None);
    }

    #[test]
    fn module_files() {
        assert_eq!(module_of_file("kernel/net/bridge/br_netfilter.ko").as_deref(), Some("br_netfilter"));
        assert_eq!(module_of_file("kernel/net/ipv4/ip-tunnel.ko.zst").as_deref(), Some("ip_tunnel"));
        assert_eq!(module_of_file(""), None);
    }
}
