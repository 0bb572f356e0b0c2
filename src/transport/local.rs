//! `local`: this machine, without a network.

use super::{BoxFuture, ConnectError, Process, Session, Target, Transport};
use std::process::Stdio;
use tokio::process::Command;

/// Runs programs with `sh` on this machine.
pub struct Local;

impl Transport for Local {
    fn connect<'a>(&'a self, _target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, ConnectError>> {
        Box::pin(async { Ok(Box::new(Self) as Box<dyn Session>) })
    }
}

impl Session for Local {
    fn spawn<'a>(&'a self, command: &'a str) -> BoxFuture<'a, Result<Process, ConnectError>> {
        Box::pin(async move {
            // A process group of its own: Ctrl-C is for the controller, which stops at a task boundary.
            let mut child = Command::new("/bin/sh")
                .args(["-c", command])
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| ConnectError::Other(format!("cannot start /bin/sh: {error}")))?;
            let (Some(stdin), Some(stdout), Some(stderr)) =
                (child.stdin.take(), child.stdout.take(), child.stderr.take())
            else {
                return Err(ConnectError::Other("/bin/sh was started without pipes".to_owned()));
            };
            let exit = Box::pin(async move {
                let status = child.wait().await;
                status.map(|status| status.code()).map_err(|error| ConnectError::Other(error.to_string()))
            });
            Ok(Process { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), exit })
        })
    }
}
