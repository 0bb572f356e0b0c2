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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Memory(Vec<u8>);

    impl BlobSource for Memory {
        fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
            Box::pin(async move {
                let reader = Box::new(std::io::Cursor::new(self.0.clone()));
                match blob.member {
                    None => Ok(OpenBlob { reader, sha256: "ab".to_owned() }),
                    Some(_) => Err(Failure::new("no such member")),
                }
            })
        }
    }

    #[tokio::test]
    async fn comes_in_chunks_and_no_faster_than_they_go() {
        let bytes: Vec<u8> = (0..CHUNK as u32 * 2 + 7).map(|i| i as u8).collect();
        let (sender, mut chunks) = mpsc::channel(1);
        let blob = Blob { digest: "sha256:00".to_owned(), member: None };
        let serving = tokio::spawn(serve(Arc::new(Memory(bytes.clone())), 3, blob.clone(), sender.clone()));
        let mut found = Vec::new();
        let last = loop {
            let Some(ToAgent::Chunk { seq: 3, bytes, last }) = chunks.recv().await else { panic!("no chunk") };
            assert!(bytes.len() <= CHUNK && chunks.len() <= 1);
            found.extend(bytes);
            if last.is_some() {
                break last;
            }
        };
        serving.await.unwrap();
        assert_eq!((found == bytes, last.as_deref()), (true, Some("ab")));

        let absent = Blob { member: Some("bin/x".to_owned()), ..blob };
        serve(Arc::new(Memory(bytes)), 4, absent, sender).await;
        assert!(matches!(chunks.recv().await, Some(ToAgent::Refused { seq: 4, .. })));
    }
}
