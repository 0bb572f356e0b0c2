//! One node: its disk, its identity, and the process that runs it.
//!
//! A node's directory holds `root` (an overlay mount: the shared root file system below `upper`), `volumes`, and
//! `console.log`; a node with a disk of limited size has `upper` and `volumes` on that disk ([`super::disk`]). Whether a node runs is read from its cgroups and never from a file that could be out of date.

use super::command::output;
use super::{Lab, LabError, LabName, NodeSpec, cgroup, disk, mounts, network, rootfs, state};
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::CString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a node may take to switch itself off before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A node of a lab, with everything that is derived from the two.
pub struct Node<'a> {
    lab: &'a Lab,
    pub spec: &'a NodeSpec,
    dir: PathBuf,
}

impl<'a> Node<'a> {
    pub fn new(lab: &'a Lab, spec: &'a NodeSpec) -> Self {
        Self { lab, spec, dir: directory(&lab.name, &spec.name) }
    }

    /// Makes or mends what the node needs to boot, and returns its ssh host key (`ssh-ed25519 AAAA…`).
    ///
    /// `user_key` is the public key that may log in. A running node is left alone, but for its limit and that key.
    pub fn prepare(&self, user_key: &str) -> Result<String, LabError> {
        cgroup::prepare(&self.lab.cgroups, &self.spec.name, self.spec.memory)?;
        if let Some(size) = self.spec.disk {
            disk::ensure(&self.dir, size)?;
        }
        for dir in rootfs::VOLUMES.map(|volume| self.volume(volume)) {
            fs::create_dir_all(&dir).map_err(LabError::io(&dir))?;
        }
        self.mount_root()?;
        let host_key = self.identity()?;
        self.authorize(user_key)?;
        Ok(host_key)
    }

