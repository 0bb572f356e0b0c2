//! The operating system: distribution, host name, service manager, who we are, the time.

use super::{Root, put};
use crate::value::{Map, Value};
use time::OffsetDateTime;

/// os-release's ID, Ansible's names of the distribution and of its family.
const DISTRIBUTIONS: [(&str, &str, &str); 22] = [
    ("almalinux", "AlmaLinux", "RedHat"),
    ("amzn", "Amazon", "RedHat"),
    ("arch", "Archlinux", "Archlinux"),
    ("centos", "CentOS", "RedHat"),
    ("debian", "Debian", "Debian"),
    ("fedora", "Fedora", "RedHat"),
    ("flatcar", "Flatcar", "Flatcar"),
    ("kylin", "Kylin Linux Advanced Server", "RedHat"),
    ("linuxmint", "Linux Mint", "Debian"),
    ("ol", "OracleLinux", "RedHat"),
    ("openEuler", "openEuler", "RedHat"),
    ("opensuse-leap", "openSUSE Leap", "Suse"),
    ("opensuse-tumbleweed", "openSUSE Tumbleweed", "Suse"),
    ("pop", "Pop!_OS", "Debian"),
    ("raspbian", "Raspbian", "Debian"),
    ("rhel", "RedHat", "RedHat"),
    ("rocky", "Rocky", "RedHat"),
    ("sles", "SLES", "Suse"),
    ("sle-micro", "SLES", "Suse"),
    ("ubuntu", "Ubuntu", "Debian"),
    ("uos", "Uos", "Debian"),
    ("alpine", "Alpine", "Alpine"),
];

pub(super) fn gather(root: &Root, facts: &mut Map) {
    let uname = rustix::system::uname();
    let nodename = uname.nodename().to_string_lossy().into_owned();
    let machine = uname.machine().to_string_lossy().into_owned();
    put(facts, "ansible_system", uname.sysname().to_string_lossy().into_owned());
    put(facts, "ansible_kernel", uname.release().to_string_lossy().into_owned());
    put(facts, "ansible_kernel_version", uname.version().to_string_lossy().into_owned());
    let architecture = if machine.len() == 4 && machine.starts_with('i') { "i386" } else { &machine };
    put(facts, "ansible_architecture", architecture);
    put(facts, "ansible_machine", machine);
    host_names(root, &nodename, facts);
    put(facts, "ansible_machine_id", root.line("etc/machine-id"));
    put(facts, "ansible_product_uuid", root.line("sys/class/dmi/id/product_uuid"));
    distribution(root, facts);
    put(facts, "ansible_pkg_mgr", package_manager(root));
    put(facts, "ansible_service_mgr", service_manager(root));
    put(facts, "ansible_selinux", selinux(root));
    let apparmor = root.line("sys/module/apparmor/parameters/enabled").as_deref() == Some("Y");
    let apparmor: Value = [("status", if apparmor { "enabled" } else { "disabled" })].into_iter().collect();
    put(facts, "ansible_apparmor", apparmor);
    user(root, facts);
    let uptime = root.line("proc/uptime").and_then(|line| line.split('.').next()?.parse::<i64>().ok());
    put(facts, "ansible_uptime_seconds", uptime);
}

fn host_names(root: &Root, nodename: &str, facts: &mut Map) {
    let short = nodename.split('.').next().unwrap_or_default();
    let fqdn = if nodename.contains('.') { None } else { canonical_name(&root.read("etc/hosts"), nodename) };
    let fqdn = fqdn.unwrap_or_else(|| nodename.to_owned());
    put(facts, "ansible_nodename", nodename);
    put(facts, "ansible_hostname", short);
    put(facts, "ansible_domain", fqdn.split_once('.').map_or("", |(_, domain)| domain));
    put(facts, "ansible_fqdn", fqdn);
}

/// The first name with a dot on the line of hosts(5) that has `name`.
fn canonical_name(hosts: &str, name: &str) -> Option<String> {
    hosts.lines().find_map(|line| {
        let names: Vec<&str> = line.split('#').next()?.split_whitespace().skip(1).collect();
        names.contains(&name).then(|| names.iter().find(|name| name.contains('.')).map(|name| (*name).to_owned()))?
    })
}

fn distribution(root: &Root, facts: &mut Map) {
    let text = match root.read("etc/os-release") {
        text if text.is_empty() => root.read("usr/lib/os-release"),
        text => text,
    };
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    };
    let id = field("ID").unwrap_or_default();
    let like = field("ID_LIKE").unwrap_or_default();
    let known = |id: &str| DISTRIBUTIONS.iter().find(|(known, ..)| *known == id);
    let name = known(&id).map(|(_, name, _)| (*name).to_owned()).or_else(|| field("NAME")).unwrap_or_default();
    let family = std::iter::once(id.as_str()).chain(like.split_whitespace()).find_map(known);
    let family = family.map_or(name.clone(), |(.., family)| (*family).to_owned());
    // Debian and CentOS leave the minor version out of os-release.
    let precise = match id.as_str() {
        "debian" => root.line("etc/debian_version").filter(|line| line.starts_with(|c: char| c.is_ascii_digit())),
        "centos" => root.line("etc/centos-release").and_then(|line| {
            let number = line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
            Some(number.split('.').take(2).collect::<Vec<_>>().join("."))
        }),
        _ => None,
    };
    let version = precise.or_else(|| field("VERSION_ID")).unwrap_or_default();
    let in_brackets = || field("VERSION")?.split_once('(')?.1.split_once(')').map(|(name, _)| name.to_owned());
    let release = field("VERSION_CODENAME").filter(|name| !name.is_empty()).or_else(in_brackets);
    put(facts, "ansible_distribution", name);
    put(facts, "ansible_distribution_version", version.as_str());
    put(facts, "ansible_distribution_major_version", version.split('.').next());
    put(facts, "ansible_distribution_release", release.unwrap_or_else(|| "NA".to_owned()));
    put(facts, "ansible_os_family", family);
}

