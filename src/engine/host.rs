//! What is known of a host during a run: facts, results of tasks, whether it is still in.

use crate::value::{Map, Value};
use crate::vars::{Layer, Var, VarMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The state of one host. Shared by its driver and by templates of other hosts.
#[derive(Debug, Default)]
pub struct HostState {
    pub name: String,
    facts: RwLock<Layer>,
    results: RwLock<Arc<VarMap>>,
    dead: AtomicBool,
}

impl HostState {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The same host with its facts, and no results.
    pub fn fresh(&self) -> Self {
        let fresh = Self { dead: AtomicBool::new(self.is_dead()), ..Self::new(&self.name) };
        *fresh.facts.write().unwrap_or_else(PoisonError::into_inner) = self.facts();
        fresh
    }

    /// Whether it has failed or is unreachable, and takes no further part.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub fn set_facts(&self, facts: Map) {
        let facts = facts.into_iter().map(|(name, value)| (name, Var::from(value))).collect::<VarMap>();
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    pub fn facts(&self) -> Layer {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Facts as the mapping that the agent sent.
    pub fn facts_value(&self) -> Value {
        Value::Map(self.facts().iter().map(|(name, var)| (name.clone(), (*var.value).clone())).collect())
    }

    /// Registers a result, or a fact set by `set_fact`.
    pub fn set_result(&self, name: &str, value: Value, secret: bool) {
        let mut results = self.results.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut results).insert(name.to_owned(), Var { secret, ..Var::from(value) });
    }

    pub fn results(&self) -> Arc<VarMap> {
        self.results.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
