//! Python literals, which is what the values of an INI inventory are.
//!
//! Source: Python's `ast.literal_eval`, as Ansible's `ini` plugin uses it: text that is no literal is a string as it
//! stands. Complex numbers, `...` and raw
//! strings with backslashes are left out: such text stays a string.

use crate::value::{Map, Value};

/// Deeper text than this is no value that somebody wrote by hand.
const MAX_DEPTH: usize = 50;

/// The value that a text stands for: a literal, or else the text.
pub fn value(text: &str) -> Value {
    literal(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn literal(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text.trim_start_matches([' ', '\t']), depth: 0 };
    let first = parser.item()?;
    let value = parser.tuple_after(first, None)?;
    parser.space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('#') {
            self.rest = self.rest.find('\n').map_or("", |i| &self.rest[i..]);
            self.space();
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn item(&mut self) -> Option<Value> {
        self.space();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match self.rest.chars().next()? {
            '[' => {
                self.rest = &self.rest[1..];
                Value::List(self.items(']')?)
            }
            '(' => {
                self.rest = &self.rest[1..];
                if self.take(')') {
                    Value::List(Vec::new())
                } else {
                    let first = self.item()?;
                    let value = self.tuple_after(first, Some(')'))?;
                    self.take(')').then_some(value)?
                }
            }
            '{' => {
                self.rest = &self.rest[1..];
                self.braces()?
            }
            '\'' | '"' => self.strings()?,
            '+' | '-' | '.' | '0'..='9' => self.number()?,
            _ => self.word()?,
        };
        self.depth -= 1;
        Some(value)
    }

    /// Items up to the closing bracket; a trailing comma is allowed.
    fn items(&mut self, close: char) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        loop {
            if self.take(close) {
                return Some(items);
            }
            items.push(self.item()?);
            if !self.take(',') {
                return self.take(close).then_some(items);
            }
        }
    }

    /// Makes a tuple of the item that was read when a comma follows it.
    fn tuple_after(&mut self, first: Value, close: Option<char>) -> Option<Value> {
        if !self.take(',') {
            return Some(first);
        }
        let mut items = vec![first];
        loop {
            self.space();
            if self.rest.is_empty() || close.is_some_and(|close| self.rest.starts_with(close)) {
                return Some(Value::List(items));
            }
            items.push(self.item()?);
            if !self.take(',') {
                return Some(Value::List(items));
            }
        }
    }

    /// A dict, or a set, which becomes a list.
    fn braces(&mut self) -> Option<Value> {
        if self.take('}') {
            return Some(Value::Map(Map::new()));
        }
        let first = self.item()?;
        if !self.take(':') {
            let mut items = vec![first];
            if self.take(',') {
                for item in self.items('}')? {
                    if !items.contains(&item) {
                        items.push(item);
                    }
                }
            } else if !self.take('}') {
                return None;
            }
            return Some(Value::List(items));
        }
        let mut map = Map::new();
        let mut key = first;
        loop {
            let name = match &key {
                Value::Bool(b) => b.to_string(),
                Value::Null => "null".into(),
                Value::List(_) | Value::Map(_) => return None,
                other => other.to_string(),
            };
            map.insert(name, self.item()?);
            if !self.take(',') {
                return self.take('}').then_some(Value::Map(map));
            }
            if self.take('}') {
                return Some(Value::Map(map));
            }
            key = self.item()?;
            if !self.take(':') {
                return None;
            }
        }
    }

    /// Adjacent strings join, as in Python.
    fn strings(&mut self) -> Option<Value> {
        let mut text = String::new();
        while let Some(quote @ ('\'' | '"')) = self.rest.chars().next() {
            self.rest = &self.rest[1..];
            self.string(quote, &mut text)?;
            self.space();
        }
        Some(Value::String(text))
    }

    fn string(&mut self, quote: char, text: &mut String) -> Option<()> {
        let mut chars = self.rest.chars();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\n' => return None,
                '\\' => match chars.next()? {
                    '\n' => {}
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'a' => text.push('\x07'),
                    'b' => text.push('\x08'),
                    'f' => text.push('\x0c'),
                    'v' => text.push('\x0b'),
                    c @ ('x' | 'u' | 'U') => {
                        let digits = match c {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let hex = chars.as_str().get(..digits).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))?;
                        text.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                        chars = chars.as_str()[digits..].chars();
                    }
                    c @ '0'..='7' => {
                        let mut code = c.to_digit(8)?;
                        for _ in 0..2 {
                            let Some(digit) = chars.clone().next().and_then(|c| c.to_digit(8)) else { break };
                            code = code * 8 + digit;
                            chars.next();
                        }
                        text.push(char::from_u32(code)?);
                    }
                    'N' => return None,
                    other => {
                        text.push('\\');
                        text.push(other);
                    }
                },
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(())
    }

    fn number(&mut self) -> Option<Value> {
        let mut negative = false;
        while let Some(sign @ ('+' | '-')) = self.rest.chars().next() {
            negative ^= sign == '-';
            self.rest = self.rest[1..].trim_start();
        }
        let mut end = 0;
        let bytes = self.rest.as_bytes();
        while let Some(&b) = bytes.get(end) {
            let exponent_sign = matches!(b, b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E');
            if !(b.is_ascii_alphanumeric()
                || matches!(b, b'.' | b'_')
                || (exponent_sign && !self.rest.starts_with("0x")))
            {
                break;
            }
            end += 1;
        }
        let (token, rest) = self.rest.split_at(end);
        // An underscore stands between two digits only.
        if token.starts_with('_')
            || token.ends_with('_')
            || token.contains("__")
            || token.contains("_.")
            || token.contains("._")
        {
            return None;
        }
        self.rest = rest;
        let clean = token.replace('_', "").to_ascii_lowercase();
        let radix = |digits: &str, base| {
            let shape = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
            shape.then(|| i64::from_str_radix(digits, base).ok()).flatten().map(Value::Int)
        };
        let value = match clean.get(..2) {
            Some("0x") => radix(&clean[2..], 16)?,
            Some("0o") => radix(&clean[2..], 8)?,
            Some("0b") => radix(&clean[2..], 2)?,
            _ if clean.bytes().all(|b| b.is_ascii_digit()) => {
                // Python has no decimal integer with a leading zero, but for zero itself.
                if clean.len() > 1 && clean.starts_with('0') && clean.bytes().any(|b| b != b'0') {
                    return None;
                }
                radix(&clean, 10)?
            }
            _ if clean.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'+' | b'-')) => {
                Value::Float(clean.parse().ok()?)
            }
            _ => return None,
        };
        Some(match value {
            Value::Int(n) if negative => Value::Int(-n),
            Value::Float(x) if negative => Value::Float(-x),
            other => other,
        })
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let value = match word {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            "set" if rest.starts_with("()") => {
                self.rest = &rest[2..];
                return Some(Value::List(Vec::new()));
            }
            "u" | "U" | "b" | "B" if rest.starts_with(['\'', '"']) => {
                self.rest = rest;
                return self.strings();
            }
            "r" | "R" => {
                let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
                let (text, rest) = rest[1..].split_once(quote)?;
                // A backslash could hide the quote or stand for a line break: such text stays as it is.
                if text.contains(['\\', '\n']) {
                    return None;
                }
                self.rest = rest;
                return Some(Value::String(text.to_owned()));
            }
            _ => return None,
        };
        self.rest = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_python_literals_or_text() {
        // Checked against ast.literal_eval of Python 3.11.
        let cases = [
            ("5", "5"),
            ("-5", "-5"),
            ("1_000", "1000"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("00", "0"),
            ("0644", "\"0644\""),
            ("1__0", "\"1__0\""),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
            ("True", "true"),
            ("true", "\"true\""),
            ("None", "null"),
            ("yes", "\"yes\""),
            ("10.0.0.1", "\"10.0.0.1\""),
            ("['a', \"b\", 3]", "[\"a\",\"b\",3]"),
            ("[1, 2,]", "[1,2]"),
            ("(1, 2)", "[1,2]"),
            ("(1)", "1"),
            ("1, 2", "[1,2]"),
            ("()", "[]"),
            ("{'a': 1, 'b': [True]}", "{\"a\":1,\"b\":[true]}"),
            ("{}", "{}"),
            ("{1, 1, 2}", "[1,2]"),
            ("set()", "[]"),
            ("{1: 'x'}", "{\"1\":\"x\"}"),
            ("'x' 'y'", "\"xy\""),
            ("'a\\tb\\x41\\q'", "\"a\\tbA\\\\q\""),
            ("u'x'", "\"x\""),
            ("b'x'", "\"x\""),
            ("r'x'", "\"x\""),
            ("f'x'", "\"f'x'\""),
            ("5 # five", "5"),
            ("foo # bar", "\"foo # bar\""),
            ("'it''s", "\"'it''s\""),
            ("[1, 2", "\"[1, 2\""),
            ("{{ x }}", "\"{{ x }}\""),
            ("a b", "\"a b\""),
            ("", "\"\""),
            ("9223372036854775808", "\"9223372036854775808\""),
            ("1,5 GB", "\"1,5 GB\""),
        ];
        for (text, expected) in cases {
            assert_eq!(serde_json::Value::from(&value(text)).to_string(), expected, "{text}");
        }
        assert_eq!(value(&"[".repeat(100_000)).as_str().map(str::len), Some(100_000));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\](){}'\",:.+\\-_#\\\\ 0-9a-fxuUTrueä\\n]{0,40}") {
            value(&text);
        }

        #[test]
        fn reads_back_what_display_writes(items in proptest::collection::vec("[ -~]{0,12}", 0..4), n: i64, b: bool) {
            let list = Value::List(vec![items.into_iter().map(Value::from).collect::<Vec<_>>().into(), n.into(), b.into(), Value::Null]);
            if n != i64::MIN {
                prop_assert_eq!(value(&list.to_string()), list);
            }
        }
    }
}
