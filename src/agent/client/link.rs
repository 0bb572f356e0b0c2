//! The controller's end of a connection over its links: reads, writes, and finds back to an agent whose link has dropped.
//!
//! What makes frames survive is `session`'s business, what they say is the rest of `client`'s. Only an agent that was
//! started along a [`Route`] is looked for again; the other kind ends with its link.

use super::launch::{LaunchError, Launched, launch};
use super::{AgentBinary, END, Lost, lock};
use crate::agent::frame::{self, HEAD, Head, Packet};
use crate::agent::protocol::{FromAgent, ToAgent};
use crate::agent::session::{HEARTBEAT, SILENCE, Session as Frames, Taken};
use crate::transport::{Become, ConnectError, Session, Target, Transport};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long both ends of a dropped link wait for another one.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long the controller tries.
    pub controller: Duration,
    /// How long the agent waits: longer, for it may have noticed earlier.
    pub agent: Duration,
}

impl Patience {
    /// Where the controller tries for so long.
    pub fn of(controller: Duration) -> Self {
        Self { controller, agent: controller + EARLIER }
    }
}

/// How much earlier than the controller an agent may notice that the link dropped: silence, and a heartbeat before it.
const EARLIER: Duration = Duration::from_secs(30);

/// The longest pause between two attempts to reach a host again.
const PAUSE: Duration = Duration::from_secs(4);

/// How a host is reached, once and again.
pub struct Route {
    pub transport: Arc<dyn Transport>,
    pub target: Target,
    pub binary: Arc<AgentBinary>,
    pub patience: Patience,
    /// Is told, in one line, that the link dropped and that it is there again.
    pub tell: Box<dyn Fn(String) + Send + Sync>,
}

impl Route {
    async fn link(&self, verb: &str) -> Result<Link, LaunchError> {
        let session = self.transport.connect(&self.target).await?;
        let launched = launch(&*session, self.target.escalation.as_ref(), &self.binary, verb).await?;
        Ok(Link { launched, _session: session })
    }
}

/// A link to an agent that has said hello.
struct Link {
    launched: Launched,
    _session: Box<dyn Session>,
}

/// How a link ended.
enum Ended {
    /// The agent has ended as it was told to.
    Told,
    /// Nothing more will come of this agent.
    Agent(String),
    Dropped(String),
}

/// The links to an agent: the first, and where others come from.
pub(super) struct Links {
    first: Link,
    /// The route, and the agent's id there.
    again: Option<(Route, String)>,
}

impl Links {
    /// Starts an agent that ends with its link.
    pub(super) async fn single(
        session: Box<dyn Session>,
        escalation: Option<&Become>,
        binary: &AgentBinary,
    ) -> Result<Self, LaunchError> {
        let launched = launch(&*session, escalation, binary, "serve").await?;
        Ok(Self { first: Link { launched, _session: session }, again: None })
    }

    /// Starts an agent that outlives its link.
    pub(super) async fn along(route: Route) -> Result<Self, LaunchError> {
        let mut id = [0u8; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| LaunchError::Failed(format!("no random numbers on this machine: {error}")))?;
        let id = crate::agent::needs::hex(&id);
        let first = route.link(&format!("start {id} {}", route.patience.agent.as_secs())).await?;
        Ok(Self { first, again: Some((route, id)) })
    }

    /// Carries frames until the agent has ended, over as many links as it takes.
    pub(super) async fn run(self, wire: &Wire, mut take: impl FnMut(FromAgent)) -> Result<(), Lost> {
        let Self { first: mut link, again } = self;
        let mut dropped: Option<Instant> = None;
        loop {
            let attached = || {
                if let (Some(since), Some((route, _))) = (dropped, &again) {
                    let took = since.elapsed().as_secs_f64();
                    (route.tell)(format!("the link dropped, re-attached after {took:.1} s"));
                }
            };
            let ended = carry(&mut link, wire, again.is_some(), attached, &mut take).await;
            // The system's ssh is asked to end, which may hang as the link did.
            drop(tokio::task::spawn_blocking(move || drop(link)));
            let reason = match ended {
                Ended::Told => return Ok(()),
                Ended::Agent(reason) => return Err(Lost::Agent(reason)),
                Ended::Dropped(reason) => reason,
            };
            dropped = Some(Instant::now());
            link = match &again {
                // Nobody waits for an agent that was told to end.
                Some((route, id)) if !lock(&wire.frames).closing() => reattach(route, id, &reason).await?,
                _ => return Err(Lost::Connection(reason)),
            };
        }
    }
}

/// Tries to reach the agent again, for as long as the route's patience lasts.
async fn reattach(route: &Route, id: &str, reason: &str) -> Result<Link, Lost> {
    let (since, limit) = (Instant::now(), route.patience.controller);
    (route.tell)(format!("the link dropped, trying to re-attach for {} s: {reason}", limit.as_secs()));
    let verb = format!("attach {id}");
    let mut pause = Duration::from_millis(250);
    let mut last = None;
    loop {
        match timeout_at(since + limit, route.link(&verb)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(LaunchError::Connect(error @ ConnectError::Unreachable(_)))) => last = Some(error.to_string()),
            Ok(Err(LaunchError::Connect(error))) => return Err(Lost::Connection(format!("{reason}; then: {error}"))),
            Ok(Err(LaunchError::Failed(text))) => return Err(Lost::Agent(format!("{reason}; then: {text}"))),
            Err(_) => {}
        }
        if since.elapsed() + pause >= limit {
            let last = last.map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(Lost::Connection(format!("{reason}; not there again within {} s{last}", limit.as_secs())));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE);
    }
}

