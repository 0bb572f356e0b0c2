//! Packages of the distribution: Debian's and Red Hat's families; with an overlay when planning.
//!
//! What is installed is read from the database of dpkg or rpm, in one call for all names. Changes go through apt-get or dnf
//! (yum), which never ask, and wait for the lock that another run of them holds. Repositories are files and not here.

use super::process::{execute, last_lines};
use super::{Command, Mode, Output, Result, SystemError};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long apt waits for another run of it; the same for its two locks. dnf waits for ever.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);

/// Which tools the node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    Apt,
    /// The program's name: `dnf` or `yum`.
    Rpm(&'static str),
}

/// How packages are installed or removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackageOptions {
    /// `None` is what the manager is configured to do.
    pub install_recommends: Option<bool>,
    /// For removal: configuration files too.
    pub purge: bool,
}

/// The node's packages.
pub struct Packages {
    /// `None` where changes are real. Planned versions by name; `None` in it is removed.
    overlay: Option<BTreeMap<String, Option<String>>>,
}

impl Packages {
    pub(super) fn new(mode: Mode) -> Self {
        Self { overlay: (mode == Mode::Plan).then(BTreeMap::new) }
    }

    /// Whether packages would have been installed or removed.
    pub(super) fn planned(&self) -> bool {
        self.overlay.as_ref().is_some_and(|overlay| !overlay.is_empty())
    }

    pub fn manager(&self) -> Result<Manager> {
        let has = |path: &str| Path::new(path).exists();
        if has("/usr/bin/apt-get") {
            return Ok(Manager::Apt);
        }
        ["dnf", "yum"].into_iter().find(|name| has(&format!("/usr/bin/{name}"))).map(Manager::Rpm).ok_or_else(|| {
            SystemError::Other("this host has neither apt-get nor dnf nor yum: packages cannot be managed".to_owned())
        })
    }

    /// The installed version of each package, `None` where it is not installed. A name that another installed package
    /// provides counts as installed.
    pub fn installed(&self, names: &[String]) -> Result<Vec<Option<String>>> {
        let planned = |name: &String| self.overlay.as_ref().and_then(|overlay| overlay.get(name).cloned());
        let found = match self.manager()? {
            Manager::Apt => dpkg(names)?,
            Manager::Rpm(_) => rpm(names)?,
        };
        Ok(names.iter().map(|name| planned(name).unwrap_or_else(|| found.get(name).cloned())).collect())
    }

    /// The newest version that the package lists have, for each package that they have a newer one of. Of one that is not
    /// installed it is the one that would be, where the manager can say so without fetching its lists (apt).
    pub fn upgrades(&self, names: &[String]) -> Result<BTreeMap<String, String>> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut upgrades = match self.manager()? {
            Manager::Apt => {
                // Without files for its cache apt keeps it in memory: looking leaves nothing behind.
                let argv =
                    ["apt-cache", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "policy", "--"];
                parse_policy(&execute(&with_names(argv, names), None)?.checked()?.stdout)
            }
            Manager::Rpm(program) => {
                // A plan leaves dnf's cache alone.
                let cached = self.overlay.is_some().then_some("--cacheonly");
                let argv = [program, "--quiet"].into_iter().chain(cached).chain(["check-update"]);
                let check = execute(&with_names(argv, names), None)?;
                match check.code {
                    // dnf(8): 100 means that there are updates
                    100 => parse_check_update(&check.stdout),
                    _ => {
                        check.checked()?;
                        BTreeMap::new()
                    }
                }
            }
        };
        let planned = |name: &String| self.overlay.as_ref().is_some_and(|overlay| overlay.contains_key(name));
        upgrades.retain(|name, _| !planned(name));
        Ok(upgrades)
    }

    /// How long ago the package lists were fetched; `None`: never, or the manager sees to it itself (dnf).
    pub fn lists_age(&self) -> Result<Option<Duration>> {
        if self.manager()? != Manager::Apt {
            return Ok(None);
        }
        let stamps = ["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists"];
        let times = stamps.iter().filter_map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok());
        Ok(times.max().map(|time| SystemTime::now().duration_since(time).unwrap_or_default()))
    }

    /// Fetches the package lists.
    pub fn update(&mut self) -> Result<()> {
        if self.overlay.is_some() {
            return Ok(());
        }
        match self.manager()? {
            Manager::Apt => apt(["update"], &[]).map(drop),
            Manager::Rpm(program) => {
                execute(&Command::new([program, "--assumeyes", "makecache"]), None)?.checked().map(drop)
            }
        }
    }

    /// Installs the packages, or brings them to their newest version.
    pub fn install(&mut self, names: &[String], options: &PackageOptions) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            // The version is whatever the repository has by then.
            overlay.extend(names.iter().map(|name| (name.clone(), Some(String::new()))));
            return Ok(());
        }
        match self.manager()? {
            Manager::Apt => {
                let recommends = options.install_recommends.map(|yes| format!("APT::Install-Recommends={yes}"));
                let install = || {
                    let recommends = recommends.iter().flat_map(|option| ["-o", option]);
                    apt(["install"].into_iter().chain(recommends), names).map(drop)
                };
                match install() {
                    // Lists that a killed run has fetched in part look fresh.
                    Err(SystemError::Program { stderr, .. }) if is_for_want_of_lists(&stderr) => {
                        apt(["update"], &[])?;
                        install()
                    }
                    done => done,
                }
            }
            Manager::Rpm(program) => {
                let weak = options.install_recommends.map(|yes| format!("--setopt=install_weak_deps={yes}"));
                let argv = [program, "--assumeyes", "install"].into_iter().chain(weak.as_deref());
                execute(&with_names(argv, names), None)?.checked().map(drop)
            }
        }
    }

    pub fn remove(&mut self, names: &[String], options: &PackageOptions) -> Result<()> {
        if let Some(overlay) = &mut self.overlay {
            overlay.extend(names.iter().map(|name| (name.clone(), None)));
            return Ok(());
        }
        match self.manager()? {
            Manager::Apt => apt([if options.purge { "purge" } else { "remove" }], names).map(drop),
            Manager::Rpm(program) => {
                execute(&with_names([program, "--assumeyes", "remove"], names), None)?.checked().map(drop)
            }
        }
    }
}

