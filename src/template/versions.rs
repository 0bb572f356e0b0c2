//! Comparison of versions, in the ways of Ansible's `version` test.

use std::cmp::Ordering;

/// A piece of a loose version. Numbers and words have no order in Python; here words come first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Word(String),
    Number(u64),
}

/// Compares two versions; `kind` is loose, strict, semver (or semantic) or pep440.
pub(super) fn compare(left: &str, right: &str, kind: &str) -> Result<Ordering, String> {
    match kind {
        "loose" => Ok(loose(left).cmp(&loose(right))),
        "strict" => Ok(strict(left)?.cmp(&strict(right)?)),
        "semver" | "semantic" => Ok(semantic(left)?.cmp(&semantic(right)?)),
        "pep440" => Ok(pep440(left)?.cmp(&pep440(right)?)),
        _ => Err("version_type has to be loose, strict, semver, semantic or pep440".to_owned()),
    }
}

/// Whether an order satisfies an operator, in its signs or letters.
pub(super) fn holds(order: Ordering, operator: &str) -> Result<bool, String> {
    Ok(match operator {
        "==" | "=" | "eq" => order.is_eq(),
        "!=" | "<>" | "ne" => order.is_ne(),
        "<" | "lt" => order.is_lt(),
        "<=" | "le" => order.is_le(),
        ">" | "gt" => order.is_gt(),
        ">=" | "ge" => order.is_ge(),
        _ => return Err("the operator has to be one of ==, !=, <, <=, >, >= or eq, ne, lt, le, gt, ge".to_owned()),
    })
}

/// Runs of digits and of letters, without dots.
fn loose(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let class = |c: char| {
            if c.is_ascii_digit() {
                0
            } else if c.is_ascii_lowercase() {
                1
            } else if c == '.' {
                2
            } else {
                3
            }
        };
        let end = rest.find(|c: char| class(c) != class(first)).unwrap_or(rest.len());
        let piece = &rest[..end];
        match class(first) {
            2 => {}
            0 => pieces.push(piece.parse().map_or_else(|_| Piece::Word(piece.to_owned()), Piece::Number)),
            _ => pieces.push(Piece::Word(piece.to_owned())),
        }
        rest = &rest[end..];
    }
    pieces
}

/// `1.2` or `1.2.3`, perhaps with `a1` or `b1` for a release before it.
fn strict(text: &str) -> Result<(Vec<u64>, bool, char, u64), String> {
    let bad = || format!("`{text}` is no strict version such as 1.2.3");
    let text = text.trim();
    let (numbers, early) = match text.find(['a', 'b']) {
        Some(at) => (&text[..at], Some((text.as_bytes()[at].into(), text[at + 1..].parse().map_err(|_| bad())?))),
        None => (text, None),
    };
    let mut numbers = numbers.split('.').map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| bad())?;
    if !(2..=3).contains(&numbers.len()) {
        return Err(bad());
    }
    numbers.resize(3, 0);
    let (letter, number) = early.unwrap_or(('z', 0));
    Ok((numbers, early.is_none(), letter, number))
}

/// Identifiers of a pre-release: numbers below words; no pre-release above any.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Pre(Vec<Identifier>),
    Release,
}

/// Semantic Versioning 2.0.0; what follows a `+` has no say.
fn semantic(text: &str) -> Result<([u64; 3], Stage), String> {
    let bad = || format!("`{text}` is no semantic version such as 1.2.3-rc.1");
    let text = text.trim();
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split('+').next().unwrap_or_default();
    let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
    let numbers = numbers.split('.').map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| bad())?;
    let numbers = numbers.try_into().map_err(|_| bad())?;
    let identifier = |text: &str| text.parse().map_or_else(|_| Identifier::Word(text.to_owned()), Identifier::Number);
    Ok((numbers, pre.map_or(Stage::Release, |pre| Stage::Pre(pre.split('.').map(identifier).collect()))))
}

/// PEP 440 without local versions. What is compared first comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pep440 {
    epoch: u64,
    /// Without zeros at the end.
    release: Vec<u64>,
    /// dev, a, b, rc or none of them, from 0 to 4, with a number.
    pre: (u8, u64),
    post: u64,
    /// A development release comes before what it leads to.
    dev: (bool, u64),
}

fn pep440(text: &str) -> Result<Pep440, String> {
    let bad = || format!("`{text}` is no version of PEP 440 such as 1.2rc1");
    let lower = text.trim().to_lowercase();
    let lower = lower.strip_prefix('v').unwrap_or(&lower);
    let (epoch, rest) = lower.split_once('!').unwrap_or(("0", lower));
    let epoch = epoch.parse().map_err(|_| bad())?;
    let rest = rest.split('+').next().unwrap_or_default();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let release = rest[..end].trim_end_matches('.');
    let mut release = release.split('.').map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| bad())?;
    while release.last() == Some(&0) {
        release.pop();
    }
    let (mut pre, mut post, mut dev) = (None, None, None);
    let mut rest = rest[end..].trim_start_matches(['.', '-', '_']);
    while !rest.is_empty() {
        let word_end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        let after = after.trim_start_matches(['.', '-', '_']);
        let number_end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let number = if number_end == 0 { 0 } else { after[..number_end].parse().map_err(|_| bad())? };
        match word {
            "a" | "alpha" => pre = Some((1, number)),
            "b" | "beta" => pre = Some((2, number)),
            "c" | "rc" | "pre" | "preview" => pre = Some((3, number)),
            // A bare number behind a dash is a post release.
            "post" | "rev" | "r" | "" if number_end > 0 || !word.is_empty() => post = Some(number + 1),
            "dev" => dev = Some(number),
            _ => return Err(bad()),
        }
        rest = after[number_end..].trim_start_matches(['.', '-', '_']);
    }
    // A development release comes before the pre-releases of its version.
    let pre = pre.unwrap_or(if dev.is_some() && post.is_none() { (0, 0) } else { (4, 0) });
    Ok(Pep440 { epoch, release, pre, post: post.unwrap_or(0), dev: (dev.is_none(), dev.unwrap_or(0)) })
}
