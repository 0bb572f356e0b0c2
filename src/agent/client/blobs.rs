//! Sends files to an agent that asks for them, a chunk at a time.
//!
//! Never more than two chunks of a blob are in memory. Where the bytes come from is the [`BlobSource`]'s business.

use crate::agent::protocol::{CHUNK, Seq, ToAgent};
use crate::modules::{Blob, Failure};
use crate::transport::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Where the bytes of blobs come from.
pub trait BlobSource: Send + Sync {
    /// Opens a blob for one host; may first have to fetch it.
    fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>>;
}

/// A blob that is being read.
pub struct OpenBlob {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// SHA-256 of all that `reader` yields, in hex; the agent refuses what does not match.
    pub sha256: String,
}

/// Answers one question for a blob. Ends early when the agent is gone.
pub(super) async fn serve(source: std::sync::Arc<dyn BlobSource>, seq: Seq, blob: Blob, chunks: mpsc::Sender<ToAgent>) {
    let answer = match source.open(&blob).await {
        Err(failure) => ToAgent::Refused { seq, failure },
        Ok(OpenBlob { mut reader, sha256 }) => loop {
            let mut bytes = Vec::with_capacity(CHUNK);
            match (&mut reader).take(CHUNK as u64).read_to_end(&mut bytes).await {
                Err(error) => {
                    let failure = Failure::new(format!("cannot read {} on the controller: {error}", blob.digest));
                    break ToAgent::Refused { seq, failure };
                }
                Ok(0) => break ToAgent::Chunk { seq, bytes, last: Some(sha256) },
                Ok(_) => {
                    if chunks.send(ToAgent::Chunk { seq, bytes, last: None }).await.is_err() {
                        return;
                    }
                }
            }
        },
    };
    let _ = chunks.send(answer).await;
}