fn package_manager(root: &Root) -> &'static str {
    let managers = [
        ("usr/bin/apt-get", "apt"),
        ("usr/bin/dnf", "dnf"),
        ("usr/bin/yum", "yum"),
        ("usr/bin/zypper", "zypper"),
        ("usr/bin/pacman", "pacman"),
        ("sbin/apk", "apk"),
    ];
    managers.iter().find(|(path, _)| root.exists(path)).map_or("unknown", |(_, name)| name)
}

fn service_manager(root: &Root) -> String {
    // sd_booted(3)
    if root.exists("run/systemd/system") {
        return "systemd".to_owned();
    }
    match root.line("proc/1/comm").as_deref() {
        None | Some("init") => "sysvinit".to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn selinux(root: &Root) -> Value {
    let Some(enforcing) = root.line("sys/fs/selinux/enforce") else {
        return [("status", "disabled")].into_iter().collect();
    };
    let config = root.read("etc/selinux/config");
    let setting = |name: &str| {
        let value = config.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map_or("unknown", str::trim).to_owned()
    };
    let mode = if enforcing == "1" { "enforcing" } else { "permissive" };
    let mut facts: Map = [("status", "enabled"), ("mode", mode)].map(|(k, v)| (k.to_owned(), v.into())).into();
    put(&mut facts, "config_mode", setting("SELINUX"));
    put(&mut facts, "type", setting("SELINUXTYPE"));
    put(&mut facts, "policyvers", root.line("sys/fs/selinux/policyvers").and_then(|v| v.parse::<i64>().ok()));
    facts.into()
}

fn user(root: &Root, facts: &mut Map) {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = root.read("etc/passwd");
    let entry =
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry.get(2) == Some(&&*uid));
    let field = |at: usize| entry.as_ref().and_then(|entry| entry.get(at)).copied();
    put(facts, "ansible_user_id", field(0).unwrap_or(&uid));
    put(facts, "ansible_user_uid", uid.parse::<i64>().unwrap_or_default());
    put(facts, "ansible_user_dir", field(5));
    put(facts, "ansible_user_shell", field(6));
}

/// The node's clock, as precise as a controller needs it to compare clocks.
pub(super) fn date_time(facts: &mut Map, kprov: &mut Map) {
    let now = OffsetDateTime::now_utc();
    let (date, (hour, minute, second)) = (now.date(), now.time().as_hms());
    let (year, month, day) = date.to_calendar_date();
    let pad = |n: u8| format!("{n:02}");
    let mut fields = Map::new();
    put(&mut fields, "epoch", now.unix_timestamp().to_string());
    put(&mut fields, "epoch_int", now.unix_timestamp());
    put(&mut fields, "iso8601", format!("{date}T{hour:02}:{minute:02}:{second:02}Z"));
    put(&mut fields, "date", date.to_string());
    put(&mut fields, "time", format!("{hour:02}:{minute:02}:{second:02}"));
    put(&mut fields, "year", format!("{year:04}"));
    put(&mut fields, "month", pad(month.into()));
    put(&mut fields, "day", pad(day));
    put(&mut fields, "hour", pad(hour));
    put(&mut fields, "minute", pad(minute));
    put(&mut fields, "second", pad(second));
    put(&mut fields, "tz", "UTC");
    put(&mut fields, "tz_offset", "+0000");
    put(facts, "ansible_date_time", fields);
    // Fits until the year 2262.
    put(kprov, "epoch_ns", i64::try_from(now.unix_timestamp_nanos()).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::super::tests::root;
    use super::*;

    fn distribution_of(files: &[(&str, &str)]) -> Vec<String> {
        let (_dir, root) = root(files);
        let mut facts = Map::new();
        distribution(&root, &mut facts);
        facts.values().map(ToString::to_string).collect()
    }

    #[test]
    fn distributions() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
                      VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let found = distribution_of(&[("etc/os-release", debian), ("etc/debian_version", "12.5\n")]);
        assert_eq!(found, ["Debian", "12.5", "12", "bookworm", "Debian"]);
        let rocky = "NAME=\"Rocky Linux\"\nVERSION=\"9.3 (Blue Onyx)\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\n";
        assert_eq!(distribution_of(&[("etc/os-release", rocky)]), ["Rocky", "9.3", "9", "Blue Onyx", "RedHat"]);
        let other = "NAME=\"My Linux\"\nID=my\nID_LIKE=\"ubuntu debian\"\nVERSION_ID=3.1\n";
        assert_eq!(distribution_of(&[("usr/lib/os-release", other)]), ["My Linux", "3.1", "3", "NA", "Debian"]);
    }

    #[test]
    fn canonical_names_come_from_hosts() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 node1.example.org node1 # me\n";
        assert_eq!(canonical_name(hosts, "node1").as_deref(), Some("node1.example.org"));
        assert_eq!(canonical_name(hosts, "node2"), None);
    }

    #[test]
    fn selinux_states() {
        let (_dir, plain) = root(&[]);
        assert_eq!(selinux(&plain).get("status"), Some(&"disabled".into()));
        let files =
            [("sys/fs/selinux/enforce", "1"), ("etc/selinux/config", "# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")];
        let (_dir, enforcing) = root(&files);
        let facts = selinux(&enforcing);
        assert_eq!(facts.get("mode"), Some(&"enforcing".into()));
        assert_eq!(facts.get("type"), Some(&"targeted".into()));
    }
}
