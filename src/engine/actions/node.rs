//! Modules that need the controller before they are a node's: templates and artifacts.

use super::{Unprepared, arg_error, failed};
use crate::artifacts::{Resolved, architecture};
use crate::engine::run::Run;
use crate::modules::args::Args;
use crate::modules::{self, Resource};
use crate::playbook::Task;
use crate::source::InputError;
use crate::template::Scope;
use crate::value::{Map, Value};
use std::sync::Arc;

/// `template`: rendered here, and a `copy` of the text from then on.
pub fn template(run: &Run, task: &Task, mut args: Map, scope: &Arc<dyn Scope>) -> Result<Resource, Unprepared> {
    let name = match args.shift_remove("src") {
        Some(Value::String(name)) => name,
        Some(Value::Unknown(after)) => return Err(Unprepared::Unknown(after)),
        _ => return Err(failed(InputError::at(&task.args_span, "template: missing argument `src`"))),
    };
    let source = task.files.template(&name).map_err(|error| arg_error(task, error))?;
    let content = run
        .templar
        .render_file(&source.text, &source.path, scope)
        .map_err(|e| failed(e.into_input(&task.args_span)))?;
    args.insert("content".to_owned(), content);
    made(task, "copy", args)
}

/// `artifact`: resolved in the catalogue; no byte is fetched before a node asks for it.
pub async fn artifact(
    run: &Arc<Run>,
    task: &Task,
    mut args: Map,
    scope: &Arc<dyn Scope>,
) -> Result<Resource, Unprepared> {
    let at = |message: String| failed(InputError::at(&task.args_span, message));
    let mut text = |name: &str| match args.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Unknown(after)) => Err(Unprepared::Unknown(after)),
        Some(value @ (Value::String(_) | Value::Int(_) | Value::Float(_))) => Ok(Some(value.to_string())),
        Some(other) => Err(at(format!("artifact: `{name}` is {}, expected a string", other.type_name()))),
    };
    let name = text("name")?.ok_or_else(|| at("artifact: missing argument `name`".to_owned()))?;
    let (version, dest) = (text("version")?, text("dest")?);
    let wanted = match args.shift_remove("files") {
        None => None,
        Some(Value::List(list)) => Some(list.iter().map(ToString::to_string).collect::<Vec<_>>()),
        Some(_) => return Err(at("artifact: `files` is a list of names".to_owned())),
    };
    let artifact = match resolve(run, task, scope, &name, version.as_deref())? {
        Resolved::File(artifact) => artifact,
        Resolved::Pull { image } => return Err(at(format!("artifact: {image} is an image, use `containerd_image`"))),
    };
    let members: Vec<Option<String>> = match (&wanted, artifact.members.is_empty()) {
        (None, true) => vec![None],
        (None, false) => artifact.members.iter().cloned().map(Some).collect(),
        (Some(names), _) => names
            .iter()
            .map(|name| artifact.member(name).map(|member| Some(member.to_owned())))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(InputError { span: Some(task.args_span.clone()), ..error }))?,
    };
    let mut files = Vec::new();
    for member in &members {
        let blob = run.artifacts.store.blob(&artifact, member.as_deref()).map_err(failed)?;
        let path =
            member.as_deref().map_or(artifact.name.as_str(), |member| member.rsplit('/').next().unwrap_or(member));
        let file =
            [("member", blob.member.map_or(Value::Null, Value::from)), ("path", path.into()), ("mode", "0755".into())];
        files.push(file.into_iter().collect());
    }
    let dest = dest.unwrap_or_else(|| format!("/opt/kprov/{}/{}", artifact.name, artifact.version));
    args.insert("dest".to_owned(), dest.into());
    args.insert("digest".to_owned(), artifact.digest.to_string().into());
    args.insert("files".to_owned(), Value::List(files));
    made(task, "artifact", args)
}

/// `containerd_image`: an archive to import; `None` where containerd will pull the image itself.
pub async fn containerd_image(
    run: &Arc<Run>,
    task: &Task,
    mut args: Map,
    scope: &Arc<dyn Scope>,
) -> Result<Option<Resource>, Unprepared> {
    let name = match args.shift_remove("name") {
        Some(Value::String(name)) => name,
        _ => {
            return Err(failed(InputError::at(
                &task.args_span,
                "containerd_image: missing argument `name`, an image of the catalogue",
            )));
        }
    };
    let Resolved::File(artifact) = resolve(run, task, scope, &name, None)? else { return Ok(None) };
    let blob = run.artifacts.store.blob(&artifact, None).map_err(failed)?;
    let variable = |name: &str| -> Result<Option<String>, Unprepared> {
        Ok(run.variable(scope, name).map_err(failed)?.map(|(value, _)| value.to_string()))
    };
    let bin_dir = variable("bin_dir")?.unwrap_or_else(|| "/usr/local/bin".to_owned());
    if let Some(root) = variable("containerd_storage_dir")? {
        args.entry("root".to_owned()).or_insert_with(|| root.into());
    }
    args.insert("name".to_owned(), artifact.image.as_deref().unwrap_or(&name).into());
    args.insert("digest".to_owned(), blob.digest.into());
    args.entry("ctr".to_owned()).or_insert_with(|| format!("{bin_dir}/ctr").into());
    made(task, "containerd_image", args).map(Some)
}

fn resolve(
    run: &Arc<Run>,
    task: &Task,
    scope: &Arc<dyn Scope>,
    name: &str,
    version: Option<&str>,
) -> Result<Resolved, Unprepared> {
    let host = run
        .variable(scope, "inventory_hostname")
        .map_err(failed)?
        .map_or_else(String::new, |(value, _)| value.to_string());
    let machine = run
        .variable(scope, "ansible_architecture")
        .map_err(failed)?
        .map_or_else(String::new, |(value, _)| value.to_string());
    let at = |error: InputError| {
        failed(InputError { span: error.span.clone().or_else(|| Some(task.args_span.clone())), ..error })
    };
    let arch = architecture(&machine)
        .ok_or_else(|| at(InputError::new(format!("no artifacts for the architecture `{machine}`"))))?;
    run.artifacts.catalog(run, &host).and_then(|catalog| catalog.resolve(name, version, arch)).map_err(at)
}

fn made(task: &Task, module: &str, args: Map) -> Result<Resource, Unprepared> {
    match modules::from_args(module, Args::new(args, None, &task.files)) {
        Some(made) => made.map_err(|error| arg_error(task, error)),
        None => Err(failed(InputError::at(&task.span, format!("the module `{module}` is not built in")))),
    }
}

/// What a task's keywords mean to its module: `environment`, and whether a command may run while planning.
pub fn settle(run: &Run, task: &Task, scope: &Arc<dyn Scope>, resource: &mut Resource) -> Result<(), Unprepared> {
    let Resource::Command(command) = resource else { return Ok(()) };
    command.probe = task.keywords.always_run;
    for environment in &task.keywords.environment {
        let rendered =
            run.templar.render(&environment.value, scope).map_err(|e| failed(e.into_input(&environment.span)))?;
        let Value::Map(map) = rendered else {
            return Err(failed(InputError::at(&environment.span, "`environment` is a mapping of names to values")));
        };
        command.environment.extend(map.into_iter().map(|(name, value)| (name, value.to_string())));
    }
    Ok(())
}
