//! What a host writes on stderr while an agent is started and runs: read all the time, and its end kept for errors.

use super::{END, lock};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

/// The end of what a host wrote on stderr, while it still writes.
pub(super) struct StderrTail {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Counts what has arrived; its sender is gone when all has.
    arrived: watch::Receiver<()>,
}

impl StderrTail {
    const KEEP: usize = 4096;

    pub(super) fn collect(mut stderr: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (sender, arrived) = watch::channel(());
        let kept = bytes.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
                let mut kept = lock(&kept);
                kept.extend_from_slice(&buffer[..n]);
                let surplus = kept.len().saturating_sub(Self::KEEP);
                kept.drain(..surplus);
                drop(kept);
                sender.send_replace(());
            }
        });
        Self { bytes, arrived }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.bytes)).into_owned()
    }

    /// Resolves when sudo has refused; never if it does not.
    pub(super) async fn refused(&self) -> String {
        let mut arrived = self.arrived.clone();
        loop {
            if let Some(complaint) = self.complaint() {
                return complaint;
            }
            if arrived.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits until all has been read.
    pub(super) async fn finished(&self) {
        let mut arrived = self.arrived.clone();
        let all = async { while arrived.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(END, all).await;
    }

    /// What sudo has against it, in our words (its own with LC_ALL=C).
    pub(super) fn complaint(&self) -> Option<String> {
        let text = self.text();
        let line = |part: &str| text.lines().find(|line| line.contains(part)).map(str::trim);
        if line("Sorry, try again").or(line("incorrect password")).is_some() {
            return Some("sudo refused the password (ansible_become_password, -K)".to_owned());
        }
        if line("a password is required").or(line("no password was provided")).is_some() {
            return Some("sudo asks for a password; give it with -K or ansible_become_password".to_owned());
        }
        if line("must have a tty").or(line("a terminal is required")).is_some() {
            return Some("sudo wants a terminal; take `requiretty` out of sudoers for this user".to_owned());
        }
        let refused = ["is not in the sudoers file", "is not allowed to", "may not run sudo", "unknown user"];
        let line = refused.iter().find_map(|part| line(part))?;
        Some(format!("sudo refused: {}", line.trim_start_matches("sudo: ").trim_end_matches('.')))
    }

    /// The last line, to be put after a text.
    pub(super) fn last(&self) -> String {
        let text = self.text();
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map_or(String::new(), |line| format!(": {line}"))
    }

    /// `what` with the exit code and the last line.
    pub(super) async fn explain(&self, what: &str, code: Option<i32>) -> String {
        self.finished().await;
        let how = code.map_or("a signal".to_owned(), |code| format!("code {code}"));
        format!("{what} ({how}){}", self.last())
    }
}
