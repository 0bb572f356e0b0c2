//! TCP connections from the node that the controller uses (the Kubernetes API on a loopback or private address).
//!
//! Two threads per connection, one for each direction, so that a slow peer holds up neither tasks nor other tunnels. What
//! is under way in one direction is bounded by [`TUNNEL_WINDOW`].

use super::protocol::{FromAgent, TUNNEL_WINDOW};
use super::wire::Output;
use crate::modules::Failure;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The open connections by their number.
#[derive(Clone)]
pub(super) struct Tunnels {
    open: Arc<Mutex<HashMap<u32, Tunnel>>>,
    output: Output,
}

struct Tunnel {
    /// `None` once the controller has no more bytes.
    bytes: Option<Sender<Vec<u8>>>,
    window: Arc<Window>,
    stream: Option<TcpStream>,
}

impl Tunnels {
    pub(super) fn new(output: Output) -> Self {
        Self { open: Arc::default(), output }
    }

    pub(super) fn connect(&self, id: u32, address: String) {
        let (sender, bytes) = channel();
        let window = Arc::new(Window::default());
        self.lock().insert(id, Tunnel { bytes: Some(sender), window: window.clone(), stream: None });
        let tunnels = self.clone();
        thread::spawn(move || {
            let connected = tunnels.open_stream(id, &address);
            let result = connected.as_ref().map(|_| ()).map_err(|error| Failure::new(format!("{address}: {error}")));
            let _ = tunnels.output.send(&FromAgent::Connected { id, result });
            if let Ok((up, down)) = connected {
                let writer = tunnels.clone();
                thread::spawn(move || writer.write(id, &up, &bytes));
                let _ = tunnels.read(id, &down, &window);
                let _ = tunnels.output.send(&FromAgent::Closed { id });
            }
            tunnels.lock().remove(&id);
        });
    }

    pub(super) fn data(&self, id: u32, bytes: Vec<u8>) {
        if let Some(Tunnel { bytes: Some(sender), .. }) = self.lock().get(&id) {
            let _ = sender.send(bytes);
        }
    }

    pub(super) fn grant(&self, id: u32, bytes: u32) {
        if let Some(tunnel) = self.lock().get(&id) {
            tunnel.window.grant(bytes);
        }
    }

    pub(super) fn close(&self, id: u32) {
        if let Some(tunnel) = self.lock().get_mut(&id) {
            tunnel.bytes = None;
        }
    }

    pub(super) fn reset(&self, id: u32) {
        if let Some(tunnel) = self.lock().remove(&id) {
            tunnel.window.close();
            if let Some(stream) = tunnel.stream {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Ends the connection, whether or not there is one.
    pub(super) fn refuse(&self, id: u32) {
        self.reset(id);
        let result = Err(Failure::new("this run was replaced by another one"));
        let _ = self.output.send(&FromAgent::Connected { id, result });
        let _ = self.output.send(&FromAgent::Closed { id });
    }

    fn open_stream(&self, id: u32, address: &str) -> io::Result<(TcpStream, TcpStream)> {
        let address: SocketAddr = address
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not an address; expected IP:PORT"))?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        match self.lock().get_mut(&id) {
            Some(tunnel) => tunnel.stream = Some(stream.try_clone()?),
            None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up by the controller")),
        }
        Ok((stream.try_clone()?, stream))
    }

    fn write(&self, id: u32, mut stream: &TcpStream, bytes: &Receiver<Vec<u8>>) {
        for bytes in bytes {
            if stream.write_all(&bytes).is_err() {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            let _ = self.output.send(&FromAgent::Window { id, bytes: bytes.len() as u32 });
        }
        let _ = stream.shutdown(Shutdown::Write);
    }

    fn read(&self, id: u32, mut stream: &TcpStream, window: &Window) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while let Some(allowed) = window.wait() {
            let allowed = buffer.len().min(allowed as usize);
            let n = stream.read(&mut buffer[..allowed])?;
            if n == 0 {
                break;
            }
            window.take(n as u32);
            self.output.send(&FromAgent::Data { id, bytes: buffer[..n].to_vec() })?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Tunnel>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many bytes may still be sent; `None` when the connection was given up.
struct Window {
    left: Mutex<Option<u32>>,
    changed: Condvar,
}

impl Default for Window {
    fn default() -> Self {
        Self { left: Mutex::new(Some(TUNNEL_WINDOW)), changed: Condvar::new() }
    }
}

impl Window {
    fn wait(&self) -> Option<u32> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *self.changed.wait_while(left, |left| *left == Some(0)).unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u32) {
        self.update(|left| left.saturating_sub(bytes));
    }

    fn grant(&self, bytes: u32) {
        self.update(|left| left.saturating_add(bytes));
    }

    fn update(&self, change: impl FnOnce(u32) -> u32) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.map(change);
        self.changed.notify_all();
    }

    fn close(&self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }
}
