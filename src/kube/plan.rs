//! What a plan remembers of the objects that earlier tasks would apply or delete.
//!
//! The API server's dry run knows nothing of them, so an object in a namespace that is only planned, or of a kind that only a
//! planned custom resource definition brings, is worked out here.

use super::ObjectKey;
use super::info::Query;
use super::object::group;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Planned objects of one cluster.
#[derive(Default)]
pub(super) struct Planned(HashMap<ObjectKey, Entry>);

struct Entry {
    /// `None` where it would have been deleted.
    body: Option<Json>,
    /// Whether it is all that there is to know of the object: what the API server answers to a dry run of a change of one
    /// that exists. Of a new one, and of one worked out here, what the API server and controllers fill in is not known.
    whole: bool,
}

impl Planned {
    /// `Some(None)` where the object would have been deleted.
    pub fn get(&self, key: &ObjectKey) -> Option<Option<Json>> {
        self.0.get(key).map(|entry| entry.body.clone())
    }

    /// Remembers that the object will be so, or will be gone.
    pub fn put(&mut self, key: ObjectKey, body: Option<Json>) {
        self.0.insert(key, Entry { body, whole: false });
    }

    /// The same of an object that exists, as the API server's dry run has answered.
    pub fn answered(&mut self, key: ObjectKey, body: Json) {
        self.0.insert(key, Entry { body: Some(body), whole: true });
    }

    /// Whether a namespace is there because a task of the plan makes it.
    pub fn namespace(&self, name: &str) -> bool {
        self.0.iter().any(|(key, entry)| key.kind == "Namespace" && key.name == name && entry.body.is_some())
    }

    /// Whether a planned custom resource definition brings this kind, and whether it has namespaces.
    pub fn defines(&self, group: &str, kind: &str) -> Option<bool> {
        self.0.iter().filter(|(key, _)| key.kind == "CustomResourceDefinition").find_map(|(_, entry)| {
            let spec = entry.body.as_ref()?.get("spec")?;
            let same = spec.get("group")?.as_str()? == group && spec.pointer("/names/kind")?.as_str()? == kind;
            same.then(|| spec.get("scope").and_then(Json::as_str) != Some("Cluster"))
        })
    }

    /// What a query finds after the planned changes, of which it finds `objects` now; `None` where that is not known.
    pub fn found(&self, query: &Query, mut objects: Vec<Json>) -> Option<Vec<Json>> {
        let asked = |key: &ObjectKey| {
            (key.group.as_str(), key.kind.as_str()) == (group(&query.api_version), query.kind.as_str())
                && query.name.as_ref().is_none_or(|name| *name == key.name)
                && query
                    .namespace
                    .as_ref()
                    .is_none_or(|namespace| key.namespace.as_ref().is_none_or(|of| of == namespace))
        };
        let selects = !query.label_selectors.is_empty() || !query.field_selectors.is_empty();
        for (key, entry) in self.0.iter().filter(|(key, _)| asked(key)) {
            let is_it = |object: &&mut Json| {
                let text = |name: &str| object.get("metadata")?.get(name)?.as_str();
                text("name") == Some(&key.name) && text("namespace") == key.namespace.as_deref()
            };
            let object = objects.iter_mut().find(is_it)?;
            // A change may bring an object under a selector, or out of it.
            *object = entry.body.clone().filter(|_| entry.whole && !selects)?;
        }
        Some(objects)
    }
}

/// `desired` on top of `base`, as an apply would leave it. Which lists merge, and how, is known to the API server alone:
/// here one of equally many mappings merges item by item and any other is replaced, so what comes out is an estimate.
pub(super) fn merge(base: &Json, desired: &Json) -> Json {
    match (base, desired) {
        (Json::Object(base), Json::Object(desired)) => {
            let mut merged = base.clone();
            for (key, value) in desired {
                let value = base.get(key).map_or_else(|| value.clone(), |base| merge(base, value));
                merged.insert(key.clone(), value);
            }
            Json::Object(merged)
        }
        (Json::Array(base), Json::Array(desired))
            if base.len() == desired.len() && base.iter().chain(desired).all(Json::is_object) =>
        {
            base.iter().zip(desired).map(|(base, desired)| merge(base, desired)).collect()
        }
        _ => desired.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn remembers_namespaces_and_kinds() {
        let mut planned = Planned::default();
        let key = |group: &str, kind: &str, name: &str| ObjectKey {
            group: group.into(),
            kind: kind.into(),
            namespace: None,
            name: name.into(),
        };
        planned.put(key("", "Namespace", "a"), Some(json!({})));
        planned.put(key("", "Namespace", "b"), None);
        let crd = json!({"spec": {"group": "x.io", "names": {"kind": "Pool"}, "scope": "Cluster"}});
        planned.put(key("apiextensions.k8s.io", "CustomResourceDefinition", "pools.x.io"), Some(crd));
        assert!(planned.namespace("a") && !planned.namespace("b"));
        assert_eq!((planned.defines("x.io", "Pool"), planned.defines("y.io", "Pool")), (Some(false), None));
    }

    #[test]
    fn what_a_query_finds_after_planned_changes() {
        let node =
            |name: &str, label: &str| json!({"metadata": {"name": name, "labels": {"a": label}}, "status": {"x": 1}});
        let key =
            |name: &str| ObjectKey { group: String::new(), kind: "Node".into(), namespace: None, name: name.into() };
        let query = |name: Option<&str>| Query {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.map(Into::into),
            ..Query::default()
        };
        let now = || vec![node("n1", "old"), node("n2", "old")];
        let mut planned = Planned::default();
        assert_eq!(planned.found(&query(None), now()), Some(now()));
        planned.answered(key("n2"), node("n2", "new"));
        assert_eq!(planned.found(&query(None), now()), Some(vec![node("n1", "old"), node("n2", "new")]));
        let selected = Query { label_selectors: vec!["a=old".into()], ..query(None) };
        assert_eq!(planned.found(&selected, now()), None, "it may be found no longer");
        let others = Query { kind: "Pod".into(), ..query(None) };
        assert_eq!(planned.found(&others, Vec::new()), Some(Vec::new()));
        // What is made anew gets more than was asked for.
        planned.put(key("n3"), Some(node("n3", "new")));
        assert_eq!(planned.found(&query(None), now()), None);
        assert_eq!(planned.found(&query(Some("n2")), vec![node("n2", "old")]), Some(vec![node("n2", "new")]));
        planned.put(key("n2"), None);
        assert_eq!(planned.found(&query(Some("n2")), vec![node("n2", "old")]), None);
    }

    #[test]
    fn merges_mappings() {
        let merged = merge(
            &json!({"a": {"b": 1, "c": [1, 2], "e": [{"x": 1}]}}),
            &json!({"a": {"c": [3], "d": null, "e": [{"y": 2}]}}),
        );
        assert_eq!(merged, json!({"a": {"b": 1, "c": [3], "e": [{"x": 1, "y": 2}], "d": null}}));
    }
}
