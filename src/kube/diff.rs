//! What differs between two states of an object, without what the API server keeps for itself and without secrets.

use super::ObjectKey;
use crate::modules::Diff;
use serde_json::{Map, Value as Json};

const SECRET: &str = "(secret)";
const SECRET_CHANGED: &str = "(secret, changed)";
/// Metadata that every write changes, or that nobody sets.
const BOOKKEEPING: &[&str] =
    &["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];
/// Holds the whole object, Secrets in clear text among them.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Shows an object that will be made.
pub(super) fn created(key: &ObjectKey, body: &Json) -> Diff {
    let shown = redacted(key, body);
    let text = serde_yaml::to_string(&shown).unwrap_or_else(|_| shown.to_string());
    Diff::Text { path: key.to_string(), before: None, after: Some(text) }
}

/// What an apply changes, field by field; nothing where both are the same. Texts of several lines get a diff of their own.
pub(super) fn updated(key: &ObjectKey, before: &Json, after: &Json) -> Vec<Diff> {
    let mut changes = Vec::new();
    walk(String::new(), Some(&essence(before)), Some(&essence(after)), &mut changes);
    let (mut fields, mut texts) = (Vec::new(), Vec::new());
    for (path, before, after) in changes {
        if secret(key, &path) {
            fields.push((path, before.map(|_| SECRET.to_owned()), after.map(|_| SECRET_CHANGED.to_owned())));
            continue;
        }
        let lines = |value: &Option<Json>| value.as_ref().and_then(Json::as_str).is_some_and(|s| s.contains('\n'));
        let show =
            |value: Option<Json>| value.map(|value| value.as_str().map_or_else(|| value.to_string(), Into::into));
        if lines(&before) || lines(&after) {
            texts.push(Diff::Text { path: format!("{key} {path}"), before: show(before), after: show(after) });
        } else {
            fields.push((path, show(before), show(after)));
        }
    }
    let fields = (!fields.is_empty()).then(|| Diff::Fields { subject: key.to_string(), fields });
    fields.into_iter().chain(texts).collect()
}

/// An object for people, and for `register`: without status-keeping metadata.
fn essence(body: &Json) -> Json {
    let mut body = body.clone();
    if let Json::Object(map) = &mut body {
        map.shift_remove("status");
        if let Some(Json::Object(metadata)) = map.get_mut("metadata") {
            for name in BOOKKEEPING {
                metadata.shift_remove(*name);
            }
            if let Some(Json::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.shift_remove(LAST_APPLIED);
            }
        }
    }
    body
}

fn redacted(key: &ObjectKey, body: &Json) -> Json {
    let mut body = essence(body);
    if is_secret(key)
        && let Json::Object(map) = &mut body
    {
        for name in ["data", "stringData"] {
            if let Some(Json::Object(data)) = map.get_mut(name) {
                data.values_mut().for_each(|value| *value = SECRET.into());
            }
        }
    }
    body
}

pub(super) fn is_secret(key: &ObjectKey) -> bool {
    key.group.is_empty() && key.kind == "Secret"
}

fn secret(key: &ObjectKey, path: &str) -> bool {
    is_secret(key) && (path.starts_with("data") || path.starts_with("stringData"))
}

type Changes = Vec<(String, Option<Json>, Option<Json>)>;

fn walk(path: String, before: Option<&Json>, after: Option<&Json>, changes: &mut Changes) {
    // `null` and an empty container are to the API server the same as nothing.
    let void = |value: Option<&Json>| match value {
        None | Some(Json::Null) => true,
        Some(Json::Object(map)) => map.is_empty(),
        Some(Json::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if before == after || void(before) && void(after) {
        return;
    }
    match (before, after) {
        (Some(Json::Object(before)), Some(Json::Object(after))) => {
            for key in keys(before, after) {
                walk(join(&path, key), before.get(key), after.get(key), changes);
            }
        }
        (Some(Json::Object(before)), None) if !before.is_empty() && path.is_empty() => {
            before.iter().for_each(|(key, value)| walk(key.clone(), Some(value), None, changes));
        }
        (Some(Json::Array(before)), Some(Json::Array(after))) => match (named(before), named(after)) {
            (Some(before), Some(after)) => {
                for name in keys(&before, &after) {
                    walk(format!("{path}[{name}]"), before.get(name), after.get(name), changes);
                }
            }
            _ if before.len() == after.len() && before.iter().chain(after).all(Json::is_object) => {
                for (index, (before, after)) in before.iter().zip(after).enumerate() {
                    walk(format!("{path}[{index}]"), Some(before), Some(after), changes);
                }
            }
            _ => changes.push((path, Some(before.clone().into()), Some(after.clone().into()))),
        },
        _ => changes.push((path, before.cloned(), after.cloned())),
    }
}

/// The keys of both, those of `before` first.
fn keys<'a>(before: &'a Map<String, Json>, after: &'a Map<String, Json>) -> Vec<&'a String> {
    before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))).collect()
}

