//! A real sshd on loopback with its own configuration, host key and authorized key; gone with the value.

use kprov::transport::{Connection, HostKeys, Target};
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Sshd {
    directory: TempDir,
    child: Child,
    pub address: String,
    pub port: u16,
}

impl Sshd {
    pub fn start() -> Self {
        Self::start_with("127.0.0.1", "")
    }

    /// Starts one on another loopback address, so that it counts as another host.
    pub fn start_at(address: &str) -> Self {
        Self::start_with(address, "")
    }

    /// Starts one with further lines of sshd_config(5).
    pub fn start_with(address: &str, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        keygen(&directory.path().join("host_key"));
        keygen(&directory.path().join("user_key"));
        fs::copy(directory.path().join("user_key.pub"), directory.path().join("authorized_keys")).unwrap();
        // sshd wants it for privilege separation; systemd makes it where sshd runs as a service.
        let _ = fs::create_dir("/run/sshd");
        let (child, port) = serve(directory.path(), address, None, config);
        let sshd = Self { directory, child, address: address.to_owned(), port };
        sshd.know(&sshd.public_host_key());
        sshd
    }

    /// Stops it and starts it again on the same port with another host key.
    pub fn change_host_key(&mut self) {
        self.stop();
        for name in ["host_key", "host_key.pub"] {
            fs::remove_file(self.path(name)).unwrap();
        }
        keygen(&self.path("host_key"));
        (self.child, self.port) = serve(self.directory.path(), &self.address, Some(self.port), "");
    }

    /// Stops listening and ends every session.
    pub fn stop(&mut self) {
        // Once it has ended, its number may be another process's.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_sessions();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Ends the connections as a dying link would: the processes that hold them are killed.
    pub fn kill_sessions(&self) {
        for pid in children(self.child.id()) {
            kill(pid);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn public_host_key(&self) -> String {
        fs::read_to_string(self.path("host_key.pub")).unwrap().trim().to_owned()
    }

    /// Writes the known_hosts file: this host has that key.
    pub fn know(&self, key: &str) {
        fs::write(self.path("known_hosts"), format!("[{}]:{} {key}\n", self.address, self.port)).unwrap();
    }

    pub fn know_nothing(&self) {
        fs::write(self.path("known_hosts"), "").unwrap();
    }

    /// How to reach it as the user who runs the tests. No file of that user's own is read.
    pub fn target(&self, connection: Connection) -> Target {
        fs::write(self.path("ssh_config"), "IdentityAgent none\n").unwrap();
        Target {
            host: "n1".to_owned(),
            connection,
            address: self.address.clone(),
            port: Some(self.port),
            user: Some(me()),
            private_key: Some(self.path("user_key")),
            known_hosts: vec![self.path("known_hosts")],
            host_keys: HostKeys::Strict,
            ssh_config: Some(self.path("ssh_config")),
            options: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            escalation: None,
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(directory: &Path, address: &str, port: Option<u16>, more: &str) -> (Child, u16) {
    let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists());
    let sshd = sshd.expect("these tests need sshd (Debian: openssh-server)");
    for _ in 0..5 {
        let port = port.unwrap_or_else(|| TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port());
        let config = format!(
            "Port {port}\nListenAddress {address}\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys .ssh/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nMaxStartups 100\nAllowTcpForwarding yes\n{more}\n",
            directory.display()
        );
        fs::write(directory.join("sshd_config"), config).unwrap();
        let log = fs::File::create(directory.join("sshd.log")).unwrap();
        let mut child = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(directory.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        if answers(&mut child, address, port) {
            return (child, port);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("sshd does not start: {}", fs::read_to_string(directory.join("sshd.log")).unwrap_or_default());
}

/// Waits for the banner; false when sshd has ended (another process took the port).
fn answers(child: &mut Child, address: &str, port: u16) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect((address, port)) {
            let mut banner = [0; 4];
            if stream.read_exact(&mut banner).is_ok() && &banner == b"SSH-" {
                return child.try_wait().unwrap().is_none();
            }
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

pub fn keygen(path: &Path) {
    let done =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(path).status();
    assert!(done.expect("these tests need ssh-keygen (Debian: openssh-client)").success());
}

/// Runs of one account on one machine hold one lock, whatever they call the host.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn me() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // pid (comm) state ppid …
        let ppid = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if ppid == Some(parent) {
            found.push(pid);
        }
    }
    found
}

pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// A user of this machine for one test, with a password and the key of an [`Sshd`]. Needs root.
pub struct User {
    pub name: String,
    pub home: PathBuf,
}

impl User {
    pub const PASSWORD: &str = "correct horse battery staple";

    /// Whether this process may make users. Tests that need them say that they were left out.
    #[expect(clippy::print_stderr, reason = "a test that is left out says so")]
    pub fn possible() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("left out: makes a user, which needs root");
        }
        root
    }

    pub fn create(sshd: &Sshd, name: &str) -> Self {
        let name = format!("kt-{name}-{}", std::process::id());
        let home = PathBuf::from("/home").join(&name);
        // Nothing but -m makes the home, and it is removed with the user.
        run(Command::new("useradd").args(["-m", "-s", "/bin/sh", "-d"]).arg(&home).arg(&name), "");
        let user = Self { name, home };
        run(&mut Command::new("chpasswd"), &format!("{}:{}\n", user.name, Self::PASSWORD));
        let ssh = user.home.join(".ssh");
        fs::create_dir(&ssh).unwrap();
        fs::copy(sshd.path("user_key.pub"), ssh.join("authorized_keys")).unwrap();
        fs::set_permissions(ssh.join("authorized_keys"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        user
    }

    /// Gives the user rules of sudoers(5).
    pub fn sudoers(&self, rules: &str) {
        let file = self.sudoers_file();
        fs::write(&file, rules.replace("USER", &self.name)).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o440)).unwrap();
        run(Command::new("visudo").arg("-qcf").arg(&file), "");
    }

    fn sudoers_file(&self) -> PathBuf {
        PathBuf::from("/etc/sudoers.d").join(&self.name)
    }

    pub fn target(&self, sshd: &Sshd, connection: Connection) -> Target {
        Target { user: Some(self.name.clone()), ..sshd.target(connection) }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.sudoers_file());
        let _ = Command::new("userdel").args(["-r", "-f"]).arg(&self.name).stderr(Stdio::null()).status();
    }
}

/// Runs a program that has to succeed.
pub fn run(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}
