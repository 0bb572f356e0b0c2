//! Argument specs: the variables that roles declare in `meta/argument_specs.yml`, with type, default and description.
//!
//! Source: Ansible's user guide, "Role argument validation", and its conversion rules, with two that are stricter:
//! a list or a dict is no string, and a float is none either (`1.30` would become `1.3`).

use crate::source::{InputError, InputErrors, Span, near_miss};
use crate::value::Value;
use crate::yaml::{Fields, Node};
use indexmap::IndexMap;

/// The type of a variable as a spec names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    #[default]
    Str,
    Int,
    Float,
    Bool,
    List,
    Dict,
    /// A string that is a path.
    Path,
    /// Anything.
    Raw,
}

impl Type {
    pub const ALL: [Self; 8] =
        [Self::Str, Self::Int, Self::Float, Self::Bool, Self::List, Self::Dict, Self::Path, Self::Raw];

    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::List => "list",
            Self::Dict => "dict",
            Self::Path => "path",
            Self::Raw => "raw",
        }
    }

    /// Whether Ansible takes the value for one of this type, converting it where it would.
    fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Raw, _) | (_, Value::Unknown(_)) => true,
            (Self::Str, Value::String(_) | Value::Int(_) | Value::Bool(_)) | (Self::Path, Value::String(_)) => true,
            (Self::Int, Value::Int(_)) | (Self::Float, Value::Float(_) | Value::Int(_)) => true,
            (Self::Int, Value::Float(x)) => x.fract() == 0.0,
            (Self::Int, Value::String(s)) => s.trim().parse::<i64>().is_ok(),
            (Self::Float, Value::String(s)) => s.trim().parse::<f64>().is_ok(),
            (Self::Bool, value) => value.to_bool().is_some(),
            // Text with commas becomes a list of its parts, a scalar a list of one.
            (Self::List, Value::List(_) | Value::String(_) | Value::Int(_) | Value::Float(_)) => true,
            (Self::Dict, Value::Map(_)) => true,
            (Self::Dict, Value::String(s)) => s.trim_start().starts_with('{') || s.contains('='),
            _ => false,
        }
    }
}

/// What a role declares about one variable.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub kind: Type,
    pub required: bool,
    pub default: Option<Value>,
    pub choices: Vec<Value>,
    /// Type of the items of a list.
    pub elements: Option<Type>,
    /// Members of a dict, or of the dicts in a list.
    pub options: IndexMap<String, Spec>,
    /// Paragraphs.
    pub description: Vec<String>,
    /// The role that declares it.
    pub role: String,
    pub span: Option<Span>,
}

/// The variables that all roles together declare.
#[derive(Clone, Debug, Default)]
pub struct ArgumentSpecs {
    specs: IndexMap<String, Spec>,
}

impl ArgumentSpecs {
    /// Adds what a role's `meta/argument_specs.yml` declares. Two roles may declare one variable, with one type.
    pub fn load(&mut self, role: &str, node: &Node) -> Result<(), InputErrors> {
        let mut errors = Vec::new();
        let mut file = Fields::new(node)?;
        let entries = file.require("argument_specs")?.expect_map()?;
        file.finish("argument_specs.yml")?;
        for (_, entry) in entries {
            let mut fields = Fields::new(entry)?;
            for key in ["short_description", "description", "author", "version_added", "seealso"] {
                fields.get(key);
            }
            let options = fields.get("options").filter(|node| !node.is_null());
            if let Err(mut more) = fields.finish("an entry point") {
                errors.append(&mut more.0);
            }
            for (name, spec) in read_options(role, options, &mut errors) {
                match self.specs.get(&name) {
                    Some(first) if first.kind != spec.kind && first.kind != Type::Raw => {
                        let (kind, other) = (spec.kind.name(), first.kind.name());
                        let message =
                            format!("{name} is declared as {kind} here and as {other} by role {}", first.role);
                        errors.push(InputError { span: spec.span, ..InputError::new(message) });
                    }
                    Some(first) if first.kind != Type::Raw => {}
                    _ => {
                        self.specs.insert(name, spec);
                    }
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(InputErrors(errors)) }
    }

    /// Declares names of any type: the defaults of a role without argument specs, or what a playbook sets.
    pub fn declare<'a>(&mut self, role: &str, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.specs.entry(name.to_owned()).or_insert_with(|| Spec {
                name: name.to_owned(),
                kind: Type::Raw,
                required: false,
                default: None,
                choices: Vec::new(),
                elements: None,
                options: IndexMap::new(),
                description: Vec::new(),
                role: role.to_owned(),
                span: None,
            });
        }
    }

    pub fn get(&self, name: &str) -> Option<&Spec> {
        self.specs.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Spec> {
        self.specs.values()
    }

    /// Checks a rendered value of a variable; one that is not declared is fine. The caller knows the place.
    pub fn check_value(&self, name: &str, value: &Value) -> Result<(), InputError> {
        self.specs.get(name).map_or(Ok(()), |spec| spec.check(name, value))
    }
}

