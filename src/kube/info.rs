//! Asking for objects and waiting on them: what `kubernetes.core.k8s_info` does.

use super::apply::{json, presentable};
use super::client::{Client, Pace, is_code};
use super::object::ObjectKey;
use crate::modules::{Failure, Outcome};
use crate::system::Mode;
use crate::value::{Map, Value};
use ::kube::api::{Api, DynamicObject, ListParams};
use serde_json::Value as Json;
use std::time::Duration;

/// Which objects, and what to wait for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    pub api_version: String,
    pub kind: String,
    /// All of the kind where `None`.
    pub name: Option<String>,
    /// All namespaces where `None`; for a name in a kind that has namespaces, `default`.
    pub namespace: Option<String>,
    /// `key=value` and the like; all must hold.
    pub label_selectors: Vec<String>,
    pub field_selectors: Vec<String>,
    pub wait: Option<Wait>,
}

/// Waits until there is an object, and every object is as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// Without one, objects of workload kinds have to be ready, others only to exist.
    pub condition: Option<Condition>,
    pub timeout: Duration,
}

/// A condition in an object's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `type`
    pub kind: String,
    /// `True`, `False` or `Unknown`
    pub status: String,
    /// Any reason where `None`.
    pub reason: Option<String>,
}

impl Client {
    /// Returns the objects under `resources`. When planning it does not wait, and what a planned change or a wait decides is
    /// unknown.
    pub async fn info(&self, query: &Query, mode: Mode) -> Result<Outcome, Failure> {
        if !self.ready(mode).await? {
            return Ok(found(Value::later()));
        }
        if mode == Mode::Plan {
            let objects = self.list(query).await?;
            let objects = self.planned(|planned| planned.found(query, objects));
            return Ok(found(match objects {
                Some(objects) if query.wait.as_ref().is_none_or(|wait| missing(query, wait, &objects).is_none()) => {
                    resources(&objects)
                }
                _ => Value::later(),
            }));
        }
        let Some(wait) = &query.wait else { return Ok(found(resources(&self.list(query).await?))) };
        let mut pace = Pace::new(wait.timeout);
        loop {
            let objects = self.list(query).await?;
            let Some(what) = missing(query, wait, &objects) else { return Ok(found(resources(&objects))) };
            if !pace.again().await {
                return Err(Failure::new(format!("waited {} s: {what}", wait.timeout.as_secs())));
            }
        }
    }

    async fn list(&self, query: &Query) -> Result<Vec<Json>, Failure> {
        // As the Ansible module: a kind that is not there has no objects.
        let Some(resource) = self.resource(&query.api_version, &query.kind).await? else { return Ok(Vec::new()) };
        let what = format!("get {}", describe(query));
        let objects = if let Some(name) = &query.name {
            let key = ObjectKey {
                group: resource.api.group.clone(),
                kind: query.kind.clone(),
                namespace: resource.namespaced.then(|| query.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                name: name.clone(),
            };
            let api = self.api(&resource, &key);
            self.request(&what, || api.get_opt(name)).await?.into_iter().collect()
        } else {
            let api: Api<DynamicObject> = match query.namespace.as_deref().filter(|_| resource.namespaced) {
                Some(namespace) => Api::namespaced_with(self.kube(), namespace, &resource.api),
                None => Api::all_with(self.kube(), &resource.api),
            };
            let parameters = ListParams {
                label_selector: joined(&query.label_selectors),
                field_selector: joined(&query.field_selectors),
                ..ListParams::default()
            };
            let list = self.request(&what, || async {
                match api.list(&parameters).await {
                    Ok(list) => Ok(list.items),
                    Err(error) if is_code(&error, 404) => Ok(Vec::new()),
                    Err(error) => Err(error),
                }
            });
            let mut items = list.await?;
            for item in &mut items {
                // Items of a list do not say what they are.
                item.types = Some(::kube::api::TypeMeta {
                    api_version: resource.api.api_version.clone(),
                    kind: resource.api.kind.clone(),
                });
            }
            items
        };
        objects.iter().map(json).collect()
    }
}

fn found(resources: Value) -> Outcome {
    Outcome::unchanged(Map::from_iter([("resources".to_owned(), resources)]))
}

fn resources(objects: &[Json]) -> Value {
    Value::List(objects.iter().map(presentable).collect())
}

fn joined(selectors: &[String]) -> Option<String> {
    (!selectors.is_empty()).then(|| selectors.join(","))
}

/// `Deployment kube-system/coredns`, `all Nodes with a=b`
fn describe(query: &Query) -> String {
    let mut text = query.kind.clone();
    match (&query.namespace, &query.name) {
        (Some(namespace), Some(name)) => text.push_str(&format!(" {namespace}/{name}")),
        (None, Some(name)) => text.push_str(&format!(" {name}")),
        (Some(namespace), None) => text.push_str(&format!(" in {namespace}")),
        (None, None) => {}
    }
    let selectors: Vec<&str> = query.label_selectors.iter().chain(&query.field_selectors).map(String::as_str).collect();
    if !selectors.is_empty() {
        text.push_str(&format!(" with {}", selectors.join(",")));
    }
    text
}

/// What the objects still lack of what is waited for; `None` when nothing.
fn missing(query: &Query, wait: &Wait, objects: &[Json]) -> Option<String> {
    if objects.is_empty() {
        return Some(format!("there is no {}", describe(query)));
    }
    objects.iter().find_map(|object| {
        let text = |pointer: &str| object.pointer(pointer).and_then(Json::as_str).unwrap_or_default();
        let lack = match &wait.condition {
            Some(wanted) => lacks_condition(object, wanted),
            None => unready(&query.kind, object),
        }?;
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let slash = if namespace.is_empty() { "" } else { "/" };
        Some(format!("{} {namespace}{slash}{name}: {lack}", query.kind))
    })
}

/// What an object's status says of a condition.
pub(super) struct Seen {
    pub status: String,
    reason: String,
    message: String,
}

pub(super) fn condition(object: &Json, kind: &str) -> Option<Seen> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let condition = conditions.iter().find(|condition| condition.get("type").and_then(Json::as_str) == Some(kind))?;
    let text = |name: &str| condition.get(name).and_then(Json::as_str).unwrap_or_default().replace('\n', " ");
    Some(Seen { status: text("status"), reason: text("reason"), message: text("message") })
}

