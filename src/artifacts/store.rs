//! The store: from a [`Blob`] to a plain verified file on the controller.

use super::cache::{Cache, Opened};
use super::catalog::{Artifact, Candidate, Location};
use super::digest::Digest;
use super::download::Downloader;
use super::error::ArtifactError;
use super::extract;
use crate::agent::client::{BlobSource, OpenBlob};
use crate::modules::{Blob, Failure};
use crate::source::InputError;
use crate::transport::BoxFuture;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Fetches, verifies and unpacks artifacts, each at most once in a run, however many hosts ask. Cheap to clone.
///
/// Needs a multi-threaded tokio runtime. Failures are remembered too: the retries are in here, and what could not be had
/// for the first host is not tried for the hundredth.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cache: Cache,
    downloader: Downloader,
    artifacts: Mutex<HashMap<String, Arc<Artifact>>>,
    opened: Mutex<HashMap<Blob, Arc<OnceCell<Outcome>>>>,
    /// By digest of the archive: one unpacking at a time.
    unpacking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

type Outcome = Result<Opened, Arc<ArtifactError>>;

/// An artifact that no source has at the moment.
#[derive(Clone, Debug)]
pub struct Unreachable {
    pub artifact: Arc<Artifact>,
    pub error: Arc<ArtifactError>,
}

impl Store {
    /// `root` is the cache: [`super::cache_dir`].
    pub fn new(root: PathBuf) -> Self {
        Self(Arc::new(Inner {
            cache: Cache::new(root),
            downloader: Downloader::default(),
            artifacts: Mutex::default(),
            opened: Mutex::default(),
            unpacking: Mutex::default(),
        }))
    }

    /// Names the artifact, or one member of it, for a task; from then on the store can open that blob.
    pub fn blob(&self, artifact: &Arc<Artifact>, member: Option<&str>) -> Result<Blob, InputError> {
        let member = member.map(|name| artifact.member(name).map(str::to_owned)).transpose()?;
        let digest = artifact.digest.to_string();
        let mut artifacts = self.0.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
        artifacts.insert(digest.clone(), artifact.clone());
        Ok(Blob { digest, member })
    }

    /// Returns the plain verified file that the blob names, which is fetched and unpacked if that has not been done.
    pub async fn open(&self, blob: &Blob) -> Outcome {
        let cell = {
            let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.entry(blob.clone()).or_default().clone()
        };
        cell.get_or_init(|| async {
            let artifact = {
                let artifacts = self.0.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
                artifacts.get(&blob.digest).cloned()
            };
            let Some(artifact) = artifact else { return Err(Arc::new(ArtifactError::Unknown(blob.digest.clone()))) };
            match &blob.member {
                None => self.fetch(&artifact).await.map_err(Arc::new),
                Some(member) => self.member(&artifact, member).await,
            }
        })
        .await
        .clone()
    }

    /// Asks for each artifact whether a source has it now, without downloading. Files on this machine (cached, or in a
    /// directory of artifacts) are verified. Returns those that cannot be had.
    pub async fn check_reachable(&self, artifacts: &[Arc<Artifact>]) -> Vec<Unreachable> {
        let checks = artifacts.iter().map(|artifact| async {
            let error = Arc::new(self.probe(artifact).await.err()?);
            Some(Unreachable { artifact: artifact.clone(), error })
        });
        futures_util::future::join_all(checks).await.into_iter().flatten().collect()
    }

    async fn member(&self, artifact: &Arc<Artifact>, member: &str) -> Outcome {
        // Through `open`, so that members of one archive share its download. Boxed: the call is recursive.
        let whole = Blob { digest: artifact.digest.to_string(), member: None };
        let archive = Box::pin(self.open(&whole)).await?;
        let (inner, artifact, member) = (self.0.clone(), artifact.clone(), member.to_owned());
        // The first does it for all members, the others find it done.
        let lock = {
            let mut unpacking = self.0.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            unpacking.entry(archive.sha256.clone()).or_default().clone()
        };
        let unpacking = lock.lock().await;
        let result = blocking(move || {
            let digest = Digest::sha256(&archive.sha256).unwrap_or_else(|| artifact.digest.clone());
            extract::member(&inner.cache, &archive, &digest, &member, &artifact.members)
        })
        .await;
        drop(unpacking);
        result.map_err(Arc::new)
    }

    async fn fetch(&self, artifact: &Arc<Artifact>) -> Result<Opened, ArtifactError> {
        let (name, mut reasons) = (artifact.to_string(), Vec::new());
        for candidate in &artifact.candidates {
            if let Some(opened) = self.local(artifact, candidate).await? {
                return Ok(opened);
            }
            let Location::Url(url) = &candidate.location else { continue };
            match self.0.downloader.fetch(&name, url, &candidate.digest, &self.0.cache).await? {
                Ok(opened) => return Ok(opened),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(ArtifactError::Unavailable { artifact: name, reasons })
    }

    async fn probe(&self, artifact: &Arc<Artifact>) -> Result<(), ArtifactError> {
        let mut reasons = Vec::new();
        for candidate in &artifact.candidates {
            if self.local(artifact, candidate).await?.is_some() {
                return Ok(());
            }
            let Location::Url(url) = &candidate.location else { continue };
            match self.0.downloader.probe(url).await? {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(ArtifactError::Unavailable { artifact: artifact.to_string(), reasons })
    }

    /// The file as it is on this machine, verified: in a directory of artifacts, or downloaded before.
    async fn local(&self, artifact: &Artifact, candidate: &Candidate) -> Result<Option<Opened>, ArtifactError> {
        let inner = self.0.clone();
        let (name, location, digest) = (artifact.to_string(), candidate.location.clone(), candidate.digest.clone());
        blocking(move || match location {
            Location::File(path) => match inner.cache.verify(&path, &digest)? {
                Some(Ok(opened)) => Ok(Some(opened)),
                Some(Err(found)) => Err(ArtifactError::WrongDigest {
                    artifact: name,
                    location: path.display().to_string(),
                    expected: digest,
                    found,
                }),
                None => Err(ArtifactError::Missing { artifact: name, path }),
            },
            // A damaged file in the cache is as good as none: it is downloaded again.
            Location::Url(_) => Ok(inner.cache.verify(&inner.cache.file(&digest), &digest)?.and_then(Result::ok)),
        })
        .await
    }
}

impl BlobSource for Store {
    fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
        Box::pin(async move {
            let opened = Self::open(self, blob).await.map_err(|e| Failure::new(format!("{e} (help: {})", e.help())))?;
            let file = tokio::fs::File::open(&opened.path).await;
            let file = file.map_err(|e| Failure::new(format!("{}: {e}", opened.path.display())))?;
            Ok(OpenBlob { reader: Box::new(file), sha256: opened.sha256 })
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
