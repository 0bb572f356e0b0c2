//! Server-side apply and deletion of objects: what `kubernetes.core.k8s` does.
//!
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>. kprov owns what its manifests say (field manager
//! `kprov`, conflicts are forced) and leaves every other field alone. A plan is the API server's dry run of the same
//! request; whether something changed is judged by one comparison for both.

use super::client::{Client, Pace, Resource, is_code};
use super::info::condition;
use super::object::{Object, ObjectKey, group};
use super::{diff, plan};
use crate::modules::{Diff, Failure, Grade, Outcome};
use crate::system::Mode;
use crate::value::{Map, Value};
use ::kube::Error;
use ::kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy, ValidationDirective};
use serde_json::Value as Json;
use std::time::Duration;

/// The field manager under which the API server notes what kprov has set.
const MANAGER: &str = "kprov";
/// How long a deleted object may take to be gone, and a custom resource definition to be served.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// What came of one object.
struct Step {
    diff: Vec<Diff>,
    grade: Grade,
    /// The object as it is afterwards; unknown in a plan that changes it.
    result: Value,
}

impl Step {
    fn unchanged(object: Option<&Json>) -> Self {
        Self { diff: Vec::new(), grade: Grade::Exact, result: object.map_or(Value::Null, presentable) }
    }

    fn planned(diff: Vec<Diff>, grade: Grade) -> Self {
        Self { diff, grade, result: Value::later() }
    }
}

impl Client {
    /// Brings objects to what is desired, in the given order.
    ///
    /// When planning while no API server answers, every object is taken to be new: known after apply.
    pub async fn apply(&self, objects: &[Object], mode: Mode) -> Result<Outcome, Failure> {
        let up = self.ready(mode).await?;
        let mut steps = Vec::with_capacity(objects.len());
        for object in objects {
            steps.push(match (up, mode) {
                (false, _) => self.plan_created(object.key(object.namespace.is_some()), object),
                (true, Mode::Plan) => self.plan_one(object).await?,
                (true, Mode::Apply) => self.apply_one(object).await?,
            });
        }
        Ok(outcome(steps))
    }

    /// Deletes objects, and waits until they are gone.
    pub async fn delete(&self, objects: &[Object], mode: Mode) -> Result<Outcome, Failure> {
        let up = self.ready(mode).await?;
        let mut steps = Vec::with_capacity(objects.len());
        for object in objects {
            steps.push(self.delete_one(object, up, mode).await?);
        }
        Ok(outcome(steps))
    }

    async fn apply_one(&self, object: &Object) -> Result<Step, Failure> {
        let resource = self.resource(&object.api_version, &object.kind).await?.ok_or_else(|| no_kind(object))?;
        let key = object.key(resource.namespaced);
        let api = self.api(&resource, &key);
        let mut before = self.get(&api, &key).await?;
        if let Some(leaving) = before.take_if(|object| being_deleted(object)) {
            // What is applied to an object on its way out goes with it.
            self.wait_gone(&api, &key, &leaving).await?;
        }
        let after = self.patch(&api, &key, object, false).await?;
        let diff = compare(&key, object, before.as_ref(), &after);
        if key.kind == "CustomResourceDefinition" {
            self.wait_established(&api, &key).await?;
        }
        Ok(Step { diff, grade: Grade::Exact, result: presentable(&after) })
    }

