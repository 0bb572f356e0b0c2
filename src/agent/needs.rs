//! What a running task asks the controller for: blobs, certificates, whether to stop.
//!
//! The task waits; the thread that reads frames hands it the answers through [`Answers`].

use super::journal::Journal;
use super::lock::Lock;
use super::pending::Pending;
use super::protocol::{FromAgent, Seq, StepName};
use super::wire::Output;
use crate::modules::{Blob, Diff, Failure, Needs, as_planned};
use crate::pki::SigningRequest;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    pub(super) name: &'a StepName,
    pub(super) journal: Option<&'a Arc<Mutex<Journal>>>,
    pub(super) expect: Option<&'a [String]>,
    pub(super) notify: &'a [String],
    pub(super) pending: &'a mut Pending,
    /// The handlers that this task was the first to notify.
    pub(super) marked: Vec<String>,
    pub(super) output: &'a Output,
    pub(super) answers: &'a Answers,
    pub(super) cancelled: &'a AtomicBool,
    pub(super) lock: &'a Lock,
}

impl TaskNeeds<'_> {
    fn ask(&self, question: &FromAgent) -> Result<Receiver<Answer>, Failure> {
        let receiver = self.answers.expect(self.seq);
        self.output.send(question).map_err(|error| Failure::new(format!("lost the controller: {error}")))?;
        Ok(receiver)
    }

    /// Waits for an answer: until it comes, or none will, or nobody wants it any more.
    fn answer(&self, answers: &Receiver<Answer>) -> Result<Answer, Failure> {
        loop {
            match answers.recv_timeout(TICK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if !self.abandoned() => {}
                Err(RecvTimeoutError::Timeout) => return Err(Failure::new("the run was stopped")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new("the link to the controller dropped while the task waited for it"));
                }
            }
        }
    }
}

/// How often a task that waits looks whether it still should.
const TICK: Duration = Duration::from_millis(200);

fn unexpected() -> Failure {
    Failure::new("the controller answered another question than was asked (a bug in kprov)")
}

impl Needs for TaskNeeds<'_> {
    fn changing(&mut self, diff: &[Diff]) -> Result<(), Failure> {
        as_planned(self.expect, diff)?;
        if let Some(journal) = self.journal {
            journal.lock().unwrap_or_else(PoisonError::into_inner).begin(self.name)?;
        }
        self.marked.extend(self.pending.mark(self.notify)?);
        Ok(())
    }

    fn blob(&mut self, blob: &Blob, near: &Path) -> Result<(PathBuf, String), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(format!("cannot write a file in {}: {error}", near.display()));
        let mut file = crate::system::temporary_file(near).map_err(failed)?;
        let answers = self.ask(&FromAgent::NeedBlob { seq: self.seq, blob: blob.clone() })?;
        let mut digest = Sha256::new();
        loop {
            match self.answer(&answers)? {
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
        match self.answer(&self.ask(&question)?)? {
            Answer::Certificate(pem) => Ok(pem),
            Answer::Refused(failure) => Err(failure),
            Answer::Chunk { .. } => Err(unexpected()),
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn abandoned(&self) -> bool {
        // What cannot be read now is told before the next task.
        self.cancelled() || self.lock.replaced().unwrap_or(false)
    }
}

/// Hexadecimal digits, as `sha256sum` prints them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::wire::Wire;
    use crate::system::Mode;
    use std::sync::LazyLock;
    use std::time::Instant;

    static BLOB: LazyLock<Blob> = LazyLock::new(|| Blob { digest: "sha256:00".to_owned(), member: None });

    /// Asks for a blob as task 5 while `answer` gives answers.
    fn ask(directory: &Path, answer: impl FnOnce(&Answers) + Send + 'static) -> Result<(PathBuf, String), Failure> {
        let answers = Arc::new(Answers::default());
        let giver = answers.clone();
        let thread = std::thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(20);
            while giver.0.lock().unwrap().is_none() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            answer(&giver);
        });
        let mut needs = TaskNeeds {
            seq: 5,
            name: &StepName::default(),
            journal: None,
            expect: None,
            notify: &[],
            pending: &mut Pending::new(directory, Mode::Apply),
            marked: Vec::new(),
            output: &Wire::new(Duration::ZERO).output(),
            answers: &answers,
            cancelled: &AtomicBool::new(false),
            lock: &Lock::new(directory, Wire::new(Duration::ZERO)),
        };
        let result = needs.blob(&BLOB, directory);
        answers.close();
        thread.join().unwrap();
        result
    }

    fn chunk(bytes: &[u8], last: Option<String>) -> Answer {
        Answer::Chunk { bytes: bytes.to_vec(), last }
    }

    #[test]
    fn a_blob_arrives_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let digest = hex(&Sha256::digest(b"hello world"));
        let sent = digest.clone();
        let (path, found) = ask(directory.path(), move |answers| {
            answers.give(4, chunk(b"for another task", None));
            answers.give(5, chunk(b"hello ", None));
            answers.give(5, chunk(b"world", None));
            answers.give(5, chunk(b"", Some(sent)));
        })
        .unwrap();
        assert_eq!((std::fs::read(&path).unwrap().as_slice(), found), (&b"hello world"[..], digest));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!((mode & 0o777, path.parent()), (0o600, Some(directory.path())));
    }

    #[test]
    fn what_does_not_arrive_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let wrong = hex(&Sha256::digest(b"something else"));
        let damaged = ask(directory.path(), move |answers| answers.give(5, chunk(b"hello", Some(wrong))));
        assert!(damaged.unwrap_err().message.contains("arrived damaged"));

        let refused = ask(directory.path(), |answers| answers.give(5, Answer::Refused(Failure::new("not here"))));
        assert_eq!(refused.unwrap_err().message, "not here");

        let cut = ask(directory.path(), |answers| {
            answers.give(5, chunk(b"hel", None));
            answers.close();
        });
        assert!(cut.unwrap_err().message.contains("link to the controller"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

        let nowhere = ask(&directory.path().join("missing"), |_| {});
        assert!(nowhere.unwrap_err().message.contains("missing"));
    }
}
