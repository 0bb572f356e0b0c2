//! Extra variables: `-e name=value`, `-e @file`, `-e '{"name": …}'`.
//!
//! As in Ansible, the values of `name=value` are strings; use YAML or JSON for other types.

use super::files::{read_file, read_map};
use super::{Var, VarMap, Vault, is_valid_name};
use crate::source::{InputError, InputErrors, Source, Span};
use crate::yaml;
use std::path::Path;
use std::sync::Arc;

/// Reads one argument of `-e`.
pub(super) fn read(argument: &str, vault: &Vault, warnings: &mut Vec<InputError>) -> Result<VarMap, InputErrors> {
    if let Some(file) = argument.strip_prefix('@') {
        return read_file(Path::new(file), vault, warnings);
    }
    let source = Source::new("-e", argument);
    if argument.trim_start().starts_with(['{', '[']) {
        return read_map(&yaml::load_with(&source, warnings)?, vault);
    }
    let mut vars = VarMap::new();
    for word in words(&source)? {
        let text = word.text().to_owned();
        let Some((name, value)) = text.split_once('=') else {
            let error = InputError::at(&word, format!("expected name=value, @FILE or a mapping, found `{text}`"));
            return Err(error.help("quote a value that contains spaces").into());
        };
        if !is_valid_name(name) {
            let error = InputError::at(&word, format!("invalid variable name: `{name}`"));
            return Err(error.help("use letters, digits and `_`, and no digit first").into());
        }
        vars.insert(name.to_owned(), Var::at(unquote(value), word));
    }
    Ok(vars)
}

/// Words between white space; quotes and `{{ }}` hold one together.
fn words(source: &Arc<Source>) -> Result<Vec<Span>, InputError> {
    let text = &source.text;
    let mut words = Vec::new();
    let mut start = None;
    let mut quote: Option<(usize, char)> = None;
    let mut braces = 0usize;
    let mut chars = text.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        match quote {
            Some((_, open)) => {
                if c == '\\' {
                    chars.next();
                } else if c == open {
                    quote = None;
                }
                continue;
            }
            None if c.is_whitespace() && braces == 0 => {
                words.extend(start.take().map(|start| source.span(start, i)));
                continue;
            }
            None => {}
        }
        start.get_or_insert(i);
        match c {
            '\'' | '"' => quote = Some((i, c)),
            '{' if text[i..].starts_with("{{") => braces += 1,
            '}' if text[i..].starts_with("}}") => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    if let Some((i, c)) = quote {
        return Err(
            InputError::at(&source.span(i, text.len()), "the quote is not closed").help(format!("add {c} at the end"))
        );
    }
    words.extend(start.map(|start| source.span(start, text.len())));
    Ok(words)
}

/// Takes the quotes off a value that is quoted as a whole.
fn unquote(value: &str) -> String {
    for quote in ['\'', '"'] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner.replace(&format!("\\{quote}"), &quote.to_string());
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(argument: &str) -> String {
        let vars = read(argument, &Vault::default(), &mut Vec::new()).unwrap();
        let value: crate::value::Value = vars.into_iter().map(|(name, var)| (name, (*var.value).clone())).collect();
        serde_json::Value::from(&value).to_string()
    }

    #[test]
    fn forms() {
        assert_eq!(
            json("a=1 b='x y' c=\"{{ d }}\" e={{ f | g }}"),
            r#"{"a":"1","b":"x y","c":"{{ d }}","e":"{{ f | g }}"}"#
        );
        assert_eq!(json("url=http://h/?a=b"), r#"{"url":"http://h/?a=b"}"#);
        assert_eq!(json(r#"{"a": 1, "b": [true]}"#), r#"{"a":1,"b":[true]}"#);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.yml");
        std::fs::write(&file, "a: yes\n").unwrap();
        assert_eq!(json(&format!("@{}", file.display())), r#"{"a":true}"#);
    }

    #[test]
    fn mistakes_point_at_the_word() {
        let error = |argument: &str| read(argument, &Vault::default(), &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error("a"), "-e:1: expected name=value, @FILE or a mapping, found `a`");
        assert_eq!(error("a-b=1"), "-e:1: invalid variable name: `a-b`");
        assert_eq!(error("a='1"), "-e:1: the quote is not closed");
        assert_eq!(error("[1]"), "-e:1: expected a mapping, found a list");
        assert_eq!(error("@/nonexistent"), "cannot read /nonexistent: no such file");
    }
    proptest::proptest! {
        #[test]
        fn never_panics(argument in "[a-c=@{}\\[\\]'\" \\\\:,.é-]{0,30}") {
            let _ = read(&argument, &Vault::default(), &mut Vec::new());
        }
    }
}
