//! Modules that speak to the Kubernetes API, through the agent of the node that the task is for.
//!
//! The connection goes through the agent to the API server on that node; TLS ends here. kprov's own certificate is made
//! anew for each run and signed by the cluster's authority on the same node.

use super::{Unprepared, arg_error, failed};
use crate::engine::link::Link;
use crate::engine::run::Run;
use crate::kube::{self, Client, Identity, IdentityRequest};
use crate::modules::args::Args;
use crate::modules::{Diff, Failure, Grade, Outcome, UnitEffect, as_planned};
use crate::playbook::Task;
use crate::source::InputError;
use crate::system::Mode;
use crate::template::Scope;
use crate::value::{After, Map, Value};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Days that kprov's own certificate lasts: longer than a run, and no longer than that takes.
const OWN_DAYS: u32 = 1;
const API_SERVER: &str = "kube-apiserver.service";

/// The clients of a run, one for each node that the API is reached through.
#[derive(Default)]
pub struct KubeClients {
    clients: Mutex<HashMap<String, Arc<OnceCell<Client>>>>,
    /// Plan: the task that starts the API server.
    served_after: Mutex<Option<After>>,
}

/// A task for the API with its arguments.
pub struct Kubernetes {
    what: What,
    authority: Authority,
    port: u16,
}

/// Where the cluster's authority is on the node.
#[derive(Clone)]
struct Authority {
    certificate: String,
    key: String,
}

enum What {
    Task(kube::Task),
    Kubeconfig(AdminKubeconfig),
}

/// `admin_kubeconfig`: writes the operator's kubeconfig on the controller. Its key is made here.
struct AdminKubeconfig {
    dest: PathBuf,
    server: String,
    cluster: String,
    days: u32,
    renew_before_days: i64,
}

impl Kubernetes {
    pub fn prepare(run: &Arc<Run>, task: &Task, mut args: Map, scope: &Arc<dyn Scope>) -> Result<Self, Unprepared> {
        let variable = |name: &str, default: &str| -> Result<String, Unprepared> {
            Ok(run
                .variable(scope, name)
                .map_err(failed)?
                .map_or_else(|| default.to_owned(), |(value, _)| value.to_string()))
        };
        let dir = variable("kube_cert_dir", "/etc/kubernetes/ssl")?;
        let port = variable("kube_apiserver_port", "6443")?;
        let port = port.parse().map_err(|_| {
            failed(InputError::at(&task.span, format!("kube_apiserver_port is `{port}`, expected a port")))
        })?;
        let authority = Authority { certificate: format!("{dir}/ca.crt"), key: format!("{dir}/ca.key") };
        if let Some(template) = args.shift_remove("template") {
            let source = task.files.template(&template.to_string()).map_err(|error| arg_error(task, error))?;
            let text = run
                .templar
                .render_file(&source.text, &source.path, scope)
                .map_err(|e| failed(e.into_input(&task.args_span)))?;
            args.insert("definition".to_owned(), text);
        }
        let args = Args::new(args, None, &task.files);
        let what = match task.module.as_str() {
            "admin_kubeconfig" => {
                What::Kubeconfig(AdminKubeconfig::from_args(args).map_err(|error| arg_error(task, error))?)
            }
            name => match kube::from_args(name, args) {
                Some(made) => What::Task(made.map_err(|error| arg_error(task, error))?),
                None => return Err(failed(InputError::at(&task.span, format!("unknown module `{name}`")))),
            },
        };
        Ok(Self { what, authority, port })
    }

    /// What is repeated while the API server is not there is not while its node is gone.
    pub async fn run(self, run: &Arc<Run>, link: &Arc<Link>, expect: Option<&[String]>) -> Result<Outcome, Failure> {
        tokio::select! {
            biased;
            done = self.work(run, link, expect) => done,
            why = link.gone() => Err(Failure::new(why.to_string())),
        }
    }

