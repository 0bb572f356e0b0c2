//! The file of a plan: docs/plan-file.md. Written by `plan -o`, read by `apply --plan`.
//!
//! It holds what was asked, digests of every file that was read for it, and the changes as they were shown. Secrets are
//! not in it, and no digests of them either, for what can be guessed can be found by its digest.

use super::Plan;
use crate::engine::options::Options;
use crate::engine::record::operator;
use crate::engine::run::is_file;
use crate::modules::Diff;
use crate::source::{self, digest_of};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The form of the file that this kprov writes and reads.
const SCHEMA: u64 = 1;

/// A plan as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    schema: u64,
    kprov: Build,
    /// When and by whom it was made.
    made: jiff::Timestamp,
    operator: String,
    pub asked: Asked,
    /// Files that were read, by absolute path, with their SHA-256.
    inputs: BTreeMap<PathBuf, String>,
    pub(super) changes: Vec<Change>,
    /// SHA-256 of the file that it was read from.
    #[serde(skip)]
    pub digest: String,
}

/// Which kprov it was.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    version: String,
    /// SHA-256 of the program.
    digest: String,
}

/// The flags that decide what is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub inventories: Vec<PathBuf>,
    pub limit: Option<String>,
    pub tags: Vec<String>,
    pub skip_tags: Vec<String>,
    pub playbook: String,
    pub extra_vars: Vec<String>,
}

/// One task that would change a host, or one item of its loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub host: String,
    pub task_id: String,
    pub role: String,
    pub task: String,
    pub item: Option<u32>,
    pub grade: String,
    /// The id of the task after which it will be known.
    pub after: Option<String>,
    /// It is not shown: `no_log`, or the task reads a secret variable.
    pub hidden: bool,
    /// As in docs/json.md.
    pub diff: Vec<Value>,
}

/// Why a file cannot be used. One line.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: no plan of kprov: {why}", path = path.display())]
    NoPlan { path: PathBuf, why: String },
    #[error("{path}: of schema {found}, and this kprov reads {SCHEMA}; make a new plan", path = path.display())]
    Schema { path: PathBuf, found: String },
    #[error("{path}: made by another kprov ({found}); make a new plan", path = path.display())]
    Build { path: PathBuf, found: String },
    #[error("cannot read this program: {0}")]
    Program(io::Error),
}

impl Asked {
    pub fn of(options: &Options) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // A list of hosts is no path.
        let inventory = |path: &PathBuf| if path.exists() { absolute(path) } else { path.clone() };
        let extra = |text: &String| match text.strip_prefix('@') {
            Some(file) => format!("@{}", absolute(Path::new(file)).display()),
            None => text.clone(),
        };
        let playbook = match is_file(&options.playbook) {
            true => absolute(Path::new(&options.playbook)).display().to_string(),
            false => options.playbook.clone(),
        };
        Self {
            inventories: options.inventories.iter().map(inventory).collect(),
            limit: options.limit.clone(),
            tags: options.tags.clone(),
            skip_tags: options.skip_tags.clone(),
            playbook,
            extra_vars: options.extra_vars.iter().map(extra).collect(),
        }
    }
}

impl SavedPlan {
    pub fn new(plan: &Plan, options: &Options) -> Result<Self, PlanFileError> {
        Ok(Self {
            schema: SCHEMA,
            kprov: Build::this()?,
            made: jiff::Timestamp::now(),
            operator: operator(),
            asked: Asked::of(options),
            inputs: source::inputs(),
            changes: changes(plan),
            digest: String::new(),
        })
    }

