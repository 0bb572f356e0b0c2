//! The controller's end of the wire: starts the agent on a host, sends it tasks, and hands its answers to the engine.
//!
//! `binary` is the agent's file, `launch` gets it to run there, `link` reads and writes and comes back after a dropped link,
//! `blobs` and `tunnels` carry bytes. What to send and what to make of an answer is the engine's business; a lost agent is
//! told at the end of the [`Events`].

mod binary;
mod blobs;
mod launch;
mod link;
mod stderr;
mod tunnels;

pub use binary::{AgentBinary, BinaryError};
pub use blobs::{BlobSource, OpenBlob};
pub use launch::LaunchError;
pub use link::{Patience, Route};
pub use tunnels::Tunnel;

use super::protocol::{FromAgent, LockRequest, LockState, RunEnd, RunHeader, Seq, ToAgent};
use crate::modules::Failure;
use crate::pki::SigningRequest;
use crate::system::Mode;
use crate::transport::{Become, Session};
use crate::value::Value;
use link::{Links, Wire};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tunnels::{Connecting, Incoming};

/// How long an agent that has closed its output may take to end.
const END: Duration = Duration::from_secs(5);

/// A running agent. Handles are cheap to clone; when the last one is dropped, the agent ends after the task in hand.
#[derive(Clone)]
pub struct Agent {
    messages: mpsc::Sender<ToAgent>,
    bye: Arc<Notify>,
    waiting: Arc<Waiting>,
    next: Arc<AtomicU32>,
}

/// Why the answers ended before the agent was told to end.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Lost {
    /// The host is unreachable now.
    #[error("{0}")]
    Connection(String),
    /// The host is there, but the agent on it ended.
    #[error("{0}")]
    Agent(String),
}

/// The agent is gone; the end of the [`Events`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is gone")]
pub struct Gone;

/// What a host has recorded of one run.
#[derive(Debug, Default)]
pub struct Record {
    pub run: String,
    /// An agent of the run is still there.
    pub running: bool,
    /// Lines of its journal, whole or not.
    pub bytes: Vec<u8>,
}

/// How tasks start and end, in order, and what the agent says unasked. Answers to what a method of [`Agent`] asks, blobs
/// and tunnels do not show here.
pub struct Events(mpsc::UnboundedReceiver<Result<FromAgent, Lost>>);

impl Events {
    /// The next answer. `None` when the agent has ended as it was told to; nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<FromAgent, Lost>> {
        self.0.recv().await
    }
}

/// Those who wait for answers of one kind, in the order in which they asked.
type Queue<T> = Mutex<Vec<oneshot::Sender<Result<T, Failure>>>>;

/// Who waits for an answer beside the stream of events.
#[derive(Default)]
struct Waiting {
    begun: Queue<()>,
    locks: Queue<LockState>,
    facts: Queue<Value>,
    recorded: Queue<Vec<Record>>,
    ended: Queue<()>,
    signatures: Mutex<HashMap<u32, oneshot::Sender<Result<String, Failure>>>>,
    connecting: Mutex<HashMap<u32, Connecting>>,
    tunnels: Mutex<HashMap<u32, mpsc::UnboundedSender<Incoming>>>,
    /// Why no answer comes any more.
    lost: OnceLock<Lost>,
}

impl Agent {
    /// Starts an agent that ends with its link and writes nothing on the host but its own file: through `sudo` where there is
    /// an escalation, sending the binary where it is not yet.
    ///
    /// One command over the session, and no further round trip when the binary is there.
    pub async fn launch(
        session: Box<dyn Session>,
        escalation: Option<&Become>,
        binary: &AgentBinary,
        blobs: Arc<dyn BlobSource>,
    ) -> Result<(Self, Events), LaunchError> {
        let links = Links::single(session, escalation, binary).await?;
        Ok(Self::serve(links, blobs))
    }

    /// Starts an agent on the host that `route` leads to, and finds back to it when the link drops.
    pub async fn launch_detached(route: Route, blobs: Arc<dyn BlobSource>) -> Result<(Self, Events), LaunchError> {
        let links = Links::along(route).await?;
        Ok(Self::serve(links, blobs))
    }