    async fn work(&self, run: &Arc<Run>, link: &Arc<Link>, expect: Option<&[String]>) -> Result<Outcome, Failure> {
        match &self.what {
            What::Task(task) => {
                let cell = run.kube.cell(&link.host);
                let client = cell.get_or_try_init(|| self.connect(run, link)).await?;
                if expect.is_some() && !run.planning() {
                    // The server's dry run shows what would become of the objects as they are now.
                    as_planned(expect, &task.run(client, Mode::Plan).await?.diff)?;
                }
                let mut outcome = task.run(client, run.mode).await?;
                if outcome.grade == Grade::KnownAfterApply {
                    outcome.after = run.kube.served_after();
                }
                Ok(outcome)
            }
            What::Kubeconfig(kubeconfig) => kubeconfig.run(run, link, &self.authority, expect).await,
        }
    }

    async fn connect(&self, run: &Arc<Run>, link: &Arc<Link>) -> Result<Client, Failure> {
        let identity = match identity(link, &self.authority, OWN_DAYS).await {
            // The authority itself is still planned: no server will answer, and every object is taken to be new.
            Err(_) if run.planning() => Identity::of_nobody()?,
            other => other?,
        };
        let (link, address) = (link.clone(), SocketAddr::from(([127, 0, 0, 1], self.port)));
        let dial = move || {
            let link = link.clone();
            async move { link.agent.tunnel(address).await.map_err(|failure| io::Error::other(failure.message)) }
        };
        Client::connect(dial, &identity)
    }
}

async fn identity(link: &Link, authority: &Authority, days: u32) -> Result<Identity, Failure> {
    let request = IdentityRequest::administrator()?;
    let signed = link.agent.sign(request.to_sign(&authority.certificate, &authority.key, days)).await?;
    request.complete(&signed)
}

impl AdminKubeconfig {
    fn from_args(mut args: Args<'_>) -> Result<Self, crate::modules::args::ArgError> {
        let this = Self {
            dest: PathBuf::from(args.str("dest")?),
            server: args.str("server")?,
            cluster: args.opt_str("cluster")?.unwrap_or_else(|| "kubernetes".to_owned()),
            days: u32::try_from(args.opt_int("days")?.unwrap_or(365)).unwrap_or(365),
            renew_before_days: args.opt_int("renew_before_days")?.unwrap_or(30),
        };
        args.finish()?;
        Ok(this)
    }

    async fn run(
        &self,
        run: &Arc<Run>,
        link: &Link,
        authority: &Authority,
        expect: Option<&[String]>,
    ) -> Result<Outcome, Failure> {
        let written = std::fs::read_to_string(&self.dest).ok();
        // Asking for an identity shows the authority as it is; nothing is left behind on the node.
        let identity = match identity(link, authority, self.days).await {
            Ok(identity) => Some(identity),
            Err(_) if run.planning() => None,
            Err(failure) => return Err(failure),
        };
        let good = |identity: &Identity| {
            written.as_ref().is_some_and(|text| {
                kube::kubeconfig_is_good(text, &self.server, identity.authority(), self.renew_before_days)
            })
        };
        let outcome = |changed| Outcome {
            changed,
            result: [("dest".to_owned(), Value::from(self.dest.display().to_string()))].into_iter().collect(),
            diff: if changed {
                vec![Diff::Note(format!("write {} on this machine", self.dest.display()))]
            } else {
                Vec::new()
            },
            grade: Grade::Exact,
            after: None,
            units: Vec::new(),
        };
        match identity {
            Some(identity) if good(&identity) => Ok(outcome(false)),
            Some(identity) if !run.planning() => {
                as_planned(expect, &outcome(true).diff)?;
                let text = identity.kubeconfig(&self.server, &self.cluster);
                kube::write_kubeconfig(&self.dest, &text)
                    .map_err(|error| Failure::new(format!("cannot write {}: {error}", self.dest.display())))?;
                Ok(outcome(true))
            }
            _ => Ok(outcome(true)),
        }
    }
}

impl KubeClients {
    /// Notes what a planned task does to units: until the API server answers, nothing is known of the cluster's objects.
    pub fn note(&self, units: &[UnitEffect], task: &After) {
        let starts = |effect: &UnitEffect| effect.unit == API_SERVER && effect.action.is_some();
        if units.iter().any(starts) {
            *self.served_after.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.clone());
        }
    }

    fn served_after(&self) -> Option<After> {
        self.served_after.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cell(&self, host: &str) -> Arc<OnceCell<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).entry(host.to_owned()).or_default().clone()
    }
}