fn with_names<'a>(argv: impl IntoIterator<Item = &'a str>, names: &'a [String]) -> Command {
    Command::new(argv.into_iter().chain(names.iter().map(String::as_str)))
}

/// Runs apt-get without questions. Finishes first what a killed run of dpkg has left half done.
fn apt<'a>(argv: impl IntoIterator<Item = &'a str>, names: &'a [String]) -> Result<Output> {
    let options = ["DPkg::Lock::Timeout=120", "Dpkg::Options::=--force-confdef", "Dpkg::Options::=--force-confold"];
    let options = options.into_iter().flat_map(|option| ["-o", option]);
    let argv = ["apt-get", "--yes", "--quiet"].into_iter().chain(options).chain(argv);
    let command = quiet(with_names(argv, names));
    let started = Instant::now();
    let mut configured = false;
    loop {
        let output = execute(&command, None)?;
        let said = &output.stderr;
        if !output.success() && said.contains("dpkg --configure -a") && !configured {
            configured = true;
            execute(
                &quiet(Command::new(["dpkg", "--force-confdef", "--force-confold", "--configure", "--pending"])),
                None,
            )?
            .checked()?;
        } else if !output.success() && said.contains("/var/lib/apt/lists/lock") && started.elapsed() < LOCK_TIMEOUT {
            // The timeout above is for dpkg's lock only.
            std::thread::sleep(Duration::from_millis(500));
        } else if output.success() {
            return Ok(output);
        } else {
            let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("E: ")).collect();
            let stderr = if errors.is_empty() { last_lines(said, 3) } else { last_lines(&errors.join("\n"), 3) };
            let status = format!("exit code {}", output.code);
            return Err(SystemError::Program { program: "apt-get".to_owned(), status, stderr });
        }
    }
}

/// Whether apt-get did not know a package, or looked for it where it is no longer.
fn is_for_want_of_lists(errors: &str) -> bool {
    ["Unable to locate package", "has no installation candidate", "Failed to fetch"].iter().any(|e| errors.contains(e))
}

/// No questions from debconf and needrestart, and no restarts that the latter thinks of.
fn quiet(command: Command) -> Command {
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1")
}

/// Versions of what is installed, by the name that was asked for.
fn dpkg(names: &[String]) -> Result<BTreeMap<String, String>> {
    let format = "--showformat=${db:Status-Status}\\t${Package}\\t${Architecture}\\t${Version}\\t${Provides}\\n";
    // Names that are not there make it fail, after it has told of the others.
    let output = execute(&with_names(["dpkg-query", "--show", format, "--"], names), None)?;
    let mut found = parse_dpkg(&output.stdout, names);
    if names.iter().any(|name| !found.contains_key(name)) {
        let all = execute(&Command::new(["dpkg-query", "--show", format]), None)?.checked()?;
        for (name, version) in parse_dpkg(&all.stdout, names) {
            found.entry(name).or_insert(version);
        }
    }
    Ok(found)
}

