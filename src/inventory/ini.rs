//! INI inventories: sections of hosts, `:children` and `:vars`.
//!
//! Source: Ansible's `ini` inventory plugin. A host line is shell words; the values of its variables, like those of a
//! `:vars` section, are Python literals (`5`, `True`, `['a']`) and otherwise text.

use super::build::Builder;
use super::{hostname, literal};
use crate::source::{InputError, Source, Span, near_miss};
use crate::vars::{Var, VarMap};
use indexmap::IndexMap;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Hosts,
    Children,
    Vars,
}

/// Group names that were used before they were declared; a later section of the file may still declare them.
#[derive(Default)]
struct Pending {
    /// Child -> its parents, with the place of each line.
    children: IndexMap<String, Vec<(String, Span)>>,
    vars: IndexMap<String, Span>,
}

pub(super) fn read(source: &Arc<Source>, builder: &mut Builder) {
    let mut group = "ungrouped".to_owned();
    let mut kind = Kind::Hosts;
    // After a section header that makes no sense its lines make none either.
    let mut skip = false;
    let mut pending = Pending::default();
    let mut start = 0;
    for raw in source.text.split_inclusive('\n') {
        let at = start + (raw.len() - raw.trim_start().len());
        start += raw.len();
        let line = raw.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = Line { source, text: line, at };
        if line.is_header() {
            match line.header() {
                Ok((name, section)) => {
                    declare(builder, &mut pending, name, section, &line.span());
                    (group, kind, skip) = (name.to_owned(), section, false);
                }
                Err(error) => {
                    builder.error(error);
                    skip = true;
                }
            }
        } else if !skip {
            let result = match kind {
                Kind::Hosts => host_line(&line, &group, builder),
                Kind::Vars => vars_line(&line, &group, builder),
                Kind::Children => child_line(&line, &group, &mut pending, builder),
            };
            if let Err(error) = result {
                builder.error(error);
            }
        }
    }
    report(builder, &pending);
}

/// A line without the white space around it, and where it begins.
struct Line<'a> {
    source: &'a Arc<Source>,
    text: &'a str,
    at: usize,
}

impl<'a> Line<'a> {
    fn span(&self) -> Span {
        self.part(0, self.text.len())
    }

    fn part(&self, start: usize, end: usize) -> Span {
        self.source.span(self.at + start, self.at + end)
    }

    /// `[` also begins a host in brackets, which always has a port.
    fn is_header(&self) -> bool {
        self.text.starts_with('[') && !self.text.split_once(']').is_some_and(|(_, rest)| rest.starts_with(':'))
    }

    fn header(&self) -> Result<(&'a str, Kind), InputError> {
        let wrong = |message: &str| {
            InputError::at(&self.span(), message).help("expected [GROUP], [GROUP:children] or [GROUP:vars]")
        };
        let (inner, rest) = self.text[1..].split_once(']').ok_or_else(|| wrong("the section header lacks its `]`"))?;
        let rest = rest.trim_start();
        if !rest.is_empty() && !rest.starts_with('#') {
            return Err(wrong("unexpected text after the section header"));
        }
        let (name, kind) = inner.split_once(':').unwrap_or((inner, "hosts"));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong("invalid section header: a group name is one word"));
        }
        let kind = match kind {
            "hosts" => Kind::Hosts,
            "children" => Kind::Children,
            "vars" => Kind::Vars,
            other => {
                let error = wrong(&format!("unknown kind of section: {other}"));
                return Err(match near_miss(other, ["children", "hosts", "vars"]) {
                    Some(near) => error.help(format!("did you mean [{name}:{near}]?")),
                    None => error,
                });
            }
        };
        Ok((name, kind))
    }

    /// The words of the line as a POSIX shell splits them, each with its place. `#` begins a comment.
    fn words(&self) -> Result<Words, InputError> {
        let mut words = Words::default();
        let mut chars = self.text.char_indices().peekable();
        while let Some(&(start, c)) = chars.peek() {
            if c.is_whitespace() {
                chars.next();
                continue;
            }
            if c == '#' {
                break;
            }
            let mut text = String::new();
            let mut end = self.text.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    c if c.is_whitespace() => {
                        end = i;
                        break;
                    }
                    // Python's shlex takes `#` for a comment even inside of a word.
                    '#' => {
                        words.cut = Some(self.part(i, self.text.len()));
                        words.list.push((text, self.part(start, i)));
                        return Ok(words);
                    }
                    '\\' => match chars.next() {
                        Some((_, escaped)) => text.push(escaped),
                        None => return Err(InputError::at(&self.part(i, i + 1), "nothing follows the backslash")),
                    },
                    '\'' | '"' => loop {
                        match chars.next() {
                            None => {
                                let error = InputError::at(&self.part(i, self.text.len()), "the quote is not closed");
                                return Err(error.help(format!("add {c} at the end of the value")));
                            }
                            Some((_, close)) if close == c => break,
                            Some((_, '\\')) if c == '"' => match chars.next() {
                                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                                Some((_, other)) => text.extend(['\\', other]),
                                None => {}
                            },
                            Some((_, other)) => text.push(other),
                        }
                    },
                    other => text.push(other),
                }
            }
            words.list.push((text, self.part(start, end)));
        }
        Ok(words)
    }
}