fn lacks_condition(object: &Json, wanted: &Condition) -> Option<String> {
    let Some(seen) = condition(object, &wanted.kind) else {
        return Some(format!("has no condition {} yet", wanted.kind));
    };
    let same = seen.status == wanted.status && wanted.reason.as_ref().is_none_or(|reason| *reason == seen.reason);
    (!same).then(|| {
        let because = [seen.reason, seen.message].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
        format!("condition {} is {} ({})", wanted.kind, seen.status, because.join(": "))
    })
}

/// Why a workload is not ready, as `kubectl rollout status` judges it. Other kinds are ready once they exist.
fn unready(kind: &str, object: &Json) -> Option<String> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Json::as_i64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
    let counted = |have: i64, want: i64, what: &str| (have != want).then(|| format!("{have} of {want} {what}"));
    let observed = || {
        let behind = status("observedGeneration") < number("/metadata/generation").unwrap_or(0);
        behind.then(|| "its controller has not seen it yet".to_owned())
    };
    let wanted = || number("/spec/replicas").unwrap_or(1);
    match kind {
        "Deployment" => observed()
            .or_else(|| counted(status("updatedReplicas"), wanted(), "replicas updated"))
            .or_else(|| counted(status("replicas"), wanted(), "replicas, old ones still stopping"))
            .or_else(|| counted(status("availableReplicas"), wanted(), "replicas available")),
        "StatefulSet" => observed()
            .or_else(|| counted(status("updatedReplicas"), wanted(), "replicas updated"))
            .or_else(|| counted(status("readyReplicas"), wanted(), "replicas ready")),
        "DaemonSet" => observed()
            .or_else(|| {
                let wanted = status("desiredNumberScheduled");
                counted(status("updatedNumberScheduled"), wanted, "pods updated")
            })
            .or_else(|| counted(status("numberAvailable"), status("desiredNumberScheduled"), "pods available")),
        "Pod" => {
            let done = object.pointer("/status/phase").and_then(Json::as_str) == Some("Succeeded");
            let ready = Condition { kind: "Ready".into(), status: "True".into(), reason: None };
            (!done).then(|| lacks_condition(object, &ready)).flatten()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn query(kind: &str) -> Query {
        Query { api_version: "v1".into(), kind: kind.into(), namespace: Some("a".into()), ..Query::default() }
    }

    fn lacks(kind: &str, condition: Option<Condition>, objects: &[Json]) -> Option<String> {
        missing(&query(kind), &Wait { condition, timeout: Duration::ZERO }, objects)
    }

    #[test]
    fn waits_for_a_condition_on_every_object() {
        let ready = |status: &str| Condition { kind: "Ready".into(), status: status.into(), reason: None };
        let node = |name: &str, status: &str| {
            json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "Ready", "status": status, "reason": "KubeletNotReady", "message": "no CNI\nplugin"}]}})
        };
        assert_eq!(lacks("Node", Some(ready("True")), &[]).unwrap(), "there is no Node in a");
        assert_eq!(lacks("Node", Some(ready("True")), &[node("n1", "True")]), None);
        let lack = lacks("Node", Some(ready("True")), &[node("n1", "True"), node("n2", "False")]).unwrap();
        assert_eq!(lack, "Node n2: condition Ready is False (KubeletNotReady: no CNI plugin)");
        let lack = lacks("Node", Some(ready("True")), &[json!({"metadata": {"name": "n3"}})]).unwrap();
        assert_eq!(lack, "Node n3: has no condition Ready yet");
    }

    #[test]
    fn knows_when_a_workload_is_ready() {
        let deployment = |generation: i64, available: i64| {
            json!({"metadata": {"namespace": "a", "name": "b", "generation": generation}, "spec": {"replicas": 2},
                   "status": {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": available}})
        };
        assert_eq!(lacks("Deployment", None, &[deployment(1, 2)]), None);
        assert_eq!(
            lacks("Deployment", None, &[deployment(1, 1)]).unwrap(),
            "Deployment a/b: 1 of 2 replicas available"
        );
        assert!(lacks("Deployment", None, &[deployment(2, 2)]).unwrap().contains("not seen it yet"));
        assert_eq!(lacks("ConfigMap", None, &[json!({"metadata": {"name": "x"}})]), None);
    }
}
