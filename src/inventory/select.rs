//! Host patterns: `all`, `kube_node:!n3`, `etcd[0]`, `n*`, `~n[12]`, `@file`.
//!
//! Source: Ansible's user guide, "Patterns: targeting hosts and groups". Where Ansible warns that a pattern matches
//! nothing and goes on, this is an error.

use super::{Inventory, LOCALHOST};
use crate::source::{InputError, near_miss};
use globset::GlobBuilder;
use indexmap::IndexSet;

impl Inventory {
    /// The hosts that a pattern selects, in the order of the pattern and, within a group, of the inventory.
    ///
    /// Terms are separated by `,` (or `:` where none contains a comma). `!x` leaves hosts out, `&x` keeps only those in
    /// x, whatever the order of the terms. A group without hosts is no error; an unknown name is. `localhost` need not
    /// be in the inventory.
    pub fn select(&self, pattern: &str) -> Result<Vec<String>, InputError> {
        let mut regular = Vec::new();
        let mut intersections = Vec::new();
        let mut exclusions = Vec::new();
        for term in self.terms(pattern)? {
            match term.chars().next() {
                Some('!') => exclusions.push(term[1..].trim().to_owned()),
                Some('&') => intersections.push(term[1..].trim().to_owned()),
                _ => regular.push(term),
            }
        }
        if regular.is_empty() {
            if intersections.is_empty() && exclusions.is_empty() {
                return Err(InputError::new("the host pattern is empty").help("name a host or a group, or `all`"));
            }
            regular.push("all".into());
        }
        let mut hosts: IndexSet<String> = IndexSet::new();
        for term in &regular {
            hosts.extend(self.matches(term)?);
        }
        for term in &intersections {
            let keep: IndexSet<String> = self.matches(term)?.into_iter().collect();
            hosts.retain(|host| keep.contains(host));
        }
        for term in &exclusions {
            let drop: IndexSet<String> = self.matches(term)?.into_iter().collect();
            hosts.retain(|host| !drop.contains(host));
        }
        Ok(hosts.into_iter().collect())
    }

    /// Splits a pattern; `@file` stands for the lines of the file.
    fn terms(&self, pattern: &str) -> Result<Vec<String>, InputError> {
        let parts: Vec<&str> = if pattern.contains(',') {
            pattern.split(',').collect()
        } else if pattern.parse::<std::net::Ipv6Addr>().is_ok() || pattern.starts_with('@') {
            vec![pattern]
        } else {
            split_colons(pattern)
        };
        let mut terms = Vec::new();
        for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
            match part.strip_prefix('@') {
                None => terms.push(part.to_owned()),
                Some(file) => {
                    let source = crate::source::Source::open(file.as_ref())?;
                    terms.extend(source.text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
                }
            }
        }
        Ok(terms)
    }

    /// The hosts of one term without its `!` or `&`.
    fn matches(&self, term: &str) -> Result<Vec<String>, InputError> {
        if self.hosts.contains_key(term) {
            return Ok(vec![term.to_owned()]);
        }
        let (name, subscript) = subscript(term);
        let matcher = Matcher::new(name)?;
        let groups: Vec<&String> = self.groups.keys().filter(|group| matcher.matches(group)).collect();
        let mut found: IndexSet<&str> = groups.iter().flat_map(|group| self.hosts_of(group)).collect();
        if groups.is_empty() || name.starts_with('~') || name.contains(['.', '?', '*', '[']) {
            found.extend(self.hosts.keys().filter(|host| matcher.matches(host)).map(String::as_str));
        }
        if found.is_empty() && groups.is_empty() {
            if LOCALHOST.contains(&name) {
                return Ok(vec![name.to_owned()]);
            }
            let error = InputError::new(format!("no host or group matches `{name}`"));
            let names = self.groups.keys().chain(self.hosts.keys()).map(String::as_str);
            return Err(match near_miss(name, names) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help("`kprov inventory graph` shows what there is"),
            });
        }
        let found: Vec<String> = found.into_iter().map(str::to_owned).collect();
        let Some((start, end)) = subscript else { return Ok(found) };
        if found.is_empty() {
            return Ok(found);
        }
        let index = |i: i64| usize::try_from(if i < 0 { i + found.len() as i64 } else { i }).ok();
        let range = match end {
            None => index(start).and_then(|i| Some(vec![found.get(i)?.clone()])),
            Some(end) => index(start)
                .zip(index(end))
                .map(|(a, b)| found.iter().skip(a).take((b + 1).saturating_sub(a)).cloned().collect()),
        };
        range.ok_or_else(|| {
            InputError::new(format!(
                "no host has the index of `{term}`: {name} has {} hosts, counted from 0",
                found.len()
            ))
        })
    }
}

/// `:` separates terms, but not inside of brackets.
fn split_colons(pattern: &str) -> Vec<&str> {
    let mut depth = 0;
    pattern
        .split(move |c| {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => {}
            }
            c == ':' && depth <= 0
        })
        .collect()
}