    async fn plan_one(&self, object: &Object) -> Result<Step, Failure> {
        let Some(resource) = self.resource(&object.api_version, &object.kind).await? else {
            let namespaced = self.planned(|planned| planned.defines(group(&object.api_version), &object.kind));
            return namespaced.map(|n| self.plan_created(object.key(n), object)).ok_or_else(|| no_kind(object));
        };
        let key = object.key(resource.namespaced);
        match self.planned(|planned| planned.get(&key)) {
            Some(Some(before)) => return Ok(self.plan_again(key, &before, object)),
            Some(None) => return Ok(self.plan_created(key, object)),
            None => {}
        }
        if key.namespace.as_ref().is_some_and(|namespace| self.planned(|planned| planned.namespace(namespace))) {
            return Ok(self.plan_created(key, object));
        }
        let api = self.api(&resource, &key);
        let before = self.get(&api, &key).await?.filter(|object| !being_deleted(object));
        let after = self.patch(&api, &key, object, true).await?;
        let diff = compare(&key, object, before.as_ref(), &after);
        if diff.is_empty() {
            return Ok(Step::unchanged(Some(&after)));
        }
        // Namespaces that exist are not remembered, so that what is in them gets a real dry run.
        self.planned(|planned| match before {
            None => planned.put(key, Some(after)),
            Some(_) if key.kind == "Namespace" => {}
            Some(_) => planned.answered(key, after),
        });
        Ok(Step::planned(diff, Grade::Exact))
    }

    /// A new object of which no dry run can be made.
    fn plan_created(&self, key: ObjectKey, object: &Object) -> Step {
        if let Some(Some(before)) = self.planned(|planned| planned.get(&key)) {
            return self.plan_again(key, &before, object);
        }
        let diff = vec![diff::created(&key, &object.body)];
        self.planned(|planned| planned.put(key, Some(object.body.clone())));
        Step::planned(diff, Grade::KnownAfterApply)
    }

    /// An object that an earlier task of the plan applies too.
    fn plan_again(&self, key: ObjectKey, before: &Json, object: &Object) -> Step {
        let after = plan::merge(before, &object.body);
        let diff = diff::updated(&key, before, &after);
        if diff.is_empty() {
            return Step { result: Value::later(), ..Step::unchanged(None) };
        }
        self.planned(|planned| planned.put(key, Some(after)));
        Step::planned(diff, Grade::KnownAfterApply)
    }

    async fn delete_one(&self, object: &Object, up: bool, mode: Mode) -> Result<Step, Failure> {
        let resource = if up { self.resource(&object.api_version, &object.kind).await? } else { None };
        let key = object.key(resource.as_ref().map_or(object.namespace.is_some(), |resource| resource.namespaced));
        let note = vec![Diff::Note(format!("delete {key}"))];
        if mode == Mode::Plan
            && let Some(planned) = self.planned(|planned| planned.get(&key))
        {
            self.planned(|planned| planned.put(key, None));
            return Ok(match planned {
                Some(_) => Step { diff: note, grade: Grade::Exact, result: Value::Null },
                None => Step::unchanged(None),
            });
        }
        let Some(resource) = resource else { return Ok(Step::unchanged(None)) };
        let api = self.api(&resource, &key);
        let Some(before) = self.get(&api, &key).await? else { return Ok(Step::unchanged(None)) };
        let already = being_deleted(&before);
        if mode == Mode::Plan {
            self.planned(|planned| planned.put(key, None));
        } else {
            if !already {
                let parameters =
                    DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
                let what = format!("delete {key}");
                let deleted = self.request(&what, || async {
                    match api.delete(&key.name, &parameters).await {
                        Ok(_) => Ok(()),
                        Err(error) if is_code(&error, 404) => Ok(()),
                        Err(error) => Err(error),
                    }
                });
                deleted.await?;
            }
            self.wait_gone(&api, &key, &before).await?;
        }
        Ok(if already { Step::unchanged(None) } else { Step { diff: note, grade: Grade::Exact, result: Value::Null } })
    }

    pub(super) fn api(&self, resource: &Resource, key: &ObjectKey) -> Api<DynamicObject> {
        match &key.namespace {
            Some(namespace) => Api::namespaced_with(self.kube(), namespace, &resource.api),
            None => Api::all_with(self.kube(), &resource.api),
        }
    }