    /// Boots a prepared node; one that runs is left alone.
    pub fn launch(&self) -> Result<(), LabError> {
        if self.is_running() {
            return Ok(());
        }
        let log = File::create(self.log()).map_err(LabError::io(self.log()))?;
        let list = |dirs: Vec<PathBuf>| dirs.iter().map(|dir| dir.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let (limit, visible_limit) = cgroup::visible_limit(&self.lab.cgroups, &self.spec.name).unwrap_or_default();
        let [a, b, c, d] = self.spec.address.octets();
        let mut command = Command::new("setsid");
        command
            .args(["--fork", "sh", "-c", include_str!("boot.sh"), "kprov-lab-node"])
            .args(self.nspawn_args())
            .env("NODE_DIR", &self.dir)
            .env("LOOP_CGROUPS", list(cgroup::loop_dirs(&self.lab.cgroups, &self.spec.name)))
            .env("BOOT_CGROUPS", list(cgroup::boot_dirs(&self.lab.cgroups, &self.spec.name)))
            .env("LIMIT", limit)
            .env("VISIBLE_LIMIT", visible_limit)
            .env("LINK", self.link())
            .env("BRIDGE", self.lab.name.bridge())
            .env("MAC", format!("02:6b:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
            .env("ADDRESS", format!("{}/{}", self.spec.address, self.lab.subnet.prefix_len()))
            .env("GATEWAY", network::gateway(self.lab.subnet).to_string())
            // What systemd-nspawn takes from the environment only (systemd's docs/ENVIRONMENT.md).
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
            .env("SYSTEMD_NSPAWN_USE_CGNS", "1")
            .current_dir("/")
            .stderr(log);
        // Returns when the loop has closed its output: it has joined the node's cgroups then, or it has ended.
        output(&mut command).map(drop)
    }

    fn nspawn_args(&self) -> Vec<String> {
        let mut args: Vec<String> = [
            "--quiet",
            // As --boot has it: asks systemd to power off (systemd(1), SIGRTMIN+4).
            "--kill-signal=SIGRTMIN+4",
            // The machine may have no systemd to register with; cgroups and network are ours.
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            // A kubelet, containerd and runc do what a container usually may not.
            "--capability=all",
            "--system-call-filter=@known",
            "--bind=/dev/kmsg",
        ]
        .map(str::to_owned)
        .into();
        args.push(format!("--directory={}", self.root().display()));
        args.push(format!("--machine={}-{}", self.lab.name, self.spec.name));
        args.push(format!("--network-namespace-path=/run/netns/{}", self.link()));
        for volume in rootfs::VOLUMES {
            args.push(format!("--bind={}:/var/lib/{volume}", self.volume(volume).display()));
        }
        if Path::new("/lib/modules").is_dir() {
            args.push("--bind-ro=/lib/modules".into());
        }
        args.push(rootfs::INIT.into());
        args
    }

    /// Switches the node off as its power button would, and kills what is left after [`STOP_WITHIN`].
    pub fn stop(&self) -> Result<(), LabError> {
        // SIGTERM makes systemd-nspawn ask the node's PID 1 to power off (systemd-nspawn(1), --kill-signal).
        // It may have been killed, and the node be a child of the machine's own PID 1 by now.
        let ours = cgroup::pids(&self.lab.cgroups, &self.spec.name);
        if let Some(nspawn) = self.init().and_then(parent).filter(|pid| ours.contains(pid)) {
            signal(nspawn, Signal::TERM);
            let deadline = Instant::now() + STOP_WITHIN;
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.kill()?;
        network::unplug(&self.link())
    }

    /// Ends every process of the node, as a power failure would.
    pub fn kill(&self) -> Result<(), LabError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let pids = cgroup::pids(&self.lab.cgroups, &self.spec.name);
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let reason = format!("processes {pids:?} of node {} do not end", self.spec.name);
                return Err(LabError::Command { command: "kill".into(), reason });
            }
            pids.into_iter().for_each(|pid| signal(pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether any process of the node, its boot loop included, is there.
    pub fn is_running(&self) -> bool {
        !cgroup::pids(&self.lab.cgroups, &self.spec.name).is_empty()
    }

    /// The node's PID 1, as this process sees it.
    ///
    /// It is 1 in the one process namespace below ours; containers in the node are one further down.
    pub fn init(&self) -> Option<i32> {
        cgroup::pids(&self.lab.cgroups, &self.spec.name).into_iter().find(|pid| {
            let ids = status_field(*pid, "NSpid:").unwrap_or_default();
            let mut ids = ids.split_whitespace().skip(1);
            ids.next() == Some("1") && ids.next().is_none()
        })
    }

    pub fn link(&self) -> String {
        self.lab.name.link(&self.spec.name)
    }

    /// A file that says that the cable is to stay unplugged over a reboot.
    pub fn cut_mark(&self) -> PathBuf {
        self.dir.join("link-is-cut")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Where everything is that the node writes.
    fn storage(&self) -> PathBuf {
        if self.spec.disk.is_some() { disk::mounted(&self.dir) } else { self.dir.clone() }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.storage().join("volumes").join(name)
    }

    fn mount_root(&self) -> Result<(), LabError> {
        let (root, upper, work) = (self.root(), self.storage().join("upper"), self.storage().join("work"));
        for dir in [&root, &upper, &work] {
            fs::create_dir_all(dir).map_err(LabError::io(dir))?;
        }
        if mounts::is_mounted(&root)? {
            return Ok(());
        }
        let [lower, upper, work] = [&self.lab.rootfs, &upper, &work].map(|path| escape(path));
        let options = CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}"));
        let options = options.map_err(|error| LabError::io(&root)(error.into()))?;
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), options.as_c_str()).map_err(|error| {
            let reason = format!("{error} (is {lower} there, and {} not on an overlay itself?)", state::ROOT);
            LabError::Command { command: format!("mount -t overlay overlay {}", root.display()), reason }
        })
    }

    /// Gives a new disk its names and keys, once; `host_key.pub` in the node's directory says that it is done.
    fn identity(&self) -> Result<String, LabError> {
        let done = self.dir.join("host_key.pub");
        if let Ok(key) = fs::read_to_string(&done) {
            return Ok(key);
        }
        let etc = self.root().join("etc");
        let key = etc.join("ssh/ssh_host_ed25519_key");
        let _ = fs::remove_file(&key);
        output(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", &self.spec.name, "-f"]).arg(&key),
        )?;
        let random = "/proc/sys/kernel/random/uuid";
        let id = fs::read_to_string(random).map_err(LabError::io(random))?.replace('-', "");
        let NodeSpec { name, address, .. } = self.spec;
        let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {name}\n");
        for (file, contents) in
            [("machine-id", id), ("hostname", format!("{name}\n")), ("hosts", hosts), ("resolv.conf", resolv_conf()?)]
        {
            let path = etc.join(file);
            fs::write(&path, contents).map_err(LabError::io(&path))?;
        }
        let public = key.with_extension("pub");
        let public = fs::read_to_string(&public).map_err(LabError::io(&public))?;
        let public: Vec<_> = public.split_whitespace().take(2).collect();
        state::write_atomically(&done, public.join(" ").as_bytes())?;
        Ok(public.join(" "))
    }

    fn authorize(&self, user_key: &str) -> Result<(), LabError> {
        let dir = self.root().join("home").join(rootfs::USER).join(".ssh");
        let file = dir.join("authorized_keys");
        if fs::read_to_string(&file).is_ok_and(|keys| keys.contains(user_key)) {
            return Ok(());
        }
        fs::create_dir_all(&dir).map_err(LabError::io(&dir))?;
        state::write_atomically(&file, format!("{user_key}\n").as_bytes())?;
        for (path, mode) in [(&dir, 0o700), (&file, 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(LabError::io(path))?;
            chown(path, Some(rootfs::UID), Some(rootfs::UID)).map_err(LabError::io(path))?;
        }
        Ok(())
    }
}

pub fn directory(lab: &LabName, node: &str) -> PathBuf {
    state::directory(lab).join("nodes").join(node)
}

/// The machine's name servers; a stub that listens on the machine's loopback is of no use to a node.
fn resolv_conf() -> Result<String, LabError> {
    // systemd-resolved(8): the file that lists the servers behind the stub.
    let uplink = Path::new("/run/systemd/resolve/resolv.conf");
    let path = if uplink.exists() { uplink } else { Path::new("/etc/resolv.conf") };
    let text = fs::read_to_string(path).map_err(LabError::io(path))?;
    Ok(text.lines().filter(|line| !is_loopback_server(line)).flat_map(|line| [line, "\n"]).collect())
}

fn is_loopback_server(line: &str) -> bool {
    let server = line.trim().strip_prefix("nameserver").map(str::trim);
    server
        .is_some_and(|server| server == "::1" || server.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()))
}

/// Overlay options are separated by commas, lower directories by colons; a backslash takes that meaning away
/// (the kernel's Documentation/filesystems/overlayfs.rst).
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

fn parent(pid: i32) -> Option<i32> {
    status_field(pid, "PPid:")?.trim().parse().ok()
}

fn status_field(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

/// A process that has just ended is what was wanted.
fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_name_servers_are_dropped() {
        assert!(is_loopback_server("nameserver 127.0.0.53"));
        assert!(is_loopback_server(" nameserver  ::1"));
        assert!(!is_loopback_server("nameserver 10.0.0.2"));
        assert!(!is_loopback_server("search localdomain"));
    }

    #[test]
    fn overlay_options_are_escaped() {
        assert_eq!(escape(Path::new("/a,b:c\\d")), "/a\\,b\\:c\\\\d");
    }
}