/// A list whose items all have a name of their own (containers, volumes, environment), as a mapping by that name.
fn named(items: &[Json]) -> Option<Map<String, Json>> {
    let mut map = Map::new();
    for item in items {
        let name = item.get("name")?.as_str()?;
        if map.insert(name.to_owned(), item.clone()).is_some() {
            return None;
        }
    }
    Some(map)
}

fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.contains(['.', '/'])) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}[{key}]"),
        (false, false) => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(kind: &str) -> ObjectKey {
        ObjectKey { group: String::new(), kind: kind.into(), namespace: Some("a".into()), name: "b".into() }
    }

    fn fields(kind: &str, before: Json, after: Json) -> Vec<(String, Option<String>, Option<String>)> {
        match updated(&key(kind), &before, &after).as_slice() {
            [] => Vec::new(),
            [Diff::Fields { fields, .. }] => fields.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_server_keeps_is_no_difference() {
        let before =
            json!({"metadata": {"name": "b", "resourceVersion": "1", "managedFields": [1]}, "status": {"x": 1}});
        let after = json!({"metadata": {"name": "b", "resourceVersion": "2", "annotations": {}}, "status": {"x": 2}});
        assert_eq!(updated(&key("Pod"), &before, &after), []);
    }

    #[test]
    fn lists_with_names_are_compared_by_name() {
        let before = json!({"spec": {"containers": [{"name": "x", "image": "1"}, {"name": "y", "image": "1"}]}});
        let after = json!({"spec": {"containers": [{"name": "y", "image": "2"}]}});
        assert_eq!(
            fields("Pod", before, after),
            [
                ("spec.containers[x]".into(), Some(r#"{"name":"x","image":"1"}"#.into()), None),
                ("spec.containers[y].image".into(), Some("1".into()), Some("2".into())),
            ]
        );
        let labels =
            fields("Node", json!({"metadata": {"labels": {}}}), json!({"metadata": {"labels": {"a.io/b": ""}}}));
        assert_eq!(labels, [("metadata.labels[a.io/b]".into(), None, Some(String::new()))]);
    }

    #[test]
    fn secrets_are_not_shown() {
        let object = |text: &str| {
            json!({"kind": "Secret", "data": {"a": text}, "stringData": {"b": text},
                   "metadata": {"annotations": {LAST_APPLIED: text}}})
        };
        let shown = format!("{:?}", updated(&key("Secret"), &object("hush1"), &object("hush2")));
        assert!(shown.contains("data.a") && !shown.contains("hush"), "{shown}");
        let shown = format!("{:?}", created(&key("Secret"), &object("hush1")));
        assert!(shown.contains("a: ") && !shown.contains("hush"), "{shown}");
        // Also where the whole of `data` comes or goes.
        let shown = format!("{:?}", updated(&key("Secret"), &json!({"data": {"a": "hush"}}), &json!({"type": "x"})));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn long_texts_get_a_diff_of_their_own() {
        let diffs = updated(&key("ConfigMap"), &json!({"data": {"f": "a\nb\n"}}), &json!({"data": {"f": "a\nc\n"}}));
        let expected = Diff::Text {
            path: "ConfigMap a/b data.f".into(),
            before: Some("a\nb\n".into()),
            after: Some("a\nc\n".into()),
        };
        assert_eq!(diffs, [expected]);
    }
}