    async fn get(&self, api: &Api<DynamicObject>, key: &ObjectKey) -> Result<Option<Json>, Failure> {
        let object = self.request(&format!("get {key}"), || api.get_opt(&key.name)).await?;
        object.map(|object| json(&object)).transpose()
    }

    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        key: &ObjectKey,
        object: &Object,
        dry_run: bool,
    ) -> Result<Json, Failure> {
        let parameters = PatchParams {
            dry_run,
            force: true,
            field_manager: Some(MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let what = format!("{} {key}", if dry_run { "plan to apply" } else { "apply" });
        let patch = Patch::Apply(&object.body);
        let applied = self.send(|| api.patch(&key.name, &parameters, &patch)).await.map_err(|mut refusal| {
            // The API server may quote what it could not read.
            if diff::is_secret(key)
                && let Error::Api(status) = &mut refusal.error
            {
                status.message = format!("{}; the answer is not shown, it may quote the Secret", status.reason);
            }
            refusal.failure(&what)
        });
        json(&applied?)
    }

    async fn wait_gone(&self, api: &Api<DynamicObject>, key: &ObjectKey, before: &Json) -> Result<(), Failure> {
        let uid = |object: &Json| object.pointer("/metadata/uid").cloned();
        let mut pace = Pace::new(SETTLE_TIMEOUT);
        while self.get(api, key).await?.is_some_and(|now| uid(&now) == uid(before)) {
            if !pace.again().await {
                let seconds = SETTLE_TIMEOUT.as_secs();
                return Err(Failure::new(format!(
                    "{key} is still being deleted after {seconds} s: see its finalizers"
                )));
            }
        }
        Ok(())
    }

    async fn wait_established(&self, api: &Api<DynamicObject>, key: &ObjectKey) -> Result<(), Failure> {
        let established = |object: Json| condition(&object, "Established").is_some_and(|seen| seen.status == "True");
        let mut pace = Pace::new(SETTLE_TIMEOUT);
        while !self.get(api, key).await?.is_some_and(established) {
            if !pace.again().await {
                return Err(Failure::new(format!("{key} is not served by the API server")));
            }
        }
        Ok(())
    }
}

/// The difference that an apply makes, or would make. One that only the API server's own bookkeeping shows is none.
fn compare(key: &ObjectKey, object: &Object, before: Option<&Json>, after: &Json) -> Vec<Diff> {
    match before {
        None => vec![diff::created(key, &object.body)],
        Some(before) => diff::updated(key, before, after),
    }
}

fn outcome(steps: Vec<Step>) -> Outcome {
    let changed = steps.iter().any(|step| !step.diff.is_empty());
    let grade = steps.iter().map(|step| step.grade).max().unwrap_or_default();
    let (mut diff, mut results) = (Vec::new(), Vec::with_capacity(steps.len()));
    for step in steps {
        diff.extend(step.diff);
        results.push(step.result);
    }
    // As the Ansible module: one object itself, of several a list.
    let result = match <[Value; 1]>::try_from(results) {
        Ok([one]) => one,
        Err(many) => [("results", Value::List(many))].into_iter().collect(),
    };
    Outcome {
        changed,
        result: Map::from_iter([("result".to_owned(), result)]),
        diff,
        grade,
        after: None,
        units: Vec::new(),
    }
}

fn no_kind(object: &Object) -> Failure {
    Failure::new(format!(
        "the API server has no kind `{}` in `{}`: check its spelling, or apply its CustomResourceDefinition first",
        object.kind, object.api_version
    ))
}

fn being_deleted(object: &Json) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

pub(super) fn json(object: &DynamicObject) -> Result<Json, Failure> {
    serde_json::to_value(object).map_err(|error| Failure::new(format!("an answer of the API server: {error}")))
}

/// For `register`: without the record of who set which field, which is longer than the object.
pub(super) fn presentable(object: &Json) -> Value {
    let mut object = object.clone();
    if let Some(Json::Object(metadata)) = object.get_mut("metadata") {
        metadata.shift_remove("managedFields");
    }
    object.into()
}