    /// Writes the file, readable by its owner alone; what was there is replaced in one step.
    pub fn write(&self, path: &Path) -> Result<(), PlanFileError> {
        let failed = |source| PlanFileError::File { path: path.to_owned(), source };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        serde_json::to_writer_pretty(&mut file, self).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads a file that this very kprov has written.
    pub fn read(path: &Path) -> Result<Self, PlanFileError> {
        let text = std::fs::read(path).map_err(|source| PlanFileError::File { path: path.to_owned(), source })?;
        let no_plan =
            |error: serde_json::Error| PlanFileError::NoPlan { path: path.to_owned(), why: error.to_string() };
        let value: Value = serde_json::from_slice(&text).map_err(no_plan)?;
        match value.get("schema") {
            Some(found) if found.as_u64() == Some(SCHEMA) => {}
            Some(found) => return Err(PlanFileError::Schema { path: path.to_owned(), found: found.to_string() }),
            None => return Err(PlanFileError::NoPlan { path: path.to_owned(), why: "it has no `schema`".to_owned() }),
        }
        let plan = Self { digest: digest_of(&text), ..serde_json::from_value(value).map_err(no_plan)? };
        if plan.kprov != Build::this()? {
            let found = format!("{}, {:.12}", plan.kprov.version, plan.kprov.digest);
            return Err(PlanFileError::Build { path: path.to_owned(), found });
        }
        Ok(plan)
    }

    /// What has changed of the files since, now that those of this run have been read. Empty: nothing.
    pub fn changed_inputs(&self) -> Vec<String> {
        let of_plan = self.inputs.iter().filter_map(|(path, digest)| match std::fs::read(path) {
            Ok(bytes) if digest_of(&bytes) == *digest => None,
            Ok(_) => Some(format!("{} has changed", path.display())),
            Err(_) => Some(format!("{} is gone", path.display())),
        });
        let now = source::inputs();
        let new = now.keys().filter(|path| !self.inputs.contains_key(*path));
        of_plan.chain(new.map(|path| format!("{} is new", path.display()))).collect()
    }
}

impl Build {
    fn this() -> Result<Self, PlanFileError> {
        let program = std::fs::read("/proc/self/exe").map_err(PlanFileError::Program)?;
        Ok(Self { version: env!("CARGO_PKG_VERSION").to_owned(), digest: digest_of(&program) })
    }
}

/// What a plan would change, as it is kept.
pub(super) fn changes(plan: &Plan) -> Vec<Change> {
    let change = |step: &super::Step| Change {
        host: step.subject.host.clone(),
        task_id: step.subject.task_id.clone(),
        role: step.subject.role.clone(),
        task: step.subject.task.clone(),
        item: step.item,
        grade: step.grade.name().to_owned(),
        after: step.after.as_ref().map(|after| after.task_id.clone()),
        hidden: step.hidden,
        diff: step.diff.iter().map(diff_json).collect(),
    };
    plan.steps.iter().filter(|step| step.changed).map(change).collect()
}

/// A diff as JSON lines and the file have it.
pub fn diff_json(diff: &Diff) -> Value {
    match diff {
        Diff::Text { path, before, after } => json!({"path": path, "before": before, "after": after}),
        Diff::Fields { subject, fields } => {
            let field = |(name, before, after): &(String, Option<String>, Option<String>)| json!({"field": name, "before": before, "after": after});
            json!({"subject": subject, "fields": fields.iter().map(field).collect::<Vec<_>>()})
        }
        Diff::Note(note) => json!({"note": note}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::step;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn saved() -> SavedPlan {
        let text = Diff::Text { path: "/etc/x".into(), before: None, after: Some("a\n".into()) };
        let plan =
            Plan { steps: vec![super::super::Step { diff: vec![text], ..step("n1", "1.1") }], ..Plan::default() };
        SavedPlan {
            schema: SCHEMA,
            kprov: Build::this().unwrap(),
            made: jiff::Timestamp::UNIX_EPOCH,
            operator: "me@here".into(),
            asked: Asked {
                inventories: vec!["/inv".into()],
                limit: None,
                tags: Vec::new(),
                skip_tags: Vec::new(),
                playbook: "cluster".into(),
                extra_vars: vec!["a=1".into()],
            },
            inputs: BTreeMap::new(),
            changes: changes(&plan),
            digest: String::new(),
        }
    }

    #[test]
    fn is_read_as_it_was_written_and_by_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.json");
        let plan = saved();
        plan.write(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let read = SavedPlan::read(&path).unwrap();
        assert_eq!((&read.asked, &read.changes), (&plan.asked, &plan.changes));
    }

    #[test]
    fn another_schema_or_kprov_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.json");
        let error = |edit: &dyn Fn(&mut Value)| {
            let mut value = serde_json::to_value(saved()).unwrap();
            edit(&mut value);
            std::fs::write(&path, value.to_string()).unwrap();
            SavedPlan::read(&path).unwrap_err().to_string()
        };
        assert!(
            error(&|plan| plan["schema"] = 2.into()).ends_with("of schema 2, and this kprov reads 1; make a new plan")
        );
        assert!(
            error(&|plan| plan["kprov"]["digest"] = "0".repeat(64).into())
                .contains("made by another kprov (0.1.0, 000000000000)")
        );
        assert!(error(&|plan| plan["more"] = 1.into()).contains("unknown field `more`"));
        assert!(error(&|plan| *plan = json!([])).contains("has no `schema`"));
        std::fs::write(&path, "half a pl").unwrap();
        assert!(SavedPlan::read(&path).unwrap_err().to_string().contains("no plan of kprov"));
    }

    #[test]
    fn changed_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["same", "other", "gone"] {
            std::fs::write(path(name), name).unwrap();
        }
        let inputs = ["same", "other", "gone"].map(|name| (path(name), digest_of(name.as_bytes())));
        std::fs::write(path("other"), "another").unwrap();
        std::fs::remove_file(path("gone")).unwrap();
        std::fs::write(path("new"), "").unwrap();
        source::read(&path("new")).unwrap();
        // Other tests of this process read files too.
        let mut changed = SavedPlan { inputs: inputs.into(), ..saved() }.changed_inputs();
        changed.retain(|text| text.starts_with(directory.path().to_str().unwrap()));
        let at = directory.path().display();
        assert_eq!(
            changed,
            [format!("{at}/gone is gone"), format!("{at}/other has changed"), format!("{at}/new is new")]
        );
    }
}
