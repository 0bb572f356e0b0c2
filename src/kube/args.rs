//! The arguments of the tasks `k8s` and `k8s_info`.
//!
//! <https://docs.ansible.com/ansible/latest/collections/kubernetes/core/k8s_module.html>. How to reach the cluster is not
//! among them: kprov knows that. A `template` is rendered by the engine, which hands the text over as `definition`.

use super::client::Client;
use super::info::{Condition, Query, Wait};
use super::object::Object;
use crate::modules::args::{ArgError, Args, missing};
use crate::modules::{Failure, Outcome};
use crate::system::Mode;
use crate::value::{Map, Value};
use std::time::Duration;

/// The names under which the tasks can be called.
pub const NAMES: &[&str] = &["k8s", "kubernetes.core.k8s", "k8s_info", "kubernetes.core.k8s_info"];

/// A task for the Kubernetes API with its arguments. It runs on the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Apply(Vec<Object>),
    Delete(Vec<Object>),
    Info(Box<Query>),
}

impl Task {
    /// Does it, or finds out what that would change.
    pub async fn run(&self, client: &Client, mode: Mode) -> Result<Outcome, Failure> {
        match self {
            Self::Apply(objects) => client.apply(objects, mode).await,
            Self::Delete(objects) => client.delete(objects, mode).await,
            Self::Info(query) => client.info(query, mode).await,
        }
    }
}

/// Builds the task `name` from its rendered arguments. `None`: it is none of [`NAMES`].
pub fn from_args(name: &str, args: Args<'_>) -> Option<Result<Task, ArgError>> {
    match name.strip_prefix("kubernetes.core.").unwrap_or(name) {
        "k8s" => Some(k8s(args)),
        "k8s_info" => Some(k8s_info(args)),
        _ => None,
    }
}

fn k8s(mut args: Args<'_>) -> Result<Task, ArgError> {
    let state = args.choice("state", &["present", "absent"])?.unwrap_or("present");
    let namespace = args.opt_str("namespace")?;
    let (api_version, kind) = (args.opt_str("api_version")?, args.opt_str("kind")?);
    let name = args.opt_str("name")?;
    let mut sources = Vec::new();
    for argument in ["definition", "resource_definition", "inline"] {
        sources.extend(args.take(argument)?.map(|value| (argument, value)));
    }
    if let Some(path) = args.opt_str("src")? {
        let (found, bytes) = args.files.read(&path)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ArgError::new("src", format!("{} is not UTF-8 text", found.display())))?;
        sources.push(("src", Value::String(text)));
    }
    args.finish()?;

    let objects = match (sources.as_slice(), kind, name) {
        ([(argument, definition)], None, None) => Object::read_all(definition, namespace.as_deref())
            .map_err(|error| ArgError::new(argument, format!("`{argument}`: {error}")))?,
        // An object that consists of its name: a namespace to make, or anything to delete.
        ([], Some(kind), Some(name)) => {
            let metadata = Value::Map(Map::from_iter([("name".to_owned(), name.into())]));
            let api_version = api_version.unwrap_or_else(|| "v1".to_owned());
            let object = [("apiVersion", api_version.into()), ("kind", kind.into()), ("metadata", metadata)];
            Object::read_all(&object.into_iter().collect(), namespace.as_deref())
                .map_err(|error| ArgError::new("name", error))?
        }
        ([_, (second, _), ..], ..) => {
            return Err(ArgError::new(second, format!("`{second}` and `{}` exclude each other", sources[0].0)));
        }
        ([(argument, _)], ..) => {
            return Err(ArgError::new("kind", format!("`kind` and `name` belong in `{argument}` where that is given")));
        }
        ([], ..) => {
            let mut error = missing("definition");
            error.help = Some("give `definition`, `src` or `template`, or `kind` and `name`".to_owned());
            return Err(error);
        }
    };
    Ok(if state == "present" { Task::Apply(objects) } else { Task::Delete(objects) })
}