#[derive(Default)]
struct Words {
    list: Vec<(String, Span)>,
    /// A comment that began inside of a word.
    cut: Option<Span>,
}

/// Notes a section header: `:vars` does not declare its group, the other kinds do.
fn declare(builder: &mut Builder, pending: &mut Pending, name: &str, kind: Kind, span: &Span) {
    if kind == Kind::Vars {
        if !builder.has_group(name) && !pending.children.contains_key(name) {
            pending.vars.insert(name.to_owned(), span.clone());
        }
        // The order of the groups is that of the first mention.
        builder.group(name);
        return;
    }
    builder.add_group(name, span);
    pending.vars.shift_remove(name);
    // Parents wait with their children: a child of a group that is itself still awaited is linked at once, since the
    // group exists from its own header on.
    for (parent, place) in pending.children.shift_remove(name).unwrap_or_default() {
        builder.add_child(&parent, name, &place);
    }
}

fn host_line(line: &Line<'_>, group: &str, builder: &mut Builder) -> Result<(), InputError> {
    let words = line.words()?;
    let mut list = words.list.into_iter();
    let Some((entry, span)) = list.next() else { return Ok(()) };
    if entry.contains('=') {
        return Err(InputError::at(&span, "expected a host name, found a variable")
            .help(format!("variables of a group stand under [{group}:vars]")));
    }
    let (names, port) = hostname::expand(&entry).map_err(|message| InputError::at(&span, message))?;
    let mut vars = VarMap::new();
    for (word, at) in list {
        let Some((name, value)) = word.split_once('=') else {
            let error = InputError::at(&at, format!("expected name=value, found `{word}`"));
            return Err(error.help("one host a line; no spaces around `=`; quote a value with spaces"));
        };
        check_name(name, &at)?;
        vars.insert(name.to_owned(), Var::at(literal::value(value), at));
    }
    if let Some(cut) = words.cut {
        let warning = InputError::at(&cut, "`#` begins a comment here, in the middle of a word");
        builder.warnings.push(warning.help("quote the value if the `#` belongs to it"));
    }
    builder.add_hosts(&names, port, &vars, group, Some(&line.source.path), Some(&span));
    Ok(())
}

fn vars_line(line: &Line<'_>, group: &str, builder: &mut Builder) -> Result<(), InputError> {
    let Some((name, value)) = line.text.split_once('=') else {
        let error = InputError::at(&line.span(), format!("expected name=value in [{group}:vars]"));
        return Err(if line.text.contains(':') { error.help("write `=`, not `:`") } else { error });
    };
    let name = name.trim_end();
    check_name(name, &line.part(0, name.len().max(1)))?;
    builder.set_group_var(group, name, Var::at(literal::value(value.trim()), line.span()));
    Ok(())
}

fn child_line(line: &Line<'_>, group: &str, pending: &mut Pending, builder: &mut Builder) -> Result<(), InputError> {
    let name = line.text.split('#').next().unwrap_or_default().trim_end();
    let span = line.part(0, name.len());
    if name.contains(|c: char| c.is_whitespace() || c == ':' || c == ']') {
        return Err(InputError::at(&span, format!("expected one group name, found `{name}`"))
            .help(format!("[{group}:children] lists groups, one a line")));
    }
    if builder.has_group(name) {
        builder.add_child(group, name, &span);
    } else {
        pending.children.entry(name.to_owned()).or_default().push((group.to_owned(), span));
    }
    Ok(())
}

fn check_name(name: &str, span: &Span) -> Result<(), InputError> {
    if name.is_empty() {
        return Err(InputError::at(span, "the name before `=` is missing").help("no spaces around `=`"));
    }
    if !crate::vars::is_valid_name(name) {
        return Err(
            InputError::at(span, format!("invalid variable name: `{name}`")).help("use letters, digits and `_`")
        );
    }
    Ok(())
}

