//! What a plan remembers of the objects that earlier tasks would apply or delete.
//!
//! The API server's dry run knows nothing of them, so an object in a namespace that is only planned, or of a kind that only a
//! planned custom resource definition brings, is worked out here.

use super::ObjectKey;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Planned objects of one cluster.
#[derive(Default)]
pub(super) struct Planned(HashMap<ObjectKey, Option<Json>>);

impl Planned {
    /// `Some(None)` where the object would have been deleted.
    pub fn get(&self, key: &ObjectKey) -> Option<Option<Json>> {
        self.0.get(key).cloned()
    }

    /// Remembers that the object will be so, or will be gone.
    pub fn put(&mut self, key: ObjectKey, body: Option<Json>) {
        self.0.insert(key, body);
    }

    /// Whether a namespace is there because a task of the plan makes it.
    pub fn namespace(&self, name: &str) -> bool {
        self.0.iter().any(|(key, body)| key.kind == "Namespace" && key.name == name && body.is_some())
    }

    /// Whether a planned custom resource definition brings this kind, and whether it has namespaces.
    pub fn defines(&self, group: &str, kind: &str) -> Option<bool> {
        self.0.iter().filter(|(key, _)| key.kind == "CustomResourceDefinition").find_map(|(_, body)| {
            let spec = body.as_ref()?.get("spec")?;
            let same = spec.get("group")?.as_str()? == group && spec.pointer("/names/kind")?.as_str()? == kind;
            same.then(|| spec.get("scope").and_then(Json::as_str) != Some("Cluster"))
        })
    }

    /// Whether any object of this kind is planned to change.
    pub fn touches(&self, group: &str, kind: &str) -> bool {
        self.0.keys().any(|key| key.group == group && key.kind == kind)
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
        assert!(planned.touches("", "Namespace") && !planned.touches("apps", "Deployment"));
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
