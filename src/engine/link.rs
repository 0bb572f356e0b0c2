//! A host's agent as the engine uses it: tasks are numbered and handed over, answers find whoever waits for them.

use super::host::HostState;
use super::run::Run;
use crate::agent::client::{Agent, Events, Lost};
use crate::agent::protocol::{FromAgent, REPLACED, Seq, Task, TaskResult, ToAgent};
use crate::modules::certificate::Certificate;
use crate::modules::{Failure, Resource};
use crate::value::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, OnceCell, oneshot};

/// What a submitted task comes to.
#[derive(Debug)]
pub enum Reply {
    Result(TaskResult),
    /// The host was lost before the answer came.
    Lost(Lost),
}

/// The connection to one host.
pub struct Link {
    pub host: String,
    pub agent: Agent,
    next: AtomicU32,
    epochs: AtomicU32,
    waiting: Mutex<Waiting>,
    begun: OnceCell<()>,
    /// Wakes those that wait for the end of the connection.
    gone: Notify,
}

#[derive(Default)]
struct Waiting {
    tasks: HashMap<Seq, oneshot::Sender<Reply>>,
    /// What each task that may ask for a certificate was told to ask for.
    certificates: HashMap<Seq, Certificate>,
    lost: Option<Lost>,
}

impl Link {
    /// Takes over an agent's answers. Requests for certificates are passed to the host that signs.
    pub fn start(run: Arc<Run>, host: &str, agent: Agent, mut events: Events) -> Arc<Self> {
        let this = Arc::new(Self {
            host: host.to_owned(),
            agent,
            next: AtomicU32::new(1),
            epochs: AtomicU32::new(1),
            waiting: Mutex::default(),
            begun: OnceCell::new(),
            gone: Notify::new(),
        });
        let link = this.clone();
        tokio::spawn(async move {
            loop {
                match events.next().await {
                    Some(Ok(message)) => link.route(&run, message),
                    Some(Err(lost)) => break link.lose(lost),
                    None => break link.lose(Lost::Agent("the agent has ended".to_owned())),
                }
            }
        });
        this
    }

    fn route(self: &Arc<Self>, run: &Arc<Run>, message: FromAgent) {
        match message {
            FromAgent::Done { seq, result } => {
                let mut waiting = self.lock();
                waiting.certificates.remove(&seq);
                if let Some(sender) = waiting.tasks.remove(&seq) {
                    let _ = sender.send(Reply::Result(result));
                }
            }
            FromAgent::Replaced { reason } => run.stop(&format!("{}: {reason}", self.host)),
            FromAgent::NeedCertificate { seq, signer, request } => {
                let (link, run) = (self.clone(), run.clone());
                // A node gets the certificates that its tasks are for, and no other.
                let asked = self.lock().certificates.get(&seq).cloned();
                let allowed = match asked {
                    Some(certificate) => certificate.check_request(&signer, &request),
                    None => Err(Failure::new("no task of this host asks for a certificate")),
                };
                tokio::spawn(async move {
                    let signed = match allowed {
                        Ok(()) => link.sign(&run, &signer, request).await,
                        Err(failure) => Err(failure),
                    };
                    let answer = match signed {
                        Ok(pem) => ToAgent::Certificate { seq, pem },
                        Err(failure) => ToAgent::Refused { seq, failure },
                    };
                    // A lost agent is noticed where its answers end.
                    let _ = link.agent.send(answer).await;
                });
            }
            _ => {}
        }
    }

    async fn sign(
        self: &Arc<Self>,
        run: &Arc<Run>,
        signer: &str,
        request: crate::pki::SigningRequest,
    ) -> Result<String, Failure> {
        if signer == self.host {
            return self.agent.sign(request).await;
        }
        run.link_of(signer).await?.agent.sign(request).await
    }

    fn lose(&self, why: Lost) {
        let mut waiting = self.lock();
        waiting.lost = Some(why.clone());
        for (_, sender) in waiting.tasks.drain() {
            let _ = sender.send(Reply::Lost(why.clone()));
        }
        drop(waiting);
        self.gone.notify_waiters();
    }

    /// Waits until the host is gone; returns why.
    pub async fn gone(&self) -> Lost {
        loop {
            let mut gone = std::pin::pin!(self.gone.notified());
            gone.as_mut().enable();
            if let Some(why) = self.lost() {
                return why;
            }
            gone.await;
        }
    }

    /// Begins the run on this host, once: from then on tasks change it. Where a newer run has begun, this one is over.
    pub async fn begin(&self, run: &Arc<Run>) -> Result<(), Failure> {
        let begin = || async {
            let header = super::record::header_for(run, &self.host).map_err(|error| Failure::new(error.to_string()))?;
            self.agent.begin(run.mode, header).await
        };
        let begun = self.begun.get_or_try_init(begin).await;
        if let Err(failure) = &begun
            && failure.result.contains_key(REPLACED)
        {
            run.stop(&format!("{}: {failure}", self.host));
        }
        begun.copied()
    }

    /// Why the host is gone, if it is.
    pub fn lost(&self) -> Option<Lost> {
        self.lock().lost.clone()
    }

    pub fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }

    /// An epoch that no task has failed in.
    pub fn new_epoch(&self) -> u32 {
        self.epochs.fetch_add(1, Ordering::Relaxed)
    }

    pub fn next_seq(&self) -> Seq {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands a task to the agent. Waits only while the link is slower than the tasks come.
    pub async fn submit(&self, task: Task) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if let Some(why) = &waiting.lost {
                let _ = sender.send(Reply::Lost(why.clone()));
                return receiver;
            }
            waiting.tasks.insert(task.seq, sender);
            if let Resource::Certificate(certificate) = &task.resource {
                waiting.certificates.insert(task.seq, certificate.clone());
            }
        }
        // When the agent is gone, the reader of its answers tells all that wait.
        let _ = self.agent.send(ToAgent::from(task)).await;
        receiver
    }

    pub async fn cancel(&self, now: bool) {
        let _ = self.agent.send(ToAgent::Cancel { now }).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Facts of a host, with what only the controller can know of them: how far its clock is off, in milliseconds.
pub async fn gather_facts(link: &Link, host: &HostState) -> Result<(), Failure> {
    let before = epoch_ms();
    let facts = link.agent.facts().await?;
    let after = epoch_ms();
    let Value::Map(mut facts) = facts else { return Err(Failure::new("the agent sent facts that are no mapping")) };
    if let Some(Value::Map(kprov)) = facts.get_mut("kprov")
        && let Some(there) = kprov.get("epoch_ns").and_then(Value::as_int)
    {
        // The answer was made between the two readings here.
        kprov.insert("clock_offset_ms".to_owned(), (there / 1_000_000 - before.midpoint(after)).into());
    }
    host.set_facts(facts);
    Ok(())
}

fn epoch_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