/// Reports what the file used and did not declare.
fn report(builder: &mut Builder, pending: &Pending) {
    let children =
        pending.children.iter().flat_map(|(name, parents)| parents.iter().map(move |(parent, at)| (name, parent, at)));
    let errors: Vec<InputError> = children
        .map(|(name, parent, at)| (InputError::at(at, format!("undefined group: {name} (a child of {parent})")), name))
        .chain(pending.vars.iter().map(|(name, at)| (InputError::at(at, format!("undefined group: {name}")), name)))
        .map(|(error, name)| match near_miss(name, builder.group_names().filter(|group| *group != name)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("declare it: [{name}]")),
        })
        .collect();
    builder.errors.extend(errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Inventory;
    use crate::source::InputErrors;
    use proptest::prelude::*;

    fn load(text: &str) -> Result<Inventory, InputErrors> {
        let mut builder = Builder::new();
        read(&Source::new("hosts.ini", text), &mut builder);
        builder.finish()
    }

    fn errors(text: &str) -> Vec<String> {
        let show = |error: &InputError| {
            let at = error.span.as_ref().map_or("-".into(), |span| format!("{}:{}", span.line(), span.column()));
            let help = error.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
            format!("{at} {}{help}", error.message)
        };
        load(text).unwrap_err().0.iter().map(show).collect()
    }

    #[test]
    fn a_group_may_be_declared_after_its_use() {
        let inventory = load("[k8s_cluster:children]\nkube_node\n[kube_node:vars]\nx = 1\n[kube_node]\nn1\n").unwrap();
        assert_eq!(inventory.hosts_of("k8s_cluster"), ["n1"]);
        assert_eq!(inventory.groups["kube_node"].depth, 2);
        assert_eq!(inventory.group_names("n1"), ["k8s_cluster", "kube_node"]);
        assert!(inventory.groups["kube_node"].vars.contains_key("x"));
    }

    #[test]
    fn deeper_groups_and_higher_priorities_come_last() {
        let text = "[b]\nn1\n[a]\nn1\n[c]\nn1\n[p:children]\na\n[b:vars]\nansible_group_priority=5\n";
        let inventory = load(text).unwrap();
        let order: Vec<&str> = inventory.groups_of("n1").into_iter().map(|group| group.name.as_str()).collect();
        assert_eq!(order, ["all", "c", "p", "b", "a"]);
        assert!(!inventory.groups["b"].vars.contains_key("ansible_group_priority"));
    }

    #[test]
    fn a_comment_inside_of_a_word_is_a_warning() {
        let inventory = load("n1 ansible_become_pass=se#cret\n").unwrap();
        assert_eq!(inventory.warnings[0].span.as_ref().unwrap().column(), 26);
        assert_eq!(inventory.hosts["n1"].vars["ansible_become_pass"].value.as_str(), Some("se"));
    }

    #[test]
    fn every_mistake_points_at_its_place() {
        let cases = [
            (
                "n1 a = 1",
                "1:4 expected name=value, found `a` | one host a line; no spaces around `=`; quote a value with spaces",
            ),
            ("n1 =1", "1:4 the name before `=` is missing | no spaces around `=`"),
            ("n1 a='x", "1:6 the quote is not closed | add ' at the end of the value"),
            ("n1 a-b=1", "1:4 invalid variable name: `a-b` | use letters, digits and `_`"),
            ("a=1", "1:1 expected a host name, found a variable | variables of a group stand under [ungrouped:vars]"),
            ("n[3:1]", "1:1 the range [3:1] ends before it begins"),
            ("---\nn1", "1:1 invalid host name: `---`; expected letters, digits, `-`, `_` and `.`, or an address"),
            ("[a", "1:1 the section header lacks its `]` | expected [GROUP], [GROUP:children] or [GROUP:vars]"),
            ("[a:childern]", "1:1 unknown kind of section: childern | did you mean [a:children]?"),
            (
                "n1\n[a:children]\nn2 x=1",
                "3:1 expected one group name, found `n2 x=1` | [a:children] lists groups, one a line",
            ),
            (
                "n1\n[kube_node]\n[a:children]\nkube_nod",
                "4:1 undefined group: kube_nod (a child of a) | did you mean `kube_node`?",
            ),
            ("n1\n[nope:vars]\nx=1", "2:1 undefined group: nope | declare it: [nope]"),
            ("n1\n[a]\n[a:vars]\nx: 1", "4:1 expected name=value in [a:vars] | write `=`, not `:`"),
            ("n1\n[a:children]\na", "3:1 group a cannot contain itself | remove one of the two memberships"),
            (
                "n1\n[a]\n[b]\n[a:children]\nb\n[b:children]\na",
                "7:1 groups contain each other: a is already above b | remove one of the two memberships",
            ),
            (
                "[kube-master]\nn1",
                "1:1 group kube-master is called kube_control_plane now | rename the group to kube_control_plane",
            ),
            ("[a]\nn1\n[a:vars]\nansible_group_priority=x", "4:1 ansible_group_priority must be an integer, found x"),
            ("[a]", "- the inventory has no hosts | list at least one host, or name another file with -i"),
        ];
        for (text, expected) in cases {
            assert_eq!(errors(text), [expected], "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        assert_eq!(errors("n1 a\n[b:children]\nc\n[d\nskipped = x y\n[e]\nn:x\n").len(), 4);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]a-c:=\"'#;\\\\0-2 \\t\\n\\ré,{}-]{0,80}") {
            let _ = load(&text);
        }

        #[test]
        fn values_of_host_lines_round_trip(words in proptest::collection::vec("[ -~é]{0,15}", 1..4)) {
            // A POSIX shell word in single quotes, around a Python literal.
            let line: String = words.iter().enumerate()
                .map(|(i, word)| {
                    let literal = format!("'{}'", word.replace('\\', "\\\\").replace('\'', "\\'"));
                    format!(" v{i}='{}'", literal.replace('\'', "'\"'\"'"))
                })
                .collect();
            let inventory = load(&format!("n1{line}\n")).unwrap();
            for (i, word) in words.iter().enumerate() {
                prop_assert_eq!(inventory.hosts["n1"].vars[&format!("v{i}")].value.as_str(), Some(word.as_str()));
            }
        }
    }
}
