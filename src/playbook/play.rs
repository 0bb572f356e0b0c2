//! Reads playbooks and roles.

use super::Tree;
use super::task::{Context, Counter, boolean, layer, read_handlers, read_steps, read_yaml, strings, tags, text};
use super::types::{BatchSize, Files, Keywords, Play, Playbook, Role, Step};
use crate::engine::actions;
use crate::modules;
use crate::source::{InputError, InputErrors, Spanned, near_miss};
use crate::vars::Layer;
use crate::yaml::{Kind, Node};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PLAY_KEYWORDS: &[&str] = &[
    "any_errors_fatal",
    "become",
    "become_user",
    "environment",
    "gather_facts",
    "handlers",
    "hosts",
    "name",
    "needs",
    "no_log",
    "post_tasks",
    "pre_tasks",
    "roles",
    "serial",
    "tags",
    "tasks",
    "vars",
    "when",
];

/// Whether a task can name this module (without a collection's prefix).
pub(super) fn is_module(name: &str) -> bool {
    modules::NAMES.contains(&name) || actions::NAMES.contains(&name)
}

pub(super) fn module_names() -> Vec<&'static str> {
    modules::NAMES.iter().chain(actions::NAMES).copied().collect()
}

/// Loads the playbook at `path` of the tree, with everything it includes. All mistakes are reported at once.
pub fn load(tree: &Arc<Tree>, path: &Path) -> Result<Playbook, InputErrors> {
    let mut playbook = Playbook { plays: Vec::new() };
    let mut errors = Vec::new();
    if let Err(error) = read_playbook(tree, path, &mut playbook, &mut errors, 0) {
        errors.push(error);
    }
    check_needs(&playbook, &mut errors);
    // A role that two plays use is read twice.
    let mut seen = HashSet::new();
    errors.retain(|error| seen.insert(error.to_string()));
    if errors.is_empty() { Ok(playbook) } else { Err(InputErrors(errors)) }
}

fn read_playbook(
    tree: &Arc<Tree>,
    path: &Path,
    playbook: &mut Playbook,
    errors: &mut Vec<InputError>,
    depth: usize,
) -> Result<(), InputError> {
    let list = read_yaml(tree, path)?.ok_or_else(|| {
        InputError::new(format!("playbook {} not found", path.display()))
            .help("--playbook takes a file, or the name of a built-in playbook such as `cluster`")
    })?;
    let Kind::List(plays) = &list.kind else {
        return Err(InputError::at(&list.span, "expected a playbook: a list of plays"));
    };
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    for node in plays {
        let import = node.get("import_playbook").or_else(|| node.get("ansible.builtin.import_playbook"));
        let result = match import {
            Some(_) if depth > 20 => Err(InputError::at(&node.span, "playbooks import each other more than 20 deep")),
            Some(import) => {
                text(import).and_then(|name| read_playbook(tree, &base.join(name), playbook, errors, depth + 1))
            }
            None => {
                read_play(tree, node, &base, playbook.plays.len() + 1, errors).map(|play| playbook.plays.push(play))
            }
        };
        if let Err(error) = result {
            errors.push(error);
        }
    }
    Ok(())
}