/// What is queued for the agent and kept for it, over all links.
#[derive(Default)]
pub(super) struct Wire {
    frames: Mutex<Frames>,
    /// There is something to write.
    work: Notify,
    /// There may be room for more.
    room: Notify,
    /// Why no more can be queued, where something is wrong with what was to be sent.
    stuck: Mutex<Option<String>>,
}

/// Queues messages as they come, chunks of blobs only while there is nothing else to say, and the goodbye when the last
/// handle of the agent is gone, or `bye` says so.
pub(super) async fn queue(
    wire: Arc<Wire>,
    mut messages: mpsc::Receiver<ToAgent>,
    mut chunks: mpsc::Receiver<ToAgent>,
    bye: Arc<Notify>,
) {
    loop {
        while lock(&wire.frames).full() {
            wire.room.notified().await;
        }
        let message = tokio::select! {
            biased;
            message = messages.recv() => message,
            Some(chunk) = chunks.recv() => Some(chunk),
            () = bye.notified() => None,
        };
        match message.as_ref().map(frame::encode) {
            Some(Ok(packet)) => lock(&wire.frames).push(packet),
            end => {
                // What is left of blobs is for tasks that nobody waits for.
                *lock(&wire.stuck) = end.and_then(Result::err).map(|error| error.to_string());
                lock(&wire.frames).close();
            }
        }
        wire.work.notify_one();
        if lock(&wire.frames).closing() {
            return;
        }
    }
}

/// Carries frames over one link to its end.
///
/// `attached` is called when the agent has spoken.
async fn carry(
    link: &mut Link,
    wire: &Wire,
    detached: bool,
    attached: impl FnOnce(),
    take: &mut impl FnMut(FromAgent),
) -> Ended {
    let Launched { stdin, stdout, stderr, exit } = &mut link.launched;
    lock(&wire.frames).attach();
    let mut attached = Some(attached);
    let reading = async {
        loop {
            match listen(stdout, wire).await? {
                Some(Taken::Message(body)) => take(frame::decode(&body)?),
                Some(Taken::Own) => attached.take().map_or((), |attached| attached()),
                Some(Taken::Bye) => return Ok::<_, io::Error>(true),
                None => return Ok(false),
            }
        }
    };
    let ended = tokio::select! {
        ended = reading => ended,
        never = write(stdin, wire) => match never {},
    };
    if let Err(error) = &ended
        && error.kind() == ErrorKind::TimedOut
    {
        return Ended::Dropped(error.to_string());
    }
    let told = matches!(ended, Ok(true)) && lock(&wire.stuck).is_none();
    match (timeout(END, exit).await, ended) {
        (_, Err(error)) if error.kind() == ErrorKind::InvalidData => {
            Ended::Agent(format!("the agent sent something else than frames: {error}"))
        }
        (Ok(Ok(Some(0))), _) if told => Ended::Told,
        (_, Ok(true)) if !told => Ended::Agent(lock(&wire.stuck).take().unwrap_or_default()),
        (Err(_), _) if !detached => Ended::Agent("the agent closed its output and did not end".to_owned()),
        (Ok(Err(error)), _) => Ended::Dropped(error.to_string()),
        // A relay complains when it knows that the agent is gone, and else has lost one of its ends itself.
        (Ok(Ok(code)), _) if !detached || code == Some(1) => {
            let text = stderr.explain("the agent ended", code).await;
            Ended::Agent(text.split_once("kprov-agent: ").map_or(text.clone(), |(_, own)| own.to_owned()))
        }
        _ => Ended::Dropped("the agent's SSH session was ended".to_owned()),
    }
}

/// Takes the next packet of a link; `None` at its end.
async fn listen(input: &mut (impl AsyncRead + Unpin), wire: &Wire) -> io::Result<Option<Taken>> {
    let Some(packet) = read(input).await? else { return Ok(None) };
    let taken = lock(&wire.frames).take(packet)?;
    wire.work.notify_one();
    wire.room.notify_one();
    Ok(Some(taken))
}

/// Writes what is queued, and something now and then. When the link takes nothing more, its reader says why.
async fn write(output: &mut (impl AsyncWrite + Unpin), wire: &Wire) -> std::convert::Infallible {
    let written = async {
        let mut spoke = Instant::now();
        loop {
            let next = lock(&wire.frames).next();
            match next {
                Some(packet) => {
                    output.write_all(&packet).await?;
                    output.flush().await?;
                    spoke = Instant::now();
                }
                None if spoke.elapsed() >= HEARTBEAT => {
                    lock(&wire.frames).beat();
                    spoke = Instant::now();
                }
                // Either way there may be something to say.
                None => drop(timeout_at(spoke + HEARTBEAT, wire.work.notified()).await),
            }
        }
    };
    let _: io::Result<()> = written.await;
    std::future::pending().await
}

/// Reads one packet; `None` at the end, an error where nothing was heard for [`SILENCE`].
pub(super) async fn read(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Packet>> {
    let mut head = [0; HEAD];
    if !fill(input, &mut head).await? {
        return Ok(None);
    }
    let head = Head::decode(head)?;
    let mut body = Vec::new();
    if let Head::Frame(length @ 1..) = head {
        body = vec![0; length];
        if !fill(input, &mut body).await? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(Packet { head, body }))
}

/// Fills a buffer; false where the stream ends before its first byte.
async fn fill(input: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let heard = timeout(SILENCE, input.read(&mut buffer[filled..])).await;
        match heard.map_err(|_| io::Error::new(ErrorKind::TimedOut, silent()))?? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(true)
}

fn silent() -> String {
    format!("nothing was heard of the host for {} s", SILENCE.as_secs())
}
