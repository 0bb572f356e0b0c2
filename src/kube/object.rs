//! Objects as users write them: from a task's `definition`, a mapping, a list of them, or YAML text of several documents.

use crate::source::Source;
use crate::value::Value;
use crate::yaml;
use serde_json::Value as Json;
use std::fmt;

/// A Kubernetes object to be applied or deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub api_version: String,
    pub kind: String,
    /// As written. The kind decides whether it means anything, and whether `default` stands for none.
    pub namespace: Option<String>,
    pub name: String,
    /// The whole object.
    pub body: Json,
}

/// What one object is known by in its cluster. The version of the API does not tell objects apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    pub group: String,
    pub kind: String,
    /// `None` where the kind has no namespaces.
    pub namespace: Option<String>,
    pub name: String,
}

impl Object {
    /// Reads every object in `definition`. `namespace` is for those that name none. The error is a lower-case fragment.
    pub fn read_all(definition: &Value, namespace: Option<&str>) -> Result<Vec<Self>, String> {
        let mut objects = Vec::new();
        collect(definition, namespace, &mut objects)?;
        Ok(objects)
    }

    fn read(body: Json, namespace: Option<&str>) -> Result<Self, String> {
        let text = |pointer: &str| match body.pointer(pointer) {
            Some(Json::String(text)) if !text.is_empty() => Ok(text.clone()),
            _ => Err(format!("an object has no `{}`", pointer[1..].replace('/', "."))),
        };
        let (api_version, kind) = (text("/apiVersion")?, text("/kind")?);
        let name = text("/metadata/name").map_err(|error| format!("{kind}: {error}"))?;
        let namespace = text("/metadata/namespace").ok().or_else(|| namespace.map(ToOwned::to_owned));
        Ok(Self { api_version, kind, namespace, name, body })
    }

    /// `namespaced` is what discovery says of the kind.
    pub fn key(&self, namespaced: bool) -> ObjectKey {
        ObjectKey {
            group: group(&self.api_version).to_owned(),
            kind: self.kind.clone(),
            namespace: namespaced.then(|| self.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            name: self.name.clone(),
        }
    }
}

/// The group of an API version: `apps` of `apps/v1`, nothing of `v1`.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// `Deployment kube-system/coredns`, `Node n1`
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

fn collect(definition: &Value, namespace: Option<&str>, objects: &mut Vec<Object>) -> Result<(), String> {
    match definition {
        Value::Null => Ok(()),
        Value::List(items) => items.iter().try_for_each(|item| collect(item, namespace, objects)),
        Value::String(text) => {
            let source = Source::new("definition", text.as_str());
            let documents = yaml::load_all(&source).map_err(|error| error.to_string())?;
            documents.iter().try_for_each(|node| match node.to_value() {
                Value::String(_) => Err(format!("{}: expected an object, found text", node.span)),
                value => collect(&value, namespace, objects),
            })
        }
        // `kind: List`, as `kubectl get -o yaml` prints several objects.
        Value::Map(map) if map.get("kind").and_then(Value::as_str) == Some("List") => {
            collect(map.get("items").unwrap_or(&Value::Null), namespace, objects)
        }
        Value::Map(_) => {
            objects.push(Object::read(Json::from(definition), namespace)?);
            Ok(())
        }
        other => Err(format!("expected an object, found {}", other.type_name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_documents_lists_and_mappings() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: apps/v1, kind: Deployment, metadata: {name: b, namespace: c}}\n";
        let objects = Object::read_all(&Value::from(text), Some("d")).unwrap();
        let keys: Vec<String> =
            objects.iter().map(|object| object.key(object.kind != "Namespace").to_string()).collect();
        assert_eq!(keys, ["Namespace a", "Deployment c/b"]);
        let list = Value::List(vec![Value::from(text), Value::from(text)]);
        assert_eq!(Object::read_all(&list, None).unwrap().len(), 4);
    }

    #[test]
    fn says_what_is_missing() {
        let error = |text: &str| Object::read_all(&Value::from(text), None).unwrap_err();
        assert_eq!(error("kind: Pod"), "an object has no `apiVersion`");
        assert_eq!(error("{apiVersion: v1, kind: Pod, metadata: {}}"), "Pod: an object has no `metadata.name`");
        assert_eq!(error("a\n---\nb"), "definition:1: expected an object, found text");
        assert_eq!(error("- 1"), "expected an object, found int");
        assert!(error("a: [").starts_with("definition:"));
    }
}
