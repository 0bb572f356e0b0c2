//! Which names a template reads: the engine waits for the results among them and for nothing else.

use super::compiled::{Compiled, has_template, is_function};
use super::scope::Scope;
use super::templar::Templar;
use crate::value::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names of which a template may read any: whoever reads them depends on everything.
const ANYTHING: &str = "vars";

impl Templar {
    /// The top-level names that a text reads (`hostvars` and `vars` among them). Text that reads names which cannot be
    /// told from it (a lookup of a variable or template, an `include`) reads `vars`. Text that does not parse reads nothing.
    pub fn reads(&self, text: &str) -> BTreeSet<String> {
        if !has_template(text) {
            return BTreeSet::new();
        }
        self.cache().inline(text).map(|compiled| names(&compiled)).unwrap_or_default()
    }

    /// The same for a condition.
    pub fn reads_expr(&self, expression: &str) -> BTreeSet<String> {
        if has_template(expression) {
            return self.reads(expression);
        }
        self.cache().expression(expression).map(|compiled| names(&compiled)).unwrap_or_default()
    }

    /// The names that the templates in a value read, and those that the variables of these names read, and so on.
    pub fn reads_deep(&self, value: &Value, scope: &Arc<dyn Scope>) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = Vec::new();
        self.collect(value, &mut seen, &mut open);
        self.follow(seen, open, scope)
    }

    /// The same for a condition.
    pub fn reads_expr_deep(&self, expression: &str, scope: &Arc<dyn Scope>) -> BTreeSet<String> {
        let seen = self.reads_expr(expression);
        let open = seen.iter().cloned().collect();
        self.follow(seen, open, scope)
    }

    fn follow(&self, mut seen: BTreeSet<String>, mut open: Vec<String>, scope: &Arc<dyn Scope>) -> BTreeSet<String> {
        while let Some(name) = open.pop() {
            if let Some(var) = scope.lookup(&name).filter(|var| !var.literal) {
                self.collect(&var.value, &mut seen, &mut open);
            }
        }
        seen
    }

    fn collect(&self, value: &Value, seen: &mut BTreeSet<String>, open: &mut Vec<String>) {
        match value {
            Value::String(text) => {
                for name in self.reads(text) {
                    if seen.insert(name.clone()) {
                        open.push(name);
                    }
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.collect(item, seen, open)),
            Value::Map(map) => map.iter().for_each(|(key, item)| {
                self.collect(item, seen, open);
                if has_template(key) {
                    self.collect(&Value::String(key.clone()), seen, open);
                }
            }),
            _ => {}
        }
    }
}

fn names(compiled: &Compiled) -> BTreeSet<String> {
    let mut names = compiled.reads().clone();
    let looks_up = ["lookup", "query", "q"].iter().any(|function| names.contains(*function));
    let text = compiled.text();
    let anything = looks_up && ["vars", "varnames", "template"].iter().any(|plugin| text.contains(plugin))
        || ["include", "import", "extends"].iter().any(|word| text.contains("{%") && text.contains(word));
    names.retain(|name| !is_function(name) && name != "omit");
    if anything {
        names.insert(ANYTHING.to_owned());
    }
    names
}