    fn serve(links: Links, blobs: Arc<dyn BlobSource>) -> (Self, Events) {
        let (messages, queue) = mpsc::channel(64);
        let (chunks, chunk_queue) = mpsc::channel(1);
        let (events, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let (wire, bye) = (Arc::new(Wire::default()), Arc::new(Notify::new()));
        let queueing = tokio::spawn(link::queue(wire.clone(), queue, chunk_queue, bye.clone()));
        let (serving, records) = (HashMap::new(), Vec::new());
        let mut reader = Reader { waiting: waiting.clone(), events, blobs, chunks, serving, records };
        tokio::spawn(async move {
            let ended = links.run(&wire, |message| reader.route(message)).await;
            reader.end(ended);
            queueing.abort();
        });
        (Self { messages, bye, waiting, next: Arc::default() }, Events(receiver))
    }

    /// Queues a message; waits while the link is slower than what is to be sent.
    pub async fn send(&self, message: ToAgent) -> Result<(), Gone> {
        self.messages.send(message).await.map_err(|_| Gone)
    }

    /// Says goodbye after what is queued: the agent ends after the task in hand, as it does when the last handle is gone.
    pub fn say_goodbye(&self) {
        self.bye.notify_one();
    }

    /// Has a request signed with a CA key of this host; returns the certificate in PEM.
    pub async fn sign(&self, request: SigningRequest) -> Result<String, Failure> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting.signatures).insert(id, sender);
        let gone = |_| Failure::new("the agent of the host that signs is gone");
        if self.send(ToAgent::Sign { id, request }).await.is_err() {
            lock(&self.waiting.signatures).remove(&id);
        }
        receiver.await.map_err(gone)?
    }

    /// Begins the work of a run; the host may refuse.
    pub async fn begin(&self, mode: Mode, run: Option<RunHeader>) -> Result<(), Failure> {
        self.ask(&self.waiting.begun, ToAgent::Begin { mode, run }).await
    }

    /// Asks about the lock of the host, or for it.
    pub async fn lock(&self, request: LockRequest) -> Result<LockState, Failure> {
        self.ask(&self.waiting.locks, ToAgent::Lock(request)).await
    }

    /// Asks the host about itself.
    pub async fn facts(&self) -> Result<Value, Failure> {
        self.ask(&self.waiting.facts, ToAgent::Facts).await
    }

    /// Asks for the host's journals: all of one run, or the main lines of every run.
    pub async fn records(&self, run: Option<String>) -> Result<Vec<Record>, Failure> {
        self.ask(&self.waiting.recorded, ToAgent::Records { run }).await
    }

    /// Has the end of the run recorded.
    pub async fn end(&self, end: RunEnd) -> Result<(), Failure> {
        self.ask(&self.waiting.ended, ToAgent::End(end)).await
    }

    /// Asks something that is answered in order.
    async fn ask<T>(&self, waiting: &Queue<T>, question: ToAgent) -> Result<T, Failure> {
        let gone = || Failure::new(self.waiting.lost.get().map_or(Gone.to_string(), ToString::to_string));
        // Room first: questions are sent in the order in which those who ask begin to wait.
        let room = self.messages.reserve().await.map_err(|_| gone())?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(waiting);
            waiting.push(sender);
            room.send(question);
        }
        tokio::select! {
            answer = receiver => answer.map_err(|_| gone())?,
            () = self.messages.closed() => Err(gone()),
        }
    }

    /// Opens a TCP connection from the host to `address`.
    pub async fn tunnel(&self, address: std::net::SocketAddr) -> Result<Tunnel, Failure> {
        tunnels::open(self, address).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers whoever has waited longest.
fn answer<T>(waiting: &Mutex<Vec<oneshot::Sender<T>>>, answer: T) {
    let mut waiting = lock(waiting);
    if !waiting.is_empty() {
        // Who does not wait any more does not want to know.
        let _ = waiting.remove(0).send(answer);
    }
}

/// Hands each answer to whoever waits for it.
struct Reader {
    events: mpsc::UnboundedSender<Result<FromAgent, Lost>>,
    waiting: Arc<Waiting>,
    blobs: Arc<dyn BlobSource>,
    chunks: mpsc::Sender<ToAgent>,
    /// Blobs that are being sent, by the task that needs them.
    serving: HashMap<Seq, JoinHandle<()>>,
    /// What has come of the records that are asked for.
    records: Vec<Record>,
}

impl Reader {
    /// Tells all who wait for an answer that none will come.
    fn end(mut self, ended: Result<(), Lost>) {
        for (_, serving) in self.serving.drain() {
            serving.abort();
        }
        if let Err(lost) = &ended {
            let _ = self.waiting.lost.set(lost.clone());
        }
        lock(&self.waiting.begun).clear();
        lock(&self.waiting.locks).clear();
        lock(&self.waiting.facts).clear();
        lock(&self.waiting.recorded).clear();
        lock(&self.waiting.ended).clear();
        lock(&self.waiting.signatures).clear();
        lock(&self.waiting.connecting).clear();
        lock(&self.waiting.tunnels).clear();
        if let Err(lost) = ended {
            let _ = self.events.send(Err(lost));
        }
    }

    fn route(&mut self, message: FromAgent) {
        match message {
            FromAgent::NeedBlob { seq, blob } => {
                let serving = tokio::spawn(blobs::serve(self.blobs.clone(), seq, blob, self.chunks.clone()));
                self.serving.insert(seq, serving);
            }
            FromAgent::Begun { result } => answer(&self.waiting.begun, result),
            FromAgent::Lock(result) => answer(&self.waiting.locks, result.map(|state| *state)),
            FromAgent::Facts(result) => answer(&self.waiting.facts, result),
            FromAgent::Record { run, running, bytes } => match self.records.last_mut().filter(|last| last.run == run) {
                Some(last) => last.bytes.extend(bytes),
                None => self.records.push(Record { run, running, bytes }),
            },
            FromAgent::Recorded(result) => {
                let records = std::mem::take(&mut self.records);
                answer(&self.waiting.recorded, result.map(|()| records));
            }
            FromAgent::Ended(result) => answer(&self.waiting.ended, result),
            FromAgent::Signed { id, result } => {
                if let Some(waiting) = lock(&self.waiting.signatures).remove(&id) {
                    let _ = waiting.send(result);
                }
            }
            FromAgent::Connected { id, result } => {
                if let Some(connecting) = lock(&self.waiting.connecting).remove(&id) {
                    let _ = connecting.send(result);
                }
            }
            FromAgent::Data { id, bytes } => self.tunnel(id, Incoming::Data(bytes)),
            FromAgent::Window { id, bytes } => self.tunnel(id, Incoming::Window(bytes)),
            FromAgent::Closed { id } => drop(lock(&self.waiting.tunnels).remove(&id)),
            other => {
                if let FromAgent::Done { seq, .. } = &other
                    && let Some(serving) = self.serving.remove(seq)
                {
                    serving.abort();
                }
                let _ = self.events.send(Ok(other));
            }
        }
    }

    fn tunnel(&self, id: u32, incoming: Incoming) {
        if let Some(tunnel) = lock(&self.waiting.tunnels).get(&id) {
            let _ = tunnel.send(incoming);
        }
    }
}
