//! The controller's end of TCP connections that an agent opens.

use super::{Agent, lock};
use crate::agent::protocol::{TUNNEL_WINDOW, ToAgent};
use crate::modules::Failure;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{Semaphore, mpsc, oneshot};

const BUFFER: usize = 64 << 10;

/// A TCP connection from a host, as a stream on the controller.
pub type Tunnel = DuplexStream;

pub(super) type Connecting = oneshot::Sender<Result<(), Failure>>;

/// What comes from the node for one connection.
pub(super) enum Incoming {
    Data(Vec<u8>),
    Window(u32),
}

pub(super) async fn open(agent: &Agent, address: SocketAddr) -> Result<Tunnel, Failure> {
    let id = agent.next.fetch_add(1, Ordering::Relaxed);
    let (connecting, connected) = oneshot::channel();
    let (sender, incoming) = mpsc::unbounded_channel();
    lock(&agent.waiting.connecting).insert(id, connecting);
    lock(&agent.waiting.tunnels).insert(id, sender);
    let asked = agent.send(ToAgent::Connect { id, address: address.to_string() }).await;
    let connected = match asked {
        Ok(()) => connected.await.unwrap_or_else(|_| Err(Failure::new("the agent is gone"))),
        Err(gone) => Err(Failure::new(gone.to_string())),
    };
    if let Err(failure) = connected {
        lock(&agent.waiting.connecting).remove(&id);
        lock(&agent.waiting.tunnels).remove(&id);
        return Err(failure);
    }
    let (near, far) = duplex(BUFFER);
    let (from_user, to_user) = split(far);
    let window = Arc::new(Semaphore::new(TUNNEL_WINDOW as usize));
    tokio::spawn(up(agent.clone(), id, from_user, window.clone()));
    tokio::spawn(down(agent.clone(), id, to_user, incoming, window));
    Ok(near)
}

/// Carries bytes to the node.
async fn up(agent: Agent, id: u32, mut from_user: ReadHalf<DuplexStream>, window: Arc<Semaphore>) {
    loop {
        let mut bytes = vec![0; BUFFER];
        match from_user.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.truncate(n),
        }
        match window.acquire_many(bytes.len() as u32).await {
            Ok(granted) => granted.forget(),
            // Closed: the node's side is over.
            Err(_) => return,
        }
        if agent.send(ToAgent::Data { id, bytes }).await.is_err() {
            return;
        }
    }
    let _ = agent.send(ToAgent::Close { id }).await;
}

/// Carries bytes from the node until it closes, or nobody reads them any longer.
async fn down(
    agent: Agent,
    id: u32,
    mut to_user: WriteHalf<DuplexStream>,
    mut incoming: mpsc::UnboundedReceiver<Incoming>,
    window: Arc<Semaphore>,
) {
    while let Some(incoming) = incoming.recv().await {
        match incoming {
            Incoming::Window(bytes) => window.add_permits(bytes as usize),
            Incoming::Data(bytes) => {
                if to_user.write_all(&bytes).await.is_err() {
                    lock(&agent.waiting.tunnels).remove(&id);
                    let _ = agent.send(ToAgent::Reset { id }).await;
                    break;
                }
                let _ = agent.send(ToAgent::Window { id, bytes: bytes.len() as u32 }).await;
            }
        }
    }
    window.close();
    let _ = to_user.shutdown().await;
}
