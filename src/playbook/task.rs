//! Reads task lists: tasks, blocks, includes; folds what is inherited into each task.

use super::Tree;
use super::types::{Block, Files, Keywords, Loop, Role, Step, Task};
use crate::source::{InputError, Spanned, near_miss};
use crate::value::Value;
use crate::vars::{Layer, Var, VarMap};
use crate::yaml::{self, Kind, Node};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What Ansible has and kprov does not, so that the error can say so.
const NOT_SUPPORTED: &[&str] = &[
    "action",
    "async",
    "become_exe",
    "become_flags",
    "become_method",
    "collections",
    "connection",
    "debugger",
    "delegate_facts",
    "diff",
    "ignore_unreachable",
    "local_action",
    "module_defaults",
    "poll",
    "port",
    "remote_user",
    "throttle",
    "timeout",
];

const KEYWORDS: &[&str] = &[
    "always",
    "any_errors_fatal",
    "args",
    "become",
    "become_user",
    "block",
    "changed_when",
    "check_mode",
    "delay",
    "delegate_to",
    "environment",
    "failed_when",
    "ignore_errors",
    "listen",
    "loop",
    "loop_control",
    "name",
    "no_log",
    "notify",
    "register",
    "rescue",
    "retries",
    "run_once",
    "tags",
    "until",
    "vars",
    "when",
    "with_items",
];

/// Where a task list stands: what it inherits and where its files are.
#[derive(Clone)]
pub(super) struct Context {
    pub files: Files,
    pub role: Option<Arc<Role>>,
    pub inherited: Keywords,
    /// The directory that includes are relative to: "roles/etcd/tasks".
    pub dir: PathBuf,
    /// Roles that are being read, against cycles.
    pub chain: Vec<String>,
}

/// Numbers the tasks of a play.
pub(super) struct Counter {
    pub play: usize,
    pub tasks: usize,
    pub handlers: usize,
    pub errors: Vec<InputError>,
}

impl Counter {
    /// The number of the next task.
    pub fn next(&mut self) -> usize {
        self.tasks += 1;
        self.tasks - 1
    }

    pub fn flush(&mut self) -> Step {
        Step::FlushHandlers { index: self.next(), last: false }
    }

    /// Keeps a mistake and goes on, so that all of them are shown.
    pub fn note(&mut self, result: Result<(), InputError>) {
        if let Err(error) = result {
            self.errors.push(error);
        }
    }
}

/// Reads a list of tasks and appends its steps.
pub(super) fn read_steps(list: &Node, context: &Context, counter: &mut Counter, steps: &mut Vec<Step>) {
    let items = match &list.kind {
        Kind::List(items) => items,
        Kind::Null => return,
        _ => {
            counter.errors.push(InputError::at(&list.span, "expected a list of tasks"));
            return;
        }
    };
    for item in items {
        let result = read_step(item, context, counter, steps);
        counter.note(result);
    }
}

/// Reads the handlers of a play or role. Each has a name, by which it is notified.
pub(super) fn read_handlers(list: &Node, context: &Context, counter: &mut Counter, handlers: &mut Vec<Arc<Task>>) {
    let mut steps = Vec::new();
    let tasks = std::mem::take(&mut counter.tasks);
    read_steps(list, context, counter, &mut steps);
    counter.tasks = tasks;
    for step in steps {
        match step {
            Step::Task(task) => {
                counter.handlers += 1;
                let id = format!("{}.h{}", counter.play, counter.handlers);
                match Arc::try_unwrap(task) {
                    Ok(task) => handlers.push(Arc::new(Task { id, index: None, ..task })),
                    Err(shared) => handlers.push(shared),
                }
            }
            _ => counter.errors.push(InputError::at(
                &list.span,
                "a handler is a task; blocks with `rescue` and `meta` are not supported here",
            )),
        }
    }
}

