//! Reads a mapping with known keys; every other key is an error with its near miss.

use super::Node;
use crate::source::{InputError, InputErrors, near_miss};

/// The members of a mapping. Each key that is asked for counts as known; [`Fields::finish`] reports the others.
pub struct Fields<'a> {
    node: &'a Node,
    pairs: &'a [(Node, Node)],
    known: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    pub fn new(node: &'a Node) -> Result<Self, InputError> {
        Ok(Self { node, pairs: node.expect_map()?, known: Vec::new() })
    }

    /// The value of a key, null included.
    pub fn get(&mut self, key: &'a str) -> Option<&'a Node> {
        self.known.push(key);
        self.pairs.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, v)| v)
    }

    pub fn require(&mut self, key: &'a str) -> Result<&'a Node, InputError> {
        self.get(key).ok_or_else(|| InputError::at(&self.node.span, format!("missing key: {key}")))
    }

    pub fn text(&mut self, key: &'a str) -> Result<Option<String>, InputError> {
        self.get(key).filter(|node| !node.is_null()).map(Node::expect_text).transpose()
    }

    pub fn bool(&mut self, key: &'a str) -> Result<Option<bool>, InputError> {
        self.get(key).filter(|node| !node.is_null()).map(Node::expect_bool).transpose()
    }

    pub fn int(&mut self, key: &'a str) -> Result<Option<i64>, InputError> {
        self.get(key).filter(|node| !node.is_null()).map(Node::expect_int).transpose()
    }

    pub fn strings(&mut self, key: &'a str) -> Result<Option<Vec<String>>, InputError> {
        self.get(key).filter(|node| !node.is_null()).map(Node::expect_strings).transpose()
    }

    /// Reports every key that nobody asked for. `what` names the mapping: "argument spec".
    pub fn finish(self, what: &str) -> Result<(), InputErrors> {
        let errors: Vec<InputError> = self
            .pairs
            .iter()
            .filter(|(key, _)| !key.as_str().is_some_and(|key| self.known.contains(&key)))
            .map(|(key, _)| {
                let name = key.key_text();
                let error = InputError::at(&key.span, format!("unknown key in {what}: {name}"));
                match near_miss(&name, self.known.iter().copied()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("known keys: {}", self.known.join(", "))),
                }
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(InputErrors(errors)) }
    }
}