fn parse_dpkg(text: &str, names: &[String]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let [status, package, architecture, version, provides] = line.split('\t').collect::<Vec<_>>()[..] else {
            continue;
        };
        if !matches!(status, "installed" | "triggers-pending" | "triggers-awaited") {
            continue;
        }
        let qualified = format!("{package}:{architecture}");
        // mail-transport-agent, awk (= 1:2.0)
        let provided = provides.split(',').filter_map(|entry| entry.split_whitespace().next());
        let provided: Vec<&str> = provided.map(|name| name.split(':').next().unwrap_or(name)).collect();
        for name in names {
            if name == package || *name == qualified {
                found.insert(name.clone(), version.to_owned());
            } else if provided.contains(&name.as_str()) {
                found.entry(name.clone()).or_insert_with(|| version.to_owned());
            }
        }
    }
    found
}

fn rpm(names: &[String]) -> Result<BTreeMap<String, String>> {
    let format = "--queryformat=%{VERSION}-%{RELEASE}\\n";
    let mut found = BTreeMap::new();
    for name in names {
        for query in [&["rpm", "--query", format, "--", name][..], &["rpm", "--query", format, "--whatprovides", name]]
        {
            let output = execute(&Command::new(query.iter().copied()), None)?;
            // Of several installed versions (kernels) the last is the newest.
            if let (true, Some(version)) = (output.success(), output.stdout.lines().last()) {
                found.insert(name.clone(), version.to_owned());
                break;
            }
        }
    }
    Ok(found)
}

/// Candidates of `apt-cache policy` that are other than what is installed.
fn parse_policy(text: &str) -> BTreeMap<String, String> {
    let mut upgrades = BTreeMap::new();
    let (mut name, mut installed) = (String::new(), String::new());
    for line in text.lines() {
        if let (false, Some(package)) = (line.starts_with(' '), line.strip_suffix(':')) {
            name = package.to_owned();
        } else if let Some(version) = line.strip_prefix("  Installed: ") {
            installed = version.to_owned();
        } else if let Some(candidate) = line.strip_prefix("  Candidate: ")
            && candidate != "(none)"
            && candidate != installed
        {
            upgrades.insert(name.clone(), candidate.to_owned());
        }
    }
    upgrades
}

/// `kernel.x86_64   5.14.0-503   baseos`, up to the list of packages that replace others.
fn parse_check_update(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().take_while(|line| !line.starts_with("Obsoleting"));
    let upgrade = |line: &str| {
        let mut words = line.split_whitespace();
        let (package, version, _repository) = (words.next()?, words.next()?, words.next()?);
        Some((package.rsplit_once('.')?.0.to_owned(), version.to_owned()))
    };
    lines.filter_map(upgrade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
        names.map(str::to_owned).to_vec()
    }

    #[test]
    fn installed_packages_and_what_they_provide() {
        let text = "installed\tmawk\tamd64\t1.3.4-3\tawk\nconfig-files\tntp\tamd64\t1:4.2\t\n\
                    installed\tlibc6\ti386\t2.36\tlibc6-2.36 (= 2.36), libfoo:i386 (= 1)\n";
        let asked = names(["mawk", "awk", "ntp", "libc6:i386", "libc6-2.36", "libfoo", "libc6:amd64"]);
        let found = parse_dpkg(text, &asked);
        let found: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(found, ["awk", "libc6-2.36", "libc6:i386", "libfoo", "mawk"]);
    }

    #[test]
    fn newer_versions() {
        let policy = "curl:\n  Installed: 7.88.1-10\n  Candidate: 7.88.1-12\n  Version table:\n     7.88.1-12 500\n\
                      mawk:\n  Installed: 1.3.4-3\n  Candidate: 1.3.4-3\nghost:\n  Installed: (none)\n  Candidate: (none)\n";
        let expected = BTreeMap::from([("curl".to_owned(), "7.88.1-12".to_owned())]);
        assert_eq!(parse_policy(policy), expected);
        let check = "\ncurl.x86_64      7.76.1-31.el9     baseos\nkernel-core.x86_64 5.14.0-503 baseos\n\
                     Obsoleting Packages\nnew.noarch 1-1 baseos\n    old.noarch 0-1 @System\n";
        let found = parse_check_update(check);
        assert_eq!(found.len(), 2);
        assert_eq!(found["kernel-core"], "5.14.0-503");
    }

    #[test]
    fn planned_packages() {
        let mut packages = Packages::new(Mode::Plan);
        if packages.manager().is_err() {
            return;
        }
        let name = names(["kprov-no-such-package"]);
        assert_eq!(packages.installed(&name).unwrap(), [None]);
        packages.install(&name, &PackageOptions::default()).unwrap();
        assert!(packages.installed(&name).unwrap()[0].is_some() && packages.planned());
        packages.remove(&name, &PackageOptions::default()).unwrap();
        assert_eq!(packages.installed(&name).unwrap(), [None]);
    }
}
