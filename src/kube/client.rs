//! The connection to one API server: readiness, retries, and which resource a kind is.

use super::Identity;
use super::plan::Planned;
use crate::modules::Failure;
use crate::system::Mode;
use ::kube::api::ApiResource;
use ::kube::client::{Body, ClientBuilder, ConfigExt};
use ::kube::core::GroupVersion;
use ::kube::discovery::{ApiCapabilities, ApiGroup, Scope, pinned_group};
use ::kube::{Config, Error};
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceBuilder;

/// How long an API server may take to become ready after it was started. It answers within seconds on a small node; this
/// is for one that waits for etcd.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a request is repeated while the API server cannot be reached or is overloaded.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// One request, from the connection to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// One question whether it is ready: an API server that is starting may take a connection and not answer.
const READYZ_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one cluster's API. Cheap to clone; one is shared by all tasks of a run, so that a plan remembers.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    kube: ::kube::Client,
    ready: OnceCell<()>,
    /// What discovery has told, per group and version.
    groups: Mutex<HashMap<String, Arc<ApiGroup>>>,
    planned: Mutex<Planned>,
}

impl Client {
    /// Makes a client that opens its connections with `dial`. Nothing is sent before the first request.
    ///
    /// The server has to present a certificate for the name `kubernetes` from the CA that signed `identity`.
    pub fn connect<F, Fut, S>(dial: F, identity: &Identity) -> Result<Self, Failure>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = identity.config()?;
        let connector = Connector(Arc::new(move || {
            let stream = dial();
            Box::pin(async move { Ok(TokioIo::new(Stream(Box::new(stream.await?)))) })
        }));
        let kube = build(config, connector).map_err(|error| Failure::new(explain(&error)))?;
        Ok(Self(Arc::new(Inner { kube, ready: OnceCell::new(), groups: Mutex::default(), planned: Mutex::default() })))
    }

    pub(super) fn kube(&self) -> ::kube::Client {
        self.0.kube.clone()
    }

    /// Looks into what the plan remembers, or adds to it.
    pub(super) fn planned<T>(&self, look: impl FnOnce(&mut Planned) -> T) -> T {
        look(&mut self.0.planned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the API server says that it is ready. When planning it is asked once: `false` means that it is not there
    /// yet, as on a cluster that has still to be made.
    pub(super) async fn ready(&self, mode: Mode) -> Result<bool, Failure> {
        let result = self.0.ready.get_or_try_init(async || match mode {
            Mode::Apply => {
                let ready = self.retry(READY_TIMEOUT, READYZ_TIMEOUT, || self.readyz()).await;
                ready.map_err(|refusal| Some(refusal.failure("wait for /readyz")))
            }
            Mode::Plan => match within(READYZ_TIMEOUT, self.readyz()).await {
                Ok(()) => Ok(()),
                Err(error) if transient(&error) => Err(None),
                Err(error) => Err(Some(Failure::new(explain(&error)))),
            },
        });
        match result.await {
            Ok(()) => Ok(true),
            Err(None) => Ok(false),
            Err(Some(failure)) => Err(failure),
        }
    }

    async fn readyz(&self) -> Result<(), Error> {
        let request = ::kube::core::Request::new("").get("readyz", &Default::default()).map_err(Error::BuildRequest)?;
        self.0.kube.request_text(request).await.map(drop)
    }

    /// Sends a request, and again while the API server cannot be reached or says to come back later.
    pub(super) async fn request<T, Fut>(&self, what: &str, send: impl Fn() -> Fut) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        self.send(send).await.map_err(|refusal| refusal.failure(what))
    }

    /// As [`Client::request`], for a caller that does not show every answer.
    pub(super) async fn send<T, Fut>(&self, send: impl Fn() -> Fut) -> Result<T, Refusal>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        self.retry(RETRY_TIMEOUT, REQUEST_TIMEOUT, send).await
    }

    /// Repeats a request, each attempt of which has `each`, until `limit`.
    async fn retry<T, Fut>(&self, limit: Duration, each: Duration, send: impl Fn() -> Fut) -> Result<T, Refusal>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut pace = Pace::new(limit);
        loop {
            match within(each, send()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !transient(&error) => return Err(Refusal { error, tried: None }),
                Err(error) if !pace.again().await => return Err(Refusal { error, tried: Some(limit) }),
                Err(_) => {}
            }
        }
    }

    /// The resource of a kind and whether it is namespaced; `None` where the API server has no such kind.
    pub(super) async fn resource(&self, api_version: &str, kind: &str) -> Result<Option<Resource>, Failure> {
        let known = |group: &ApiGroup, version: &str| {
            group.versioned_resources(version).into_iter().find(|(resource, _)| resource.kind == kind)
        };
        let version: GroupVersion = api_version
            .parse()
            .map_err(|_| Failure::new(format!("`{api_version}` is no API version, expected such as `apps/v1`")))?;
        let cached = self.groups().get(api_version).cloned();
        if let Some(found) = cached.as_deref().and_then(|group| known(group, &version.version)) {
            return Ok(Some(found.into()));
        }
        // Not cached, or a kind that a custom resource definition has added since.
        let what = format!("look up {api_version}");
        let group = self.request(&what, || async {
            match pinned_group(&self.0.kube, &version).await {
                Ok(group) => Ok(Some(group)),
                Err(error) if is_code(&error, 404) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let Some(group) = group.await? else { return Ok(None) };
        let found = known(&group, &version.version);
        self.groups().insert(api_version.to_owned(), Arc::new(group));
        Ok(found.map(Resource::from))
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<String, Arc<ApiGroup>>> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asking again and again, with growing pauses, until a deadline.
pub(super) struct Pace {
    deadline: Instant,
    pause: Duration,
}

impl Pace {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_millis(500);

    pub fn new(limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit, pause: Self::FIRST }
    }

    /// Waits before the next attempt; `false` without waiting when there is no time for one.
    pub async fn again(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(Self::LONGEST);
        true
    }
}

/// How to address the objects of one kind.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
}

impl From<(ApiResource, ApiCapabilities)> for Resource {
    fn from((api, capabilities): (ApiResource, ApiCapabilities)) -> Self {
        Self { api, namespaced: capabilities.scope == Scope::Namespaced }
    }
}

fn build(config: Config, connector: Connector) -> Result<::kube::Client, Error> {
    let https = config.rustls_https_connector_with_connector(connector)?;
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new().layer(config.base_uri_layer()).service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, request).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs());
        Err(Error::Service(io::Error::new(io::ErrorKind::TimedOut, text).into()))
    })
}