fn read_play(
    tree: &Arc<Tree>,
    node: &Node,
    base: &Path,
    number: usize,
    errors: &mut Vec<InputError>,
) -> Result<Play, InputError> {
    if !matches!(node.kind, Kind::Map(_)) {
        return Err(InputError::at(&node.span, "expected a play: a mapping with `hosts`"));
    }
    for (key, _) in node.as_map().unwrap_or_default() {
        let name = key.as_str().unwrap_or_default();
        if !PLAY_KEYWORDS.contains(&name) {
            let mut error = InputError::at(&key.span, format!("`{name}` is not a keyword of a play that is supported"));
            error.help = near_miss(name, PLAY_KEYWORDS.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            return Err(error);
        }
    }
    let hosts = node.get("hosts").ok_or_else(|| InputError::at(&node.span, "a play without `hosts`"))?;
    let pattern = Spanned { value: strings(hosts)?.join(","), span: hosts.span.clone() };
    let flag = |name: &str| node.get(name).map(boolean).transpose();
    let mut inherited = Keywords {
        tags: node.get("tags").map(tags).transpose()?.unwrap_or_default(),
        no_log: flag("no_log")?.unwrap_or(false),
        ..Keywords::default()
    };
    if let Some(environment) = node.get("environment") {
        inherited.environment.push(Spanned { value: environment.to_value(), span: environment.span.clone() });
    }
    if let Some(when) = node.get("when") {
        return Err(InputError::at(&when.span, "a play has no `when`").help("put it on the roles or tasks"));
    }
    let files = Files { tree: tree.clone(), base: base.to_owned() };
    let context = Context { files, role: None, inherited, dir: base.to_owned(), chain: Vec::new() };
    let mut counter = Counter { play: number, tasks: 0, handlers: 0, errors: Vec::new() };
    let mut steps = Vec::new();
    let mut handlers = Vec::new();

    if let Some(list) = node.get("pre_tasks") {
        read_steps(list, &context, &mut counter, &mut steps);
        steps.push(counter.flush());
    }
    let mut role_steps = Vec::new();
    if let Some(list) = node.get("roles") {
        let Kind::List(roles) = &list.kind else { return Err(InputError::at(&list.span, "`roles` is a list")) };
        for role in roles {
            let result = read_role_entry(role, &context, &mut counter, &mut role_steps, &mut handlers);
            counter.note(result);
        }
    }
    steps.append(&mut role_steps);
    if let Some(list) = node.get("tasks") {
        read_steps(list, &context, &mut counter, &mut steps);
    }
    steps.push(counter.flush());
    if let Some(list) = node.get("post_tasks") {
        read_steps(list, &context, &mut counter, &mut steps);
        steps.push(counter.flush());
    }
    if let Some(Step::FlushHandlers { last, .. }) = steps.last_mut() {
        *last = true;
    }
    if let Some(list) = node.get("handlers") {
        read_handlers(list, &context, &mut counter, &mut handlers);
    }
    collect_included_handlers(&steps, tree, &mut counter, &mut handlers);
    check_notify(&steps, &handlers, &mut counter.errors);
    errors.append(&mut counter.errors);

    let name = match node.get("name") {
        Some(name) => text(name)?,
        None => pattern.value.clone(),
    };
    let needs = match node.get("needs") {
        None => None,
        Some(list) => {
            Some(strings(list)?.into_iter().map(|value| Spanned { value, span: list.span.clone() }).collect())
        }
    };
    Ok(Play {
        name,
        hosts: pattern,
        span: node.span.clone(),
        needs,
        serial: node.get("serial").map(read_serial).transpose()?.unwrap_or_default(),
        any_errors_fatal: flag("any_errors_fatal")?.unwrap_or(false),
        gather_facts: flag("gather_facts")?.unwrap_or(true),
        escalate: flag("become")?,
        become_user: node.get("become_user").map(text).transpose()?,
        vars: node.get("vars").map(|vars| layer(vars, "play vars")).transpose()?.unwrap_or_default(),
        steps,
        handlers,
        len: counter.tasks,
    })
}

fn read_serial(node: &Node) -> Result<Vec<BatchSize>, InputError> {
    let one = |node: &Node| {
        let given = text(node)?;
        let size = match given.strip_suffix('%') {
            Some(percent) => {
                percent.trim().parse().ok().filter(|p: &f64| *p > 0.0 && *p <= 100.0).map(BatchSize::Percent)
            }
            None => given.parse().ok().filter(|n| *n > 0).map(BatchSize::Hosts),
        };
        size.ok_or_else(|| {
            InputError::at(&node.span, format!("`serial` is a number of hosts or a percentage, not `{given}`"))
        })
    };
    match &node.kind {
        Kind::List(items) => items.iter().map(one).collect(),
        _ => Ok(vec![one(node)?]),
    }
}

/// An entry of a play's `roles`: a name, or a mapping with `role`, keywords and parameters.
fn read_role_entry(
    node: &Node,
    context: &Context,
    counter: &mut Counter,
    steps: &mut Vec<Step>,
    handlers: &mut Vec<Arc<super::Task>>,
) -> Result<(), InputError> {
    let mut inner = context.clone();
    let name = match &node.kind {
        Kind::Map(entries) => {
            let name = node.get("role").or_else(|| node.get("name"));
            let name = text(name.ok_or_else(|| InputError::at(&node.span, "a role without `role`"))?)?;
            let mut params = crate::vars::VarMap::default();
            for (key, value) in entries {
                match key.as_str().unwrap_or_default() {
                    "role" | "name" => {}
                    "tags" => inner.inherited.tags.extend(tags(value)?),
                    "when" => inner.inherited.when.extend(super::task::conditions(value)?),
                    "vars" => inner.inherited.vars.push(layer(value, "role vars")?),
                    "become" => {
                        boolean(value)?;
                    }
                    other => {
                        params.insert(other.to_owned(), crate::vars::Var::at(value.to_value(), key.span.clone()));
                    }
                }
            }
            if !params.is_empty() {
                inner.inherited.params.push(Arc::new(params));
            }
            name
        }
        _ => text(node)?,
    };
    read_role(&name, node, "main", &inner, counter, steps, handlers)
}

/// `include_role` and `import_role`.
pub(super) fn read_included_role(
    value: &Node,
    context: &Context,
    counter: &mut Counter,
    steps: &mut Vec<Step>,
) -> Result<(), InputError> {
    for (key, _) in value.as_map().unwrap_or_default() {
        if !matches!(key.as_str(), Some("name" | "tasks_from")) {
            return Err(InputError::at(&key.span, "`include_role` takes `name` and `tasks_from` here"));
        }
    }
    let name = text(value.get("name").ok_or_else(|| InputError::at(&value.span, "`include_role` without `name`"))?)?;
    let from = value.get("tasks_from").map(text).transpose()?.unwrap_or_else(|| "main".to_owned());
    // The handlers of such a role are collected at the end of the play, from its tasks.
    read_role(&name, value, from.trim_end_matches(".yml"), context, counter, steps, &mut Vec::new())
}

fn read_role(
    name: &str,
    at: &Node,
    tasks_from: &str,
    context: &Context,
    counter: &mut Counter,
    steps: &mut Vec<Step>,
    handlers: &mut Vec<Arc<super::Task>>,
) -> Result<(), InputError> {
    let tree = &context.files.tree;
    let dir = PathBuf::from("roles").join(name);
    let part = |part: &str, file: &str| -> Result<Option<Node>, InputError> {
        for end in ["yml", "yaml"] {
            if let Some(node) = read_yaml(tree, &dir.join(part).join(format!("{file}.{end}")))? {
                return Ok(Some(node));
            }
        }
        Ok(None)
    };
    if context.chain.iter().any(|role| role == &dir.to_string_lossy()) {
        return Err(InputError::at(&at.span, format!("role `{name}` depends on itself")));
    }
    let (defaults, vars) = (part("defaults", "main")?, part("vars", "main")?);
    let (tasks, meta, own_handlers) = (part("tasks", tasks_from)?, part("meta", "main")?, part("handlers", "main")?);
    if tasks.is_none() && defaults.is_none() && vars.is_none() && meta.is_none() {
        let mut error = InputError::at(&at.span, format!("role `{name}` not found"));
        let roles = tree.roles();
        error.help = Some(match near_miss(name, roles.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("roles there are: {}", roles.join(", ")),
        });
        return Err(error);
    }
    let load = |node: Option<Node>, what: &str| -> Result<Layer, InputError> {
        node.map_or_else(|| Ok(Layer::default()), |node| layer(&node, what))
    };
    let role = Arc::new(Role {
        name: name.to_owned(),
        defaults: load(defaults, "role defaults")?,
        vars: load(vars, "role vars")?,
    });
    let inner = Context {
        files: Files { tree: tree.clone(), base: dir.clone() },
        role: Some(role),
        dir: dir.join("tasks"),
        chain: [context.chain.clone(), vec![dir.to_string_lossy().into_owned()]].concat(),
        ..context.clone()
    };
    if let Some(dependencies) = meta.as_ref().and_then(|meta| meta.get("dependencies")) {
        let Kind::List(list) = &dependencies.kind else {
            return Err(InputError::at(&dependencies.span, "`dependencies` is a list of roles"));
        };
        let outer = Context { chain: inner.chain.clone(), ..context.clone() };
        for dependency in list {
            read_role_entry(dependency, &outer, counter, steps, handlers)?;
        }
    }
    if let Some(list) = own_handlers {
        let keywords = Keywords {
            params: context.inherited.params.clone(),
            vars: context.inherited.vars.clone(),
            ..Keywords::default()
        };
        let scope = Context { inherited: keywords, dir: dir.join("handlers"), ..inner.clone() };
        read_handlers(&list, &scope, counter, handlers);
    }
    if let Some(list) = tasks {
        read_steps(&list, &inner, counter, steps);
    }
    Ok(())
}

/// Handlers of roles that came in through `include_role`.
fn collect_included_handlers(
    steps: &[Step],
    tree: &Arc<Tree>,
    counter: &mut Counter,
    handlers: &mut Vec<Arc<super::Task>>,
) {
    for task in tasks_of(steps) {
        let Some(role) = &task.role else { continue };
        if task.keywords.notify.is_empty() || handlers.iter().any(|handler| handler.role_name() == role.name) {
            continue;
        }
        let dir = PathBuf::from("roles").join(&role.name).join("handlers");
        match read_yaml(tree, &dir.join("main.yml")) {
            Ok(Some(list)) => {
                let inherited = Keywords { params: task.keywords.params.clone(), ..Keywords::default() };
                let context =
                    Context { files: task.files.clone(), role: Some(role.clone()), inherited, dir, chain: Vec::new() };
                read_handlers(&list, &context, counter, handlers);
            }
            Ok(None) => {}
            Err(error) => counter.errors.push(error),
        }
    }
}

/// Every `notify` names a handler or a topic of the play.
fn check_notify(steps: &[Step], handlers: &[Arc<super::Task>], errors: &mut Vec<InputError>) {
    let names: Vec<&str> =
        handlers.iter().flat_map(|h| std::iter::once(&h.name).chain(&h.keywords.listen)).map(String::as_str).collect();
    for task in tasks_of(steps) {
        for name in &task.keywords.notify {
            if !names.contains(&name.as_str()) {
                let mut error = InputError::at(&task.span, format!("`notify: {name}` names no handler of this play"));
                error.help = near_miss(name, names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                errors.push(error);
            }
        }
    }
}

/// `needs` names plays that come earlier.
fn check_needs(playbook: &Playbook, errors: &mut Vec<InputError>) {
    for (i, play) in playbook.plays.iter().enumerate() {
        for need in play.needs.iter().flatten() {
            if !playbook.plays[..i].iter().any(|earlier| earlier.name == need.value) {
                let names = playbook.plays[..i].iter().map(|p| p.name.as_str());
                let mut error = InputError::at(&need.span, format!("`needs` names no earlier play: `{}`", need.value));
                error.help = near_miss(&need.value, names).map(|near| format!("did you mean `{near}`?"));
                errors.push(error);
            }
        }
    }
}

/// All tasks of these steps in order, blocks included.
pub fn tasks_of(steps: &[Step]) -> Vec<Arc<super::Task>> {
    let mut tasks = Vec::new();
    for step in steps {
        match step {
            Step::Task(task) => tasks.push(task.clone()),
            Step::Block(block) => {
                for part in [&block.body, &block.rescue, &block.always] {
                    tasks.append(&mut tasks_of(part));
                }
            }
            Step::FlushHandlers { .. } | Step::Barrier { .. } => {}
        }
    }
    tasks
}