fn read_options(role: &str, node: Option<&Node>, errors: &mut Vec<InputError>) -> IndexMap<String, Spec> {
    let mut specs = IndexMap::new();
    let pairs = match node.map(Node::expect_map).transpose() {
        Ok(pairs) => pairs.unwrap_or_default(),
        Err(error) => {
            errors.push(error);
            &[]
        }
    };
    for (key, body) in pairs {
        match read_spec(role, key, body) {
            Ok((spec, mut more)) => {
                errors.append(&mut more);
                specs.insert(spec.name.clone(), spec);
            }
            Err(mut more) => errors.append(&mut more.0),
        }
    }
    specs
}

fn read_spec(role: &str, key: &Node, body: &Node) -> Result<(Spec, Vec<InputError>), InputErrors> {
    let mut errors = Vec::new();
    let name = key.expect_str()?.to_owned();
    let mut fields = Fields::new(body)?;
    let kind = read_type(fields.get("type"))?.unwrap_or_default();
    let elements = read_type(fields.get("elements"))?;
    let required = fields.bool("required")?.unwrap_or(false);
    let default = fields.get("default").map(Node::to_value).filter(|value| *value != Value::Null);
    let choices = match fields.get("choices") {
        Some(node) => node.expect_list()?.iter().map(Node::to_value).collect(),
        None => Vec::new(),
    };
    let description = fields.strings("description")?.unwrap_or_default();
    let options = read_options(role, fields.get("options"), &mut errors);
    for key in ["version_added", "no_log", "aliases"] {
        fields.get(key);
    }
    fields.finish(&format!("the spec of {name}"))?;
    let wrong = |message: &str| InputError::at(&key.span, format!("{message} in the spec of {name}"));
    if elements.is_some() && kind != Type::List {
        errors.push(wrong("elements without type: list"));
    }
    if !options.is_empty() && kind != Type::Dict && elements != Some(Type::Dict) {
        errors.push(wrong("options without type: dict or elements: dict"));
    }
    let role = role.to_owned();
    let span = Some(key.span.clone());
    let spec = Spec { name, kind, required, default, choices, elements, options, description, role, span };
    if let Some(value) = spec.default.as_ref().filter(|value| !has_template(value))
        && let Err(error) = spec.check(&spec.name, value)
    {
        errors.push(InputError { span: spec.span.clone(), message: format!("default: {}", error.message), ..error });
    }
    Ok((spec, errors))
}

fn read_type(node: Option<&Node>) -> Result<Option<Type>, InputError> {
    let Some(node) = node else { return Ok(None) };
    let name = node.expect_str()?;
    if let Some(kind) = Type::ALL.into_iter().find(|kind| kind.name() == name) {
        return Ok(Some(kind));
    }
    let error = InputError::at(&node.span, format!("unknown type: {name}"));
    Err(match near_miss(name, Type::ALL.map(Type::name)) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help(format!("types: {}", Type::ALL.map(Type::name).join(", "))),
    })
}