/// Splits `group[0]`, `group[-1]`, `group[1:2]` and `group[1:]`; both ends count. A regular expression has none.
fn subscript(term: &str) -> (&str, Option<(i64, Option<i64>)>) {
    let parse = || {
        let (name, inner) = term.strip_suffix(']')?.rsplit_once('[')?;
        if name.is_empty() || term.starts_with('~') {
            return None;
        }
        match inner.split_once(':') {
            None => Some((name, (inner.parse().ok()?, None))),
            Some((start, "")) => Some((name, (start.parse().ok()?, Some(-1)))),
            Some((start, end)) => {
                let unsigned = |text: &str| text.parse::<u32>().ok().map(i64::from);
                Some((name, (unsigned(start)?, Some(unsigned(end)?))))
            }
        }
    };
    parse().map_or((term, None), |(name, range)| (name, Some(range)))
}

enum Matcher {
    Regex(fancy_regex::Regex),
    Glob(globset::GlobMatcher),
}

impl Matcher {
    fn new(name: &str) -> Result<Self, InputError> {
        match name.strip_prefix('~') {
            // Python's `match`: from the start, not to the end.
            Some(regex) => match fancy_regex::Regex::new(&format!("^(?:{regex})")) {
                Ok(regex) => Ok(Self::Regex(regex)),
                Err(error) => {
                    Err(InputError::new(format!("invalid regular expression in the host pattern `{name}`: {error}")))
                }
            },
            None => match GlobBuilder::new(&escape_braces(name)).backslash_escape(true).build() {
                Ok(glob) => Ok(Self::Glob(glob.compile_matcher())),
                Err(error) => Err(InputError::new(format!("invalid host pattern `{name}`: {error}"))),
            },
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(name).unwrap_or(false),
            Self::Glob(glob) => glob.is_match(name),
        }
    }
}

/// `{a,b}` is no pattern in Python's `fnmatch`.
fn escape_braces(name: &str) -> String {
    name.replace('{', "\\{").replace('}', "\\}")
}

#[cfg(test)]
mod tests {
    use crate::inventory::Inventory;
    use crate::vars::Vault;

    fn inventory() -> Inventory {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts.ini");
        let text = "[kube_control_plane]\nn1\nn2\nn3\n[kube_node]\nn3\nn4\nn5.lab\n[etcd:children]\nkube_control_plane\n\
                    [k8s_cluster:children]\nkube_control_plane\nkube_node\n[empty]\n[other]\n10.0.0.1\n2001:db8::1\n";
        std::fs::write(&file, text).unwrap();
        Inventory::load(&[file], &Vault::default()).unwrap()
    }

    #[test]
    fn patterns_select_as_in_ansible() {
        let inventory = inventory();
        // Checked against `ansible PATTERN --list-hosts` of ansible-core 2.19.14.
        let cases = [
            ("all", "10.0.0.1 2001:db8::1 n1 n2 n3 n4 n5.lab"),
            ("*", "10.0.0.1 2001:db8::1 n1 n2 n3 n4 n5.lab"),
            ("n4", "n4"),
            ("kube_node", "n3 n4 n5.lab"),
            ("etcd", "n1 n2 n3"),
            ("kube_node:kube_control_plane", "n3 n4 n5.lab n1 n2"),
            ("kube_node,n1", "n3 n4 n5.lab n1"),
            ("kube_node:&etcd", "n3"),
            ("k8s_cluster:!etcd", "n4 n5.lab"),
            ("!etcd:k8s_cluster", "n4 n5.lab"),
            ("!k8s_cluster", "10.0.0.1 2001:db8::1"),
            ("kube_node[0]", "n3"),
            ("kube_node[-1]", "n5.lab"),
            ("kube_node[1:]", "n4 n5.lab"),
            ("kube_node[0:1]:n1", "n3 n4 n1"),
            ("*.lab", "n5.lab"),
            ("~n[45]", "n4 n5.lab"),
            ("kube_*", "n1 n2 n3 n4 n5.lab"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("empty", ""),
            ("localhost", "localhost"),
            (" n1 , n2 ", "n1 n2"),
        ];
        for (pattern, expected) in cases {
            assert_eq!(inventory.select(pattern).unwrap().join(" "), expected, "{pattern}");
        }
    }

    #[test]
    fn a_limit_file_holds_one_term_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("retry");
        std::fs::write(&file, "n1\n\nn4\n!n1\n").unwrap();
        assert_eq!(inventory().select(&format!("@{}", file.display())).unwrap(), ["n4"]);
        assert!(inventory().select("@/nonexistent").is_err());
    }

    #[test]
    fn what_matches_nothing_is_an_error() {
        let error = inventory().select("kube_nodes").unwrap_err();
        assert_eq!(error.message, "no host or group matches `kube_nodes`");
        assert_eq!(error.help.as_deref(), Some("did you mean `kube_node`?"));
        for bad in ["", "x*", "~x(", "n1:!nope", "kube_node[7]", ",", "n1:&nope", "[", "~zz", "n[12]"] {
            assert!(inventory().select(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(pattern in "[n1-5a-z_.*?~!&:,\\[\\]@(){}\\\\é -]{0,20}") {
            let _ = inventory().select(&pattern);
        }
    }
}