fn read_step(node: &Node, context: &Context, counter: &mut Counter, steps: &mut Vec<Step>) -> Result<(), InputError> {
    let Kind::Map(entries) = &node.kind else {
        return Err(InputError::at(&node.span, "expected a task: a mapping with a module in it"));
    };
    let keywords = read_keywords(node, context)?;
    if let Some(body) = node.get("block") {
        return read_block(node, body, keywords, context, counter, steps);
    }
    let mut module = None;
    for (key, value) in entries {
        let Some(name) = key.as_str() else {
            return Err(InputError::at(&key.span, "expected the name of a keyword or module"));
        };
        if KEYWORDS.contains(&name) {
            continue;
        }
        if NOT_SUPPORTED.contains(&name) || name.starts_with("with_") {
            return Err(InputError::at(&key.span, format!("the keyword `{name}` is not supported"))
                .help("see docs/roles.md for what is"));
        }
        if let Some((first, _, _)) = module {
            let short = short_name(name);
            let message = if super::play::is_module(short) || !KEYWORDS.iter().any(|k| near_miss(name, [*k]).is_some())
            {
                format!("two modules in one task: `{first}` and `{name}`")
            } else {
                format!("unknown keyword `{name}`")
            };
            let mut error = InputError::at(&key.span, message);
            error.help = near_miss(name, KEYWORDS.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            return Err(error);
        }
        module = Some((name, key, value));
    }
    let Some((name, key, value)) = module else {
        return Err(InputError::at(&node.span, "a task without a module")
            .help("name what it does: `copy:`, `template:`, `command:`, …"));
    };
    let module = short_name(name);
    match module {
        "include_tasks" | "import_tasks" => read_include(value, &keywords, context, counter, steps),
        "include_role" | "import_role" => {
            let inner = Context { inherited: keywords, ..context.clone() };
            super::play::read_included_role(value, &inner, counter, steps)
        }
        "meta" => read_meta(value, counter, steps),
        _ if super::play::is_module(module) => {
            check_notify_fits(node, module, &keywords)?;
            let (args, free_form) = read_args(value, node.get("args"))?;
            check_args(module, &args, free_form.is_some(), value)?;
            let index = counter.next();
            let name = node.get("name").and_then(Node::as_str).map_or_else(|| module.to_owned(), str::to_owned);
            steps.push(Step::Task(Arc::new(Task {
                id: format!("{}.{}", counter.play, index + 1),
                index: Some(index),
                name,
                role: context.role.clone(),
                module: module.to_owned(),
                args,
                args_span: value.span.clone(),
                free_form,
                keywords,
                span: key.span.clone(),
                files: context.files.clone(),
            })));
            Ok(())
        }
        _ => {
            let mut error = InputError::at(&key.span, format!("unknown module `{name}`"));
            let known = super::play::module_names();
            error.help = Some(match near_miss(module, known.iter().copied().chain(KEYWORDS.iter().copied())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "docs/modules.md lists the modules that there are".to_owned(),
            });
            Err(error)
        }
    }
}

/// Arguments that can be told to be wrong before they are rendered.
fn check_args(module: &str, args: &Value, text: bool, node: &Node) -> Result<(), InputError> {
    if text && !matches!(module, "command" | "shell") {
        return Err(InputError::at(&node.span, format!("{module}: expected a mapping of arguments, found a text"))
            .help("write `name: value` for each, on lines of their own"));
    }
    let Some(known) = crate::engine::actions::arguments(module) else { return Ok(()) };
    let mut names = args.as_map().into_iter().flat_map(|map| map.keys());
    let Some(name) = names.find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let key = node.as_map().unwrap_or_default().iter().map(|(key, _)| key).find(|key| key.as_str() == Some(name));
    let span = key.map_or(&node.span, |key| &key.span);
    Err(InputError::at(span, format!("{module}: unknown argument `{name}`")).help(
        match near_miss(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "this module takes no arguments".to_owned(),
            None => format!("this module takes {}", known.join(", ")),
        },
    ))
}

/// `notify` is told to the agent with the task: docs/decisions/0005-handlers.md.
fn check_notify_fits(node: &Node, module: &str, keywords: &Keywords) -> Result<(), InputError> {
    let Some(notify) = node.get("notify") else { return Ok(()) };
    let dynamic = |conditions: &Option<Vec<Spanned<Value>>>| {
        conditions.iter().flatten().any(|condition| condition.value.as_bool().is_none())
    };
    let reason = if !crate::modules::NAMES.contains(&module)
        && !matches!(module, "template" | "artifact" | "containerd_image")
    {
        format!("with `{module}`, which runs on the controller,")
    } else if keywords.delegate_to.is_some() {
        "together with `delegate_to`".to_owned()
    } else if dynamic(&keywords.changed_when) {
        "together with an expression in `changed_when`".to_owned()
    } else {
        return Ok(());
    };
    Err(InputError::at(&notify.span, format!("`notify` {reason} is not supported"))
        .help("put the work of the handler into a task with `when`"))
}

fn read_block(
    node: &Node,
    body: &Node,
    keywords: Keywords,
    context: &Context,
    counter: &mut Counter,
    steps: &mut Vec<Step>,
) -> Result<(), InputError> {
    for (key, _) in node.as_map().unwrap_or_default() {
        let name = key.as_str().unwrap_or_default();
        if !KEYWORDS.contains(&name) || matches!(name, "loop" | "with_items" | "register" | "until" | "args") {
            return Err(InputError::at(&key.span, format!("`{name}` does not go with a block")));
        }
    }
    let inner = Context { inherited: keywords, ..context.clone() };
    let (rescue, always) = (node.get("rescue"), node.get("always"));
    if rescue.is_none() && always.is_none() {
        read_steps(body, &inner, counter, steps);
        return Ok(());
    }
    let mut block = Block { body: Vec::new(), rescue: Vec::new(), always: Vec::new() };
    read_steps(body, &inner, counter, &mut block.body);
    if let Some(rescue) = rescue {
        read_steps(rescue, &inner, counter, &mut block.rescue);
    }
    if let Some(always) = always {
        read_steps(always, &inner, counter, &mut block.always);
    }
    steps.push(Step::Block(Arc::new(block)));
    Ok(())
}

fn read_include(
    value: &Node,
    keywords: &Keywords,
    context: &Context,
    counter: &mut Counter,
    steps: &mut Vec<Step>,
) -> Result<(), InputError> {
    let file = value.as_str().or_else(|| value.get("file").and_then(Node::as_str));
    let Some(file) = file else { return Err(InputError::at(&value.span, "expected the name of a file with tasks")) };
    if file.contains("{{") || keywords.loop_.is_some() || keywords.register.is_some() {
        return Err(InputError::at(
            &value.span,
            "an include whose file or number is known only during the run is not supported",
        )
        .help("name the file, and put `when` on the include to choose"));
    }
    let path = context.dir.join(file);
    let list = read_yaml(&context.files.tree, &path)?.ok_or_else(|| {
        InputError::at(&value.span, format!("file `{file}` not found")).help(format!("looked for {}", path.display()))
    })?;
    let inner = Context {
        inherited: keywords.clone(),
        dir: path.parent().unwrap_or(Path::new("")).to_owned(),
        ..context.clone()
    };
    if context.chain.len() > 50 {
        return Err(InputError::at(&value.span, "includes are nested more than 50 deep: does a file include itself?"));
    }
    let inner = Context { chain: [inner.chain.clone(), vec![file.to_owned()]].concat(), ..inner };
    read_steps(&list, &inner, counter, steps);
    Ok(())
}

fn read_meta(value: &Node, counter: &mut Counter, steps: &mut Vec<Step>) -> Result<(), InputError> {
    match value.as_str() {
        Some("flush_handlers") => steps.push(counter.flush()),
        Some("barrier") => steps.push(Step::Barrier { index: counter.next() }),
        Some("noop") => {}
        _ => {
            return Err(InputError::at(&value.span, "this `meta` action is not supported")
                .help("supported: flush_handlers, barrier, noop"));
        }
    }
    Ok(())
}

/// The arguments as a mapping, and the free-form text.
fn read_args(value: &Node, args: Option<&Node>) -> Result<(Value, Option<String>), InputError> {
    let mut map = match &value.kind {
        Kind::Map(_) => return merge_args(value.to_value(), args).map(|v| (v, None)),
        Kind::Null => Value::Map(Default::default()),
        Kind::String(text) => {
            let map = merge_args(Value::Map(Default::default()), args)?;
            return Ok((map, Some(text.clone())));
        }
        _ => return Err(InputError::at(&value.span, "expected the module's arguments as a mapping or a text")),
    };
    map = merge_args(map, args)?;
    Ok((map, None))
}

fn merge_args(value: Value, args: Option<&Node>) -> Result<Value, InputError> {
    let Some(node) = args else { return Ok(value) };
    match (value, node.to_value()) {
        (Value::Map(mut map), Value::Map(more)) => {
            map.extend(more);
            Ok(Value::Map(map))
        }
        _ => Err(InputError::at(&node.span, "`args` is a mapping")),
    }
}

fn read_keywords(node: &Node, context: &Context) -> Result<Keywords, InputError> {
    let mut keywords = Keywords { loop_: None, register: None, ..context.inherited.clone() };
    let spanned = |node: &Node| Spanned { value: node.to_value(), span: node.span.clone() };
    for (key, value) in node.as_map().unwrap_or_default() {
        match key.as_str().unwrap_or_default() {
            "name" => {
                text(value)?;
            }
            "when" => keywords.when.extend(conditions(value)?),
            "tags" => keywords.tags.extend(tags(value)?),
            "loop" | "with_items" => {
                let flatten = key.as_str() == Some("with_items");
                let items = spanned(value);
                keywords.loop_ = Some(Loop { items, flatten, var: "item".to_owned(), index_var: None, label: None });
            }
            "register" => {
                let name = text(value)?;
                if name.is_empty()
                    || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                    || name.starts_with(|c: char| c.is_ascii_digit())
                {
                    return Err(InputError::at(&value.span, "`register` takes the name of a variable"));
                }
                keywords.register = Some(name);
            }
            "notify" => keywords.notify.extend(strings(value)?),
            "listen" => keywords.listen.extend(strings(value)?),
            "delegate_to" => keywords.delegate_to = Some(Spanned { value: text(value)?, span: value.span.clone() }),
            "run_once" => keywords.run_once = boolean(value)?,
            "ignore_errors" => keywords.ignore_errors = Some(spanned(value)),
            "until" => keywords.until = conditions(value)?,
            "retries" => keywords.retries = Some(spanned(value)),
            "delay" => keywords.delay = Some(spanned(value)),
            "changed_when" => keywords.changed_when = Some(conditions(value)?),
            "failed_when" => keywords.failed_when = Some(conditions(value)?),
            "no_log" => keywords.no_log = boolean(value)?,
            "check_mode" => {
                if boolean(value)? {
                    return Err(InputError::at(&value.span, "`check_mode: true` on a task is not supported")
                        .help("use `kprov plan`"));
                }
                keywords.always_run = true;
            }
            "any_errors_fatal" => keywords.any_errors_fatal = boolean(value)?,
            "environment" => keywords.environment.push(spanned(value)),
            "vars" => keywords.vars.push(layer(value, "task vars")?),
            "become" if !boolean(value)? => {
                return Err(InputError::at(&value.span, "a task cannot leave the user that its host runs as")
                    .help("`become` is decided for each host: by `-b`, `ansible_become`, or the play"));
            }
            "become_user" if text(value)? != "root" => {
                return Err(InputError::at(&value.span, "`become_user` on a task is not supported")
                    .help("set it for the host (`ansible_become_user`) or on the command line"));
            }
            _ => {}
        }
    }
    if let (Some(control), Some(loop_)) = (node.get("loop_control"), keywords.loop_.as_mut()) {
        for (key, value) in control.as_map().unwrap_or_default() {
            match key.as_str().unwrap_or_default() {
                "loop_var" => loop_.var = text(value)?,
                "index_var" => loop_.index_var = Some(text(value)?),
                "label" => loop_.label = Some(text(value)?),
                other => {
                    return Err(InputError::at(&key.span, format!("`loop_control` has no `{other}` here"))
                        .help("supported: loop_var, index_var, label"));
                }
            }
        }
    }
    Ok(keywords)
}

/// Reads the YAML file at `path` of the tree; `None` where it does not exist.
pub(super) fn read_yaml(tree: &Tree, path: &Path) -> Result<Option<Node>, InputError> {
    tree.read(path)?.map(|source| yaml::load(&source)).transpose()
}

/// A mapping of variables as a layer, with the place of each.
pub(super) fn layer(node: &Node, what: &str) -> Result<Layer, InputError> {
    let mut vars = VarMap::default();
    match &node.kind {
        Kind::Null => {}
        Kind::Map(entries) => {
            for (key, value) in entries {
                let name = key.as_str().ok_or_else(|| InputError::at(&key.span, "expected the name of a variable"))?;
                vars.insert(name.to_owned(), Var::at(value.to_value(), key.span.clone()));
            }
        }
        _ => return Err(InputError::at(&node.span, format!("{what} are a mapping of names to values"))),
    }
    Ok(Arc::new(vars))
}

pub(super) fn text(node: &Node) -> Result<String, InputError> {
    match node.to_value() {
        Value::String(s) => Ok(s),
        v @ (Value::Int(_) | Value::Float(_) | Value::Bool(_)) => Ok(v.to_string()),
        other => Err(InputError::at(&node.span, format!("expected a text, found {}", other.type_name()))),
    }
}

pub(super) fn boolean(node: &Node) -> Result<bool, InputError> {
    let value = node.to_value();
    value.to_bool().ok_or_else(|| InputError::at(&node.span, format!("expected yes or no, found {value}")))
}

/// A text or a list of texts.
pub(super) fn strings(node: &Node) -> Result<Vec<String>, InputError> {
    match &node.kind {
        Kind::List(items) => items.iter().map(text).collect(),
        _ => Ok(vec![text(node)?]),
    }
}

/// Tags: as [`strings`], and commas separate too.
pub(super) fn tags(node: &Node) -> Result<Vec<String>, InputError> {
    Ok(strings(node)?
        .iter()
        .flat_map(|s| s.split(','))
        .map(|s| s.trim().to_owned())
        .filter(|s| !s.is_empty())
        .collect())
}

/// A condition or a list of conditions, each an expression or a boolean.
pub(super) fn conditions(node: &Node) -> Result<Vec<Spanned<Value>>, InputError> {
    let one = |node: &Node| match node.to_value() {
        value @ (Value::String(_) | Value::Bool(_) | Value::Int(_)) => Ok(Spanned { value, span: node.span.clone() }),
        other => Err(InputError::at(&node.span, format!("expected a condition, found {}", other.type_name()))),
    };
    match &node.kind {
        Kind::List(items) => items.iter().map(one).collect(),
        _ => Ok(vec![one(node)?]),
    }
}

fn short_name(name: &str) -> &str {
    ["ansible.builtin.", "ansible.legacy.", "ansible.posix.", "community.general.", "kubernetes.core."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}