impl Spec {
    /// Checks a value. Text that holds a template passes: it is checked again when it is rendered. `path` names the
    /// value in messages ("node_taints[0]").
    fn check(&self, path: &str, value: &Value) -> Result<(), InputError> {
        if is_template(value) || (*value == Value::Null && !self.required && self.default.is_none()) {
            return Ok(());
        }
        check_type(self.kind, path, value)?;
        if !self.choices.is_empty() {
            let items = value.as_list().unwrap_or(std::slice::from_ref(value));
            let fits = |item: &Value| is_template(item) || self.choices.iter().any(|choice| same(choice, item));
            if let Some(item) = items.iter().find(|item| !fits(item)) {
                return Err(self.bad_choice(path, item));
            }
        }
        match value {
            Value::List(items) if self.kind == Type::List => {
                for (i, item) in items.iter().enumerate().filter(|(_, item)| !is_template(item)) {
                    let path = format!("{path}[{i}]");
                    check_type(self.elements.unwrap_or(Type::Raw), &path, item)?;
                    self.check_members(&path, item)?;
                }
                Ok(())
            }
            _ => self.check_members(path, value),
        }
    }

    fn check_members(&self, path: &str, value: &Value) -> Result<(), InputError> {
        let Value::Map(map) = value else { return Ok(()) };
        if self.options.is_empty() {
            return Ok(());
        }
        for (key, item) in map {
            let Some(spec) = self.options.get(key) else {
                let error = InputError::new(format!("unknown key in {path}: {key}"));
                let keys = self.options.keys().map(String::as_str);
                return Err(match near_miss(key, keys.clone()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("known keys: {}", keys.collect::<Vec<_>>().join(", "))),
                });
            };
            spec.check(&format!("{path}.{key}"), item)?;
        }
        match self.options.values().find(|spec| spec.required && !map.contains_key(&spec.name)) {
            Some(missing) => Err(InputError::new(format!("{path} lacks its key {}", missing.name))),
            None => Ok(()),
        }
    }

    fn bad_choice(&self, path: &str, value: &Value) -> InputError {
        let choices: Vec<String> = self.choices.iter().map(ToString::to_string).collect();
        let text = value.to_string();
        let error = InputError::new(format!("{path} cannot be `{text}`: expected one of {}", choices.join(", ")));
        match near_miss(&text, choices.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        }
    }
}

fn check_type(kind: Type, path: &str, value: &Value) -> Result<(), InputError> {
    if kind.accepts(value) {
        return Ok(());
    }
    let found = match value {
        Value::Null => "nothing".into(),
        Value::List(_) | Value::Map(_) => format!("a {}", value.type_name()),
        scalar => format!("{} `{scalar}`", scalar.type_name()),
    };
    let error = InputError::new(format!("wrong type of {path}: expected {}, found {found}", kind.name()));
    Err(match (kind, value) {
        (_, Value::Null) => error.help("give it a value, or remove the line"),
        (Type::Str, Value::Float(_)) => error.help("quote it: a float loses zeros at its end"),
        (Type::Bool, _) => error.help("write true or false"),
        (Type::Dict, Value::List(_)) => error.help("write `key: value` instead of `- item`"),
        _ => error,
    })
}

/// YAML reads `1` where a choice says `"1"`; Ansible compares after conversion.
fn same(choice: &Value, value: &Value) -> bool {
    choice == value
        || choice.to_string() == value.to_string()
        || (choice.as_bool().is_some() && choice.as_bool() == value.to_bool())
}

fn is_template(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("{{") || text.contains("{%"))
}

