//! Host entries: `name`, `name:port`, `[address]:port`, with ranges such as `node[01:20]` or `rack-[a:f:2]`.
//!
//! Source: Ansible's user guide, "Adding ranges of hosts".

/// What one entry may grow to.
const MAX_HOSTS: usize = 65_536;

/// Expands an entry to its host names and its port. An error is a fragment that says what was expected.
pub fn expand(entry: &str) -> Result<(Vec<String>, Option<u16>), String> {
    let (pattern, port) = split_port(entry)?;
    let names = if pattern.contains('[') { expand_ranges(pattern)? } else { vec![pattern.to_owned()] };
    match names.iter().find(|name| !is_valid(name)) {
        Some(name) => {
            Err(format!("invalid host name: `{name}`; expected letters, digits, `-`, `_` and `.`, or an address"))
        }
        None => Ok((names, port)),
    }
}

fn split_port(entry: &str) -> Result<(&str, Option<u16>), String> {
    let Some((host, port)) = entry.rsplit_once(':') else { return Ok((entry, None)) };
    // Colons inside of brackets belong to a range or to an IPv6 address; so do those of a bare IPv6 address.
    if port.contains(']') || entry.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((entry, None));
    }
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) if !inner.contains('[') => inner,
        _ => host,
    };
    match port.parse() {
        Ok(port) if port > 0 => Ok((host, Some(port))),
        _ => Err(format!("invalid port after `:`: `{port}`; expected 1 to 65535")),
    }
}

fn expand_ranges(pattern: &str) -> Result<Vec<String>, String> {
    let Some((head, rest)) = pattern.split_once('[') else { return Ok(vec![pattern.to_owned()]) };
    let (range, tail) = rest.split_once(']').ok_or("the range lacks its `]`")?;
    let tails = expand_ranges(tail)?;
    let items = range_items(range)?;
    if items.len().saturating_mul(tails.len()) > MAX_HOSTS {
        return Err(format!("more than {MAX_HOSTS} hosts in one line"));
    }
    Ok(items.iter().flat_map(|item| tails.iter().map(move |tail| format!("{head}{item}{tail}"))).collect())
}

fn range_items(range: &str) -> Result<Vec<String>, String> {
    let bounds: Vec<&str> = range.split(':').collect();
    let (begin, end, step) = match bounds[..] {
        [begin, end] => (begin, end, "1"),
        [begin, end, step] => (begin, end, step),
        _ => return Err(format!("expected a range [begin:end] or [begin:end:step], found [{range}]")),
    };
    let step =
        step.parse::<usize>().ok().filter(|&n| n > 0).ok_or(format!("the step is not a number above 0: `{step}`"))?;
    let begin = if begin.is_empty() { "0" } else { begin };
    if end.is_empty() {
        return Err(format!("the range [{range}] lacks its end"));
    }
    let backwards = format!("the range [{range}] ends before it begins");
    if let (Some(first), Some(last)) = (letter(begin), letter(end)) {
        if first > last {
            return Err(backwards);
        }
        return Ok(LETTERS[first..=last].iter().step_by(step).map(|&b| char::from(b).to_string()).collect());
    }
    let number =
        |text: &str| text.parse::<usize>().map_err(|_| format!("expected two numbers or two letters in [{range}]"));
    let (first, last) = (number(begin)?, number(end)?);
    let width = if begin.len() > 1 && begin.starts_with('0') { begin.len() } else { 0 };
    if width > 0 && width != end.len() {
        return Err(format!("begin and end of [{range}] must be of one width, as in [01:20]"));
    }
    if first > last {
        return Err(backwards);
    }
    if (last - first) / step >= MAX_HOSTS {
        return Err(format!("more than {MAX_HOSTS} hosts in one line"));
    }
    Ok((first..=last).step_by(step).map(|n| format!("{n:0width$}")).collect())
}

/// Ranges of letters run from a to z and on from A to Z.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn letter(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b] => LETTERS.iter().position(|l| l == b),
        _ => None,
    }
}

/// Nothing that a shell, a pattern or an option parser could take for something else.
fn is_valid(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.parse::<std::net::IpAddr>().is_ok()
        || (name.chars().all(plain) && name.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(entry: &str) -> String {
        expand(entry).unwrap().0.join(" ")
    }

    #[test]
    fn ranges() {
        assert_eq!(names("n[1:3]"), "n1 n2 n3");
        assert_eq!(names("n[08:10].lab"), "n08.lab n09.lab n10.lab");
        assert_eq!(names("r[a:c]-[1:2]"), "ra-1 ra-2 rb-1 rb-2 rc-1 rc-2");
        assert_eq!(names("n[0:6:3]"), "n0 n3 n6");
        assert_eq!(names("n[:2]"), "n0 n1 n2");
        assert_eq!(names("10.0.0.[1:2]"), "10.0.0.1 10.0.0.2");
        for bad in ["n[1:", "n[1]", "n[3:1]", "n[c:a]", "n[01:100]", "n[1:9:0]", "n[a:3]", "n[1:]", "n[0:9999999]"] {
            assert!(expand(bad).is_err(), "{bad}");
        }
        assert!(expand("[0:999][0:999][0:999]").is_err());
    }

    #[test]
    fn ports_and_addresses() {
        let split = |entry| expand(entry).map(|(names, port)| (names.join(" "), port)).ok();
        assert_eq!(split("n1:2222"), Some(("n1".into(), Some(2222))));
        assert_eq!(split("n[1:2]:22"), Some(("n1 n2".into(), Some(22))));
        assert_eq!(split("[2001:db8::1]:22"), Some(("2001:db8::1".into(), Some(22))));
        assert_eq!(split("2001:db8::1"), Some(("2001:db8::1".into(), None)));
        for bad in ["n1:", "n1:0", "n1:70000", "n1:ssh", "-oProxyCommand=x", "a/b", "a b", "", "---"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
