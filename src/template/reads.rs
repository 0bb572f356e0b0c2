//! Which names a template reads: the engine waits for the results among them and for nothing else.

use super::compiled::{has_template, is_function, takes_in_others};
use super::scope::Scope;
use super::templar::Templar;
use crate::value::Value;
use std::collections::{BTreeSet, HashSet};
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
        self.cache().inline(text).map(|compiled| compiled.reads().clone()).unwrap_or_default()
    }

    /// The names that the templates in a value read, and those that the variables of these names read, and so on.
    pub fn reads_deep(&self, value: &Value, scope: &Arc<dyn Scope>) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.collect(value, &mut names);
        let mut open: Vec<String> = names.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let Some(var) = scope.lookup(&name).filter(|var| !var.literal) else { continue };
            let reads = self.cache().reads(&var.value, || {
                let mut reads = BTreeSet::new();
                self.collect(&var.value, &mut reads);
                reads
            });
            for name in &*reads {
                if names.insert(name.clone()) {
                    open.push(name.clone());
                }
            }
        }
        names
    }

    fn collect(&self, value: &Value, names: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => names.extend(self.reads(text)),
            Value::List(items) => items.iter().for_each(|item| self.collect(item, names)),
            Value::Map(map) => map.iter().for_each(|(key, item)| {
                names.extend(self.reads(key));
                self.collect(item, names);
            }),
            _ => {}
        }
    }
}

/// The names that a template reads from outside, of those that it does not declare itself.
pub(super) fn outside_names(undeclared: HashSet<String>, text: &str) -> BTreeSet<String> {
    let looks_up = ["lookup", "query", "q"].iter().any(|function| undeclared.contains(*function));
    let anything = looks_up && ["vars", "varnames", "template"].iter().any(|plugin| text.contains(plugin))
        || takes_in_others(text, "{%");
    let mut names: BTreeSet<String> =
        undeclared.into_iter().filter(|name| !is_function(name) && name != "omit").collect();
    if anything {
        names.insert(ANYTHING.to_owned());
    }
    names
}
