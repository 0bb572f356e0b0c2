//! Which value a name has for a task on a host: the layers of Ansible's precedence, and magic variables.

use super::run::Run;
use crate::playbook::{Keywords, Role};
use crate::source::Source;
use crate::template::Scope;
use crate::value::{Map, Value};
use crate::vars::{Layer, Level, Stack, Var, VarMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The variables of one task on one host; without a task, what `hostvars` shows of a host. Facts and results are those
/// of the moment in which it was made.
#[derive(Clone)]
pub struct TaskScope {
    run: Arc<Run>,
    host: String,
    stack: Stack,
    /// Which play and batch, for `ansible_play_hosts`.
    play: Option<(usize, usize)>,
    files: Option<crate::playbook::Files>,
    /// Whether a secret variable was looked up.
    secret: Arc<AtomicBool>,
}

impl TaskScope {
    /// What `hostvars[host]` and connection variables see.
    pub fn of_host(run: &Arc<Run>, host: &str) -> Self {
        let mut stack = run.variables.stack(host);
        // Below the role defaults that are pushed after it.
        stack.push(Level::RoleDefaults, run.defaults.clone());
        if let Some(state) = run.hosts.get(host) {
            stack.push(Level::Facts, state.facts());
            stack.push(Level::SetFact, state.results());
        }
        Self { run: run.clone(), host: host.to_owned(), stack, play: None, files: None, secret: Arc::default() }
    }

    /// What a task of `play` in its `batch` sees.
    pub fn of_task(run: &Arc<Run>, host: &str, play: usize, batch: usize, task: &crate::playbook::Task) -> Self {
        let mut this = Self::of_host(run, host);
        this.play = Some((play, batch));
        this.files = Some(task.files.clone());
        let Keywords { vars, params, .. } = &task.keywords;
        let mut push = |level, layer: &Layer| this.stack.push(level, layer.clone());
        if let Some(role) = &task.role {
            let Role { defaults, vars, .. } = &**role;
            push(Level::RoleDefaults, defaults);
            push(Level::RoleVars, vars);
        }
        push(Level::PlayVars, &run.playbook.plays[play].vars);
        vars.iter().for_each(|layer| push(Level::TaskVars, layer));
        params.iter().for_each(|layer| push(Level::RoleParams, layer));
        if let Some(role) = &task.role {
            let name = VarMap::from([("role_name".to_owned(), Var::from(Value::from(role.name.as_str())))]);
            push(Level::Magic, &Arc::new(name));
        }
        this
    }

    /// The same with more names on top.
    pub fn with(&self, names: impl IntoIterator<Item = (String, Value)>) -> Arc<dyn Scope> {
        let local: VarMap = names.into_iter().map(|(name, value)| (name, Var::from(value))).collect();
        let mut this = self.clone();
        this.stack.push(Level::Magic, Arc::new(local));
        Arc::new(this)
    }

    /// Whether what was made of this scope so far may hold a secret: a value of a vault, or what a task that hides its
    /// result has registered.
    pub fn saw_secret(&self) -> bool {
        self.secret.load(Ordering::Relaxed)
    }

    /// Variables that depend on how the run stands.
    fn current(&self, name: &str) -> Option<Value> {
        let run = &*self.run;
        Some(match name {
            "ansible_play_hosts_all" | "ansible_play_hosts" | "play_hosts" | "ansible_play_batch" => {
                let (play, batch) = self.play?;
                let batches = &run.shapes.get(play)?.batches;
                let hosts: Vec<String> = match name {
                    "ansible_play_batch" | "play_hosts" => batches.get(batch)?.clone(),
                    _ => batches.concat(),
                };
                let alive = |host: &String| {
                    name == "ansible_play_hosts_all" || run.hosts.get(host).is_none_or(|state| !state.is_dead())
                };
                Value::List(hosts.into_iter().filter(alive).map(Value::from).collect())
            }
            "ansible_facts" => {
                let facts = run.hosts.get(&self.host)?.facts();
                let strip = |(name, var): (&String, &Var)| {
                    (name.strip_prefix("ansible_").unwrap_or(name).to_owned(), (*var.value).clone())
                };
                Value::Map(facts.iter().map(strip).collect())
            }
            // Also those of other plays, for which there is no name in Ansible.
            "kprov_failed_hosts" => {
                let failed = run.hosts.values().filter(|host| host.is_dead());
                Value::List(failed.map(|host| host.name.as_str().into()).collect())
            }
            "ansible_check_mode" => run.planning().into(),
            _ => return None,
        })
    }
}

impl Scope for TaskScope {
    fn lookup(&self, name: &str) -> Option<Var> {
        let var = self.current(name).map(Var::from).or_else(|| self.stack.lookup(name).cloned())?;
        if var.secret {
            self.secret.store(true, Ordering::Relaxed);
        }
        Some(var)
    }

    fn names(&self) -> Vec<String> {
        self.stack.names().into_iter().map(str::to_owned).collect()
    }

    fn hosts(&self) -> Vec<String> {
        self.run.inventory.hosts.keys().cloned().collect()
    }

    fn host(&self, name: &str) -> Option<Arc<dyn Scope>> {
        self.run
            .inventory
            .hosts
            .contains_key(name)
            .then(|| Arc::new(Self { secret: self.secret.clone(), ..Self::of_host(&self.run, name) }) as Arc<dyn Scope>)
    }

    fn file(&self, kind: &str, name: &str) -> Option<Arc<Source>> {
        match &self.files {
            Some(files) => files.source(kind, name),
            None => Source::read(Path::new(name)).ok(),
        }
    }
}

/// Adds what every result has.
pub fn result_value(changed: bool, mut result: Map) -> Map {
    result.insert("changed".to_owned(), changed.into());
    result.entry("failed".to_owned()).or_insert(Value::Bool(false));
    result
}
