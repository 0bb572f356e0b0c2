//! What a running task asks the controller for: blobs, certificates, whether to stop.
//!
//! The task waits; the thread that reads frames hands it the answers through [`Answers`].

use super::pending::Pending;
use super::protocol::{FromAgent, Seq};
use super::serve::Output;
use crate::modules::{Blob, Failure, Needs};
use crate::pki::SigningRequest;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// An answer from the controller.
pub(super) enum Answer {
    Chunk { bytes: Vec<u8>, last: Option<String> },
    Certificate(String),
    Refused(Failure),
}

/// Carries answers to the one task that waits for them.
#[derive(Default)]
pub(super) struct Answers(Mutex<Option<(Seq, SyncSender<Answer>)>>);

impl Answers {
    /// Hands over an answer; one that nobody waits for is dropped. Waits while the task has not taken earlier ones.
    pub(super) fn give(&self, seq: Seq, answer: Answer) {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((task, sender)) = waiting
            && task == seq
        {
            let _ = sender.send(answer);
        }
    }

    /// No answer will come any more.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A few chunks may wait in memory while the disk is busy.
    fn expect(&self, seq: Seq) -> Receiver<Answer> {
        let (sender, receiver) = sync_channel(4);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((seq, sender));
        receiver
    }
}

/// The needs of one task.
pub(super) struct TaskNeeds<'a> {
    pub(super) seq: Seq,
    pub(super) notify: &'a [String],
    pub(super) pending: &'a mut Pending,
    /// The handlers that this task was the first to notify.
    pub(super) marked: Vec<String>,
    pub(super) output: &'a Output,
    pub(super) answers: &'a Answers,
    pub(super) stop: &'a Arc<AtomicBool>,
}

impl TaskNeeds<'_> {
    fn ask(&self, question: &FromAgent) -> Result<Receiver<Answer>, Failure> {
        let receiver = self.answers.expect(self.seq);
        self.output.send(question).map_err(|error| Failure::new(format!("lost the controller: {error}")))?;
        Ok(receiver)
    }
}

fn lost<E>(_: E) -> Failure {
    Failure::new("the link to the controller dropped while the task waited for it")
}

fn unexpected() -> Failure {
    Failure::new("the controller answered another question than was asked (a bug in kprov)")
}

impl Needs for TaskNeeds<'_> {
    fn changing(&mut self) -> Result<(), Failure> {
        self.marked.extend(self.pending.mark(self.notify)?);
        Ok(())
    }

    fn blob(&mut self, blob: &Blob, near: &Path) -> Result<(PathBuf, String), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(format!("cannot write a file in {}: {error}", near.display()));
        let mut file = tempfile::Builder::new().prefix(".kprov-").tempfile_in(near).map_err(failed)?;
        let answers = self.ask(&FromAgent::NeedBlob { seq: self.seq, blob: blob.clone() })?;
        let mut digest = Sha256::new();
        loop {
            match answers.recv().map_err(lost)? {
                Answer::Chunk { bytes, last } => {
                    file.write_all(&bytes).map_err(failed)?;
                    digest.update(&bytes);
                    if let Some(expected) = last {
                        let found = hex(&digest.finalize());
                        if found != expected {
                            return Err(Failure::new(format!(
                                "{} arrived damaged: its SHA-256 is {found}, it was sent as {expected}",
                                blob.digest
                            )));
                        }
                        let path = file.into_temp_path().keep().map_err(|error| failed(error.error))?;
                        return Ok((path, found));
                    }
                }
                Answer::Refused(failure) => return Err(failure),
                Answer::Certificate(_) => return Err(unexpected()),
            }
        }
    }

    fn sign(&mut self, signer: &str, request: &SigningRequest) -> Result<String, Failure> {
        let question =
            FromAgent::NeedCertificate { seq: self.seq, signer: signer.to_owned(), request: request.clone() };
        match self.ask(&question)?.recv().map_err(lost)? {
            Answer::Certificate(pem) => Ok(pem),
            Answer::Refused(failure) => Err(failure),
            Answer::Chunk { .. } => Err(unexpected()),
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Hexadecimal digits, as `sha256sum` prints them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
