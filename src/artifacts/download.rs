//! Downloads over HTTP: to a temporary file that gets its name only after its digest was verified.

use super::cache::{Cache, Opened};
use super::digest::{Digest, Hasher};
use super::error::ArtifactError;
use reqwest::{Client, Method, Response, StatusCode};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

const ATTEMPTS: u32 = 3;
/// Before the second attempt; the third waits four times as long.
const BACKOFF: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// One HTTP client, and which servers it could not reach: those are not tried again in the same run.
#[derive(Debug, Default)]
pub struct Downloader {
    client: OnceLock<Client>,
    down: Mutex<HashMap<String, String>>,
}

/// Why a source does not serve a file: the next source may.
pub type Reason = String;

/// How one attempt ended without an answer to work with.
enum Attempt {
    /// The server could not even be connected to; `silent`: it did not refuse, but let us wait.
    Connect { why: Reason, silent: bool },
    /// Worth another attempt: a transport error, an overloaded or broken server.
    Again(Reason),
    /// The server answered, and will answer so again.
    Final(Reason),
    /// Not the server's fault, or a file that must not be used.
    Fatal(ArtifactError),
}

impl Downloader {
    /// Downloads to the cache. The outer error ends the search for the artifact, the inner one leaves the other sources.
    pub async fn fetch(
        &self,
        artifact: &str,
        url: &str,
        digest: &Digest,
        cache: &Cache,
    ) -> Result<Result<Opened, Reason>, ArtifactError> {
        self.retry(url, || async {
            let response = self.send(Method::GET, url).await?;
            receive(artifact, url, response, digest, cache).await
        })
        .await
    }

    /// Asks whether the file is there, without downloading it.
    pub async fn probe(&self, url: &str) -> Result<Result<(), Reason>, ArtifactError> {
        self.retry(url, || async {
            match self.send(Method::HEAD, url).await {
                // Servers that do not do HEAD: the answer to GET is dropped before its body.
                Err(Attempt::Final(_)) => self.send(Method::GET, url).await.map(drop),
                other => other.map(drop),
            }
        })
        .await
    }

    async fn retry<T, F>(&self, url: &str, mut attempt: impl FnMut() -> F) -> Result<Result<T, Reason>, ArtifactError>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        let server = match reqwest::Url::parse(url) {
            Ok(url) => url.origin().ascii_serialization(),
            Err(e) => return Ok(Err(format!("{url}: {e}"))),
        };
        let mut reason = String::new();
        let mut unreachable = true;
        for n in 0..ATTEMPTS {
            if let Some(reason) = self.down.lock().unwrap_or_else(PoisonError::into_inner).get(&server) {
                return Ok(Err(reason.clone()));
            }
            if n > 0 {
                tokio::time::sleep(BACKOFF * 4u32.pow(n - 1)).await;
            }
            match attempt().await {
                Ok(done) => return Ok(Ok(done)),
                Err(Attempt::Final(reason)) => return Ok(Err(reason)),
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Again(why)) => (reason, unreachable) = (why, false),
                // Who waited in vain once is not kept waiting again.
                Err(Attempt::Connect { why, silent }) => {
                    reason = why;
                    if silent {
                        break;
                    }
                }
            }
        }
        if unreachable {
            self.down.lock().unwrap_or_else(PoisonError::into_inner).insert(server, reason.clone());
        }
        Ok(Err(reason))
    }

    async fn send(&self, method: Method, url: &str) -> Result<Response, Attempt> {
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let client = Client::builder()
                    .user_agent(concat!("kprov/", env!("CARGO_PKG_VERSION")))
                    .connect_timeout(CONNECT_TIMEOUT)
                    .read_timeout(READ_TIMEOUT)
                    .build()
                    .map_err(|e| Attempt::Final(format!("{url}: {}; is ca-certificates installed?", chain(&e))))?;
                self.client.get_or_init(|| client)
            }
        };
        let response = client.request(method, url).send().await.map_err(|e| transport(url, &e))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status
                if status.is_server_error()
                    || status == StatusCode::TOO_MANY_REQUESTS
                    || status == StatusCode::REQUEST_TIMEOUT =>
            {
                Err(Attempt::Again(format!("{url}: {status}")))
            }
            status => Err(Attempt::Final(format!("{url}: {status}"))),
        }
    }
}

async fn receive(
    artifact: &str,
    url: &str,
    mut response: Response,
    digest: &Digest,
    cache: &Cache,
) -> Result<Opened, Attempt> {
    let path = cache.file(digest);
    let mut file = cache.temporary(&path).map_err(Attempt::Fatal)?;
    let mut hasher = Hasher::new(digest.algorithm());
    while let Some(chunk) = response.chunk().await.map_err(|e| transport(url, &e))? {
        hasher.update(&chunk);
        file.write_all(&chunk).map_err(|e| Attempt::Fatal(ArtifactError::io(file.path())(e)))?;
    }
    let hashed = hasher.finish();
    if let Err(found) = hashed.check(digest) {
        return Err(Attempt::Fatal(ArtifactError::WrongDigest {
            artifact: artifact.to_owned(),
            location: url.to_owned(),
            expected: digest.clone(),
            found,
        }));
    }
    // On the disk before it has its name: after a crash there is the whole file or none.
    let stored = file.as_file().sync_all().and_then(|()| Ok(file.persist(&path)?));
    stored.map_err(|e| Attempt::Fatal(ArtifactError::io(&path)(e)))?;
    Ok(Opened { path, sha256: hashed.sha256, size: hashed.size })
}

fn transport(url: &str, error: &reqwest::Error) -> Attempt {
    let reason = format!("{url}: {}", chain(error));
    if error.is_connect() {
        Attempt::Connect { why: reason, silent: error.is_timeout() }
    } else {
        Attempt::Again(reason)
    }
}

/// The innermost cause says what happened; the outer ones only repeat the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