/// Whether a value holds a template, however deep.
pub(super) fn has_template(value: &Value) -> bool {
    match value {
        Value::List(items) => items.iter().any(has_template),
        Value::Map(map) => map.values().any(has_template),
        other => is_template(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;
    use crate::yaml;

    const SPECS: &str = "
argument_specs:
  main:
    short_description: Etcd
    options:
      etcd_data_dir: {type: path, default: /var/lib/etcd, description: Where the data is.}
      etcd_heartbeat_interval: {type: int, default: 250}
      etcd_metrics: {type: str, choices: [basic, extensive], default: basic}
      etcd_compaction: {type: bool, required: true}
      etcd_peers:
        type: list
        elements: dict
        description: [One, Two]
        options:
          name: {required: true}
          port: {type: int}
      kube_version: {type: str}
      node_labels: {type: dict, default: {}}
";

    fn specs() -> ArgumentSpecs {
        let mut specs = ArgumentSpecs::default();
        specs.load("etcd", &yaml::load(&Source::new("specs.yml", SPECS)).unwrap()).unwrap();
        specs
    }

    fn check(name: &str, text: &str) -> String {
        let value = yaml::load(&Source::new("v.yml", text)).unwrap().to_value();
        match specs().check_value(name, &value) {
            Ok(()) => "ok".into(),
            Err(error) => format!("{}{}", error.message, error.help.map(|h| format!(" | {h}")).unwrap_or_default()),
        }
    }

    #[test]
    fn types_convert_as_in_ansible() {
        for (name, text) in [
            ("etcd_data_dir", "/x"),
            ("etcd_heartbeat_interval", "'100'"),
            ("etcd_compaction", "'yes'"),
            ("etcd_compaction", "0"),
            ("kube_version", "7"),
            ("node_labels", "{a: b}"),
            ("node_labels", "'{{ x }}'"),
            ("etcd_heartbeat_interval", "'{{ x }}'"),
            ("etcd_peers", "[{name: a, port: '1'}]"),
            ("etcd_peers", "[{name: a, port: '{{ p }}'}, '{{ x }}']"),
            ("kube_version", "~"),
            ("not_declared", "[1]"),
        ] {
            assert_eq!(check(name, text), "ok", "{name}: {text}");
        }
    }

    #[test]
    fn mistakes_say_what_was_expected() {
        let cases = [
            (
                "etcd_heartbeat_interval",
                "fast",
                "wrong type of etcd_heartbeat_interval: expected int, found str `fast`",
            ),
            (
                "etcd_compaction",
                "maybe",
                "wrong type of etcd_compaction: expected bool, found str `maybe` | write true or false",
            ),
            (
                "kube_version",
                "1.30",
                "wrong type of kube_version: expected str, found float `1.3` | quote it: a float loses zeros at its end",
            ),
            ("kube_version", "[1]", "wrong type of kube_version: expected str, found a list"),
            (
                "node_labels",
                "[a]",
                "wrong type of node_labels: expected dict, found a list | write `key: value` instead of `- item`",
            ),
            (
                "etcd_metrics",
                "basics",
                "etcd_metrics cannot be `basics`: expected one of basic, extensive | did you mean `basic`?",
            ),
            ("etcd_peers", "[{port: 1}]", "etcd_peers[0] lacks its key name"),
            ("etcd_peers", "[{name: a, prt: 1}]", "unknown key in etcd_peers[0]: prt | did you mean `port`?"),
            ("etcd_peers", "[{name: a, port: x}]", "wrong type of etcd_peers[0].port: expected int, found str `x`"),
            (
                "etcd_data_dir",
                "~",
                "wrong type of etcd_data_dir: expected path, found nothing | give it a value, or remove the line",
            ),
        ];
        for (name, text, expected) in cases {
            assert_eq!(check(name, text), expected);
        }
    }

    #[test]
    fn mistakes_in_specs_point_at_the_line() {
        let error = |text: &str| {
            let text = format!("argument_specs:\n  main:\n    options:\n{text}");
            let node = yaml::load(&Source::new("s.yml", text)).unwrap();
            ArgumentSpecs::default().load("r", &node).unwrap_err().to_string()
        };
        assert_eq!(error("      a: {type: string}\n"), "s.yml:4: unknown type: string");
        assert_eq!(error("      a: {tpye: str}\n"), "s.yml:4: unknown key in the spec of a: tpye");
        assert_eq!(
            error("      a: {type: int, default: x}\n"),
            "s.yml:4: default: wrong type of a: expected int, found str `x`"
        );
        assert_eq!(error("      a: {elements: str}\n"), "s.yml:4: elements without type: list in the spec of a");
        let mut specs = specs();
        let other = "argument_specs: {main: {options: {etcd_metrics: {type: bool}}}}";
        let errors = specs.load("x", &yaml::load(&Source::new("o.yml", other)).unwrap()).unwrap_err();
        assert_eq!(errors.to_string(), "o.yml:1: etcd_metrics is declared as bool here and as str by role etcd");
    }

    #[test]
    fn declared_names_have_any_type() {
        let mut specs = specs();
        specs.declare("third", ["foo", "kube_version"]);
        assert!(specs.check_value("foo", &Value::Null).is_ok());
        assert_eq!(specs.get("kube_version").unwrap().kind, Type::Str);
        assert_eq!(specs.get("etcd_peers").unwrap().description, ["One", "Two"]);
    }
}
