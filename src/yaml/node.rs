//! A YAML node: what was written, and where.

use crate::source::{InputError, Span};
use crate::value::{Map, Value};

/// A node of a document. Aliases and merge keys are already resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub kind: Kind,
    pub span: Span,
    /// A tag that the reader has to honour: `!vault` or `!unsafe`. Tags such as `!!str` are already applied.
    pub tag: Option<String>,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    /// Each key once, in the order that PyYAML gives: merged keys first.
    Map(Vec<(Node, Node)>),
}

impl Node {
    pub fn new(kind: Kind, span: Span) -> Self {
        Self { kind, span, tag: None }
    }

    /// The value without its places. Text under `!unsafe` is escaped so that no template engine expands it.
    pub fn to_value(&self) -> Value {
        self.value(false)
    }

    fn value(&self, literal: bool) -> Value {
        let literal = literal || self.tag.as_deref() == Some("!unsafe");
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Int(n) => Value::Int(*n),
            Kind::Float(x) => Value::Float(*x),
            Kind::String(s) if literal => Value::String(escape_template(s)),
            Kind::String(s) => Value::String(s.clone()),
            Kind::List(items) => Value::List(items.iter().map(|item| item.value(literal)).collect()),
            Kind::Map(pairs) => {
                Value::Map(pairs.iter().map(|(key, item)| (key.key_text(), item.value(literal))).collect::<Map>())
            }
        }
    }

    /// The text under which this node is a key, spelled as JSON spells it: `80` for the integer, `true` for a boolean.
    pub fn key_text(&self) -> String {
        match &self.kind {
            Kind::Null => "null".into(),
            Kind::Bool(b) => b.to_string(),
            Kind::String(s) => s.clone(),
            _ => self.to_value().to_string(),
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(s) => Some(s),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&[(Node, Node)]> {
        match &self.kind {
            Kind::Map(pairs) => Some(pairs),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// Member of a mapping; `None` also where this is no mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    /// The type in the words of a message: "a list".
    pub fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Int(_) => "an integer",
            Kind::Float(_) => "a float",
            Kind::String(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    fn expected<T>(&self, what: &str, found: Option<T>) -> Result<T, InputError> {
        found.ok_or_else(|| InputError::at(&self.span, format!("expected {what}, found {}", self.describe())))
    }

    pub fn expect_str(&self) -> Result<&str, InputError> {
        self.expected("a string", self.as_str())
    }

    /// The text of a scalar as Ansible turns it into a string: `1` and `"1"` alike, not null and not a container.
    pub fn expect_text(&self) -> Result<String, InputError> {
        let text = match &self.kind {
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
            _ => Some(self.to_value().to_string()),
        };
        self.expected("a string", text)
    }

    /// A boolean, also in the words that Ansible takes for one (`"yes"`, `0`).
    pub fn expect_bool(&self) -> Result<bool, InputError> {
        self.expected("a boolean", self.to_value().to_bool())
    }

    pub fn expect_int(&self) -> Result<i64, InputError> {
        let n = match &self.kind {
            Kind::Int(n) => Some(*n),
            Kind::String(s) => s.trim().parse().ok(),
            _ => None,
        };
        self.expected("an integer", n)
    }

    pub fn expect_list(&self) -> Result<&[Node], InputError> {
        self.expected("a list", self.as_list())
    }

    pub fn expect_map(&self) -> Result<&[(Node, Node)], InputError> {
        self.expected("a mapping", self.as_map())
    }

    /// One string or a list of strings, as most Ansible keywords that take several accept them.
    pub fn expect_strings(&self) -> Result<Vec<String>, InputError> {
        match &self.kind {
            Kind::List(items) => items.iter().map(Node::expect_text).collect(),
            _ => Ok(vec![self.expect_text()?]),
        }
    }
}

/// Writes text so that rendering it gives the text back.
pub fn escape_template(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(i) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..i]);
        out.push_str(&format!("{{{{ '{}' }}}}", &rest[i..i + 2]));
        rest = &rest[i + 2..];
    }
    out.push_str(rest);
    out
}