pub(super) fn is_code(error: &Error, code: u16) -> bool {
    matches!(error, Error::Api(status) if status.code == code)
}

/// Whether the same request may succeed a little later. A handshake that fails will fail again.
fn transient(error: &Error) -> bool {
    match error {
        // To a field that the schema does not have, a server-side apply answers 500 (seen with 1.36): a mistake all the same.
        Error::Api(status) if status.message.contains("failed to create typed patch object") => false,
        Error::Api(status) => status.code >= 500 || status.code == 429,
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => {
            !causes(error).any(|cause| cause.downcast_ref::<rustls::Error>().is_some_and(untrusted))
        }
        _ => false,
    }
}

fn untrusted(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
}

/// The error and what is behind it. `io::Error` hides its cause from `source` when it wraps one.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
        None => error.source(),
    })
}

/// A request that came to nothing.
pub(super) struct Refusal {
    pub error: Error,
    /// How long it was repeated; `None` where that was no use.
    tried: Option<Duration>,
}

impl Refusal {
    pub fn failure(&self, what: &str) -> Failure {
        let tried = self.tried.map(|tried| format!(" (tried for {} s)", tried.as_secs())).unwrap_or_default();
        Failure::new(format!("{what}: {}{tried}", explain(&self.error)))
    }
}

/// One line: what the API server said, or what is at the bottom of a failed connection.
fn explain(error: &Error) -> String {
    match error {
        Error::Api(status) if status.message.is_empty() => format!("the API server answered {}", status.code),
        Error::Api(status) => format!("{} ({})", status.message.replace('\n', " "), status.code),
        other => {
            let last = causes(other).last().map(ToString::to_string).unwrap_or_default();
            match other {
                Error::HyperError(_) | Error::Service(_) => format!("the API server cannot be reached: {last}"),
                _ => last,
            }
        }
    }
}

type Dialed = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

/// Opens a new stream for each connection, whatever the address.
#[derive(Clone)]
struct Connector(Arc<dyn Fn() -> Dialed + Send + Sync>);

impl<Uri> tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Dialed;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Dialed {
        (self.0)()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream of any kind, in the shape that the HTTP client wants.
struct Stream(Box<dyn Duplex>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Query, Task};
    use super::*;

    /// The engine runs tasks of many hosts on several threads.
    #[expect(dead_code, reason = "compiling it is the test")]
    fn tasks_can_move_between_threads(client: &Client, task: &Task) -> impl Send {
        task.run(client, Mode::Apply)
    }

    fn refused() -> Client {
        let identity = super::super::admin::tests::identity(1);
        let dial = || async { Err::<tokio::net::TcpStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)) };
        Client::connect(dial, &identity).unwrap()
    }

    #[tokio::test]
    async fn a_plan_without_an_api_server_creates_everything_once() {
        let client = refused();
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\ndata: {x: '1'}\n";
        let objects = super::super::Object::read_all(&text.into(), None).unwrap();
        let first = client.apply(&objects, Mode::Plan).await.unwrap();
        assert!(first.changed);
        assert_eq!(first.grade, crate::modules::Grade::KnownAfterApply);
        assert!(!client.apply(&objects, Mode::Plan).await.unwrap().changed);
        assert!(client.delete(&objects, Mode::Plan).await.unwrap().changed);
        assert!(!client.delete(&objects, Mode::Plan).await.unwrap().changed);
        let query = Query { api_version: "v1".into(), kind: "Node".into(), ..Query::default() };
        let outcome = client.info(&query, Mode::Plan).await.unwrap();
        assert_eq!(outcome.result["resources"], crate::value::Value::later());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_come_is_given_up() {
        let failure = refused().apply(&[], Mode::Apply).await.unwrap_err();
        let expected = "wait for /readyz: the API server cannot be reached: connection refused (tried for 120 s)";
        assert_eq!(failure.message, expected);
    }
}
