//! The real agent, started by the real client over a real session.

use crate::sshd::Sshd;
use kprov::agent::client::{Agent, AgentBinary, BlobSource, Events, LaunchError, OpenBlob};
use kprov::agent::protocol::{FromAgent, ToAgent};
use kprov::modules::{Blob, Failure};
use kprov::transport::{BoxFuture, Connection, Session, Target, Transport, Transports};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

static BINARY: LazyLock<AgentBinary> =
    LazyLock::new(|| AgentBinary::read(Path::new(env!("CARGO_BIN_EXE_kprov-agent"))).unwrap());

/// Nothing here may hang.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("hangs")
}

struct NoBlobs;

impl BlobSource for NoBlobs {
    fn open<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<OpenBlob, Failure>> {
        Box::pin(async { Err(Failure::new(format!("{} is not here", blob.digest))) })
    }
}

async fn launch(target: &Target) -> Result<(Agent, Events), LaunchError> {
    soon(async {
        let session = Transports::default().connect(target).await?;
        Agent::launch(session, target.escalation.as_ref(), &BINARY, Arc::new(NoBlobs)).await
    })
    .await
}

#[tokio::test]
async fn starts_and_ends() {
    let sshd = Sshd::start();
    for connection in [Connection::Openssh, Connection::Local] {
        let (agent, mut events) = launch(&sshd.target(connection)).await.unwrap();
        agent.send(ToAgent::Facts).await.unwrap();
        assert!(matches!(soon(events.next()).await, Some(Ok(FromAgent::Facts(_)))));
        drop(agent);
        assert_eq!(soon(events.next()).await, None);
    }
}