fn k8s_info(mut args: Args<'_>) -> Result<Task, ArgError> {
    let mut query = Query {
        api_version: args.opt_str("api_version")?.unwrap_or_else(|| "v1".to_owned()),
        kind: args.str("kind")?,
        name: args.opt_str("name")?,
        namespace: args.opt_str("namespace")?,
        label_selectors: args.list("label_selectors")?.unwrap_or_default(),
        field_selectors: args.list("field_selectors")?.unwrap_or_default(),
        wait: None,
    };
    let wait = args.bool("wait", false)?;
    let timeout = args.opt_int("wait_timeout")?.unwrap_or(120);
    let timeout = u64::try_from(timeout)
        .map_err(|_| ArgError::new("wait_timeout", format!("`wait_timeout` is {timeout}, expected seconds")))?;
    let condition = args.opt_map("wait_condition")?.map(condition).transpose()?;
    args.finish()?;
    if condition.is_some() && !wait {
        return Err(ArgError::new("wait_condition", "`wait_condition` means nothing without `wait: true`"));
    }
    query.wait = wait.then(|| Wait { condition, timeout: Duration::from_secs(timeout) });
    Ok(Task::Info(Box::new(query)))
}

fn condition(map: Map) -> Result<Condition, ArgError> {
    let error = |message: String| ArgError::new("wait_condition", format!("`wait_condition`: {message}"));
    let (mut kind, mut status, mut reason) = (None, None, None);
    for (key, value) in map {
        let place = match key.as_str() {
            "type" => &mut kind,
            "status" => &mut status,
            "reason" => &mut reason,
            other => return Err(error(format!("unknown key `{other}`, expected type, status or reason"))),
        };
        *place = Some(value.to_string());
    }
    let kind = kind.ok_or_else(|| error("missing `type`".to_owned()))?;
    Ok(Condition { kind, status: status.unwrap_or_else(|| "True".to_owned()), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::args::Files;
    use crate::source::Source;
    use std::path::PathBuf;

    struct Role;
    impl Files for Role {
        fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ArgError> {
            match name {
                "a.yml" => Ok((name.into(), b"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n".to_vec())),
                _ => Err(ArgError::new("src", format!("no file `{name}`"))),
            }
        }
    }

    fn parse(name: &str, yaml: &str) -> Result<Task, ArgError> {
        let node = crate::yaml::load(&Source::new("test", yaml)).unwrap();
        let map = node.to_value().as_map().cloned().unwrap_or_default();
        from_args(name, Args::new(map, None, &Role)).unwrap()
    }

    #[test]
    fn objects_come_from_one_source() {
        let inline = "definition: {apiVersion: v1, kind: Namespace, metadata: {name: a}}";
        let Task::Apply(objects) = parse("k8s", inline).unwrap() else { panic!() };
        assert_eq!(objects[0].key(false).to_string(), "Namespace a");
        assert_eq!(parse("kubernetes.core.k8s", "src: a.yml").unwrap(), Task::Apply(objects.clone()));
        assert_eq!(parse("k8s", "{kind: Namespace, name: a}").unwrap(), Task::Apply(objects.clone()));
        assert_eq!(parse("k8s", "{kind: Namespace, name: a, state: absent}").unwrap(), Task::Delete(objects));

        let error = |yaml: &str| parse("k8s", yaml).unwrap_err().message;
        assert_eq!(error("{definition: x, src: a.yml}"), "`src` and `definition` exclude each other");
        assert_eq!(error("{}"), "missing argument `definition`");
        assert_eq!(error("definition: {kind: Pod}"), "`definition`: an object has no `apiVersion`");
        assert_eq!(error("{src: a.yml, kubeconfig: x}"), "unknown argument `kubeconfig`");
    }

    #[test]
    fn waits_are_read() {
        let Task::Info(query) = parse(
            "k8s_info",
            "{kind: Node, label_selectors: [a=b], wait: yes, wait_timeout: 5, wait_condition: {type: Ready, status: True}}",
        )
        .unwrap() else {
            panic!()
        };
        let wait = query.wait.unwrap();
        assert_eq!(wait.timeout, Duration::from_secs(5));
        let wanted = Condition { kind: "Ready".into(), status: "True".into(), reason: None };
        assert_eq!(wait.condition, Some(wanted));
        let error = |yaml: &str| parse("k8s_info", yaml).unwrap_err().message;
        assert_eq!(
            error("{kind: Node, wait: yes, wait_condition: {typ: x}}"),
            "`wait_condition`: unknown key `typ`, expected type, status or reason"
        );
        assert!(error("{kind: Node, wait_condition: {type: x}}").contains("without `wait: true`"));
        assert_eq!(error("name: x"), "missing argument `kind`");
    }
}
