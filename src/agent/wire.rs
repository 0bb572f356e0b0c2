//! The agent's end of the connection: one thread reads, one writes, whoever has something to say queues it.
//!
//! A link is a pair of streams (stdin and stdout, or a socket that a relay connected to, see `worker`); a [`Wire`] outlives
//! its links by `patience`, which is nothing where there is only one. What makes frames survive is `session`'s business,
//! what they say is `serve`'s.

use super::frame;
use super::protocol::{FromAgent, ToAgent};
use super::session::{HEARTBEAT, SILENCE, Session, Taken};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where messages for the controller are queued; shared by everything that answers.
#[derive(Clone)]
pub(super) struct Output(Arc<Wire>);

impl Output {
    /// Queues a message. Waits while the link is slower, or gone for now; an error once it is gone for good.
    pub(super) fn send(&self, message: &FromAgent) -> io::Result<()> {
        let frame = frame::encode(message)?;
        let mut state = self.0.lock();
        while state.session.full() && !state.over {
            state = self.0.wait(state);
        }
        if state.over {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the controller is gone"));
        }
        state.session.push(frame);
        self.0.changed.notify_all();
        Ok(())
    }
}

/// The connection, over all its links.
pub(super) struct Wire {
    state: Mutex<State>,
    changed: Condvar,
    /// How long it waits for another link.
    patience: Duration,
}

struct State {
    session: Session,
    /// The latest link. It may have ended already, which the reader is the one to notice.
    link: Option<Link>,
    /// How many links there have been.
    links: u64,
    /// The number of the link that the reader has, while it has one.
    reading: Option<u64>,
    /// Since when there has been no link.
    since: Instant,
    /// The goodbye has gone over the present link.
    said_goodbye: bool,
    /// No link will come any more.
    over: bool,
}

struct Link {
    input: Arc<File>,
    output: Arc<File>,
}

impl Wire {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        let state = State {
            session: Session::default(),
            link: None,
            links: 0,
            reading: None,
            since: Instant::now(),
            said_goodbye: false,
            over: false,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), patience })
    }

    pub(super) fn output(self: &Arc<Self>) -> Output {
        Output(self.clone())
    }

    /// Goes on over this link. One that is still there is given up.
    pub(super) fn attach(&self, input: File, output: File) {
        let mut state = self.lock();
        if let Some(old) = state.link.take() {
            hang_up(&old);
        }
        state.link = Some(Link { input: Arc::new(input), output: Arc::new(output) });
        state.links += 1;
        self.changed.notify_all();
    }

    /// Waits while the link has dropped; false when none will come any more.
    pub(super) fn attached(&self) -> bool {
        let mut state = self.lock();
        while state.reading.is_none() && !state.over {
            state = self.wait(state);
        }
        !state.over
    }

    /// Whether there is a link now.
    pub(super) fn connected(&self) -> bool {
        self.lock().reading.is_some()
    }

    /// Says goodbye after all that has been queued, if somebody is there to hear it.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.session.close();
        self.changed.notify_all();
        while !state.said_goodbye && !state.over {
            state = self.wait(state);
        }
    }

    /// Writes what is queued, and something now and then. Returns when there will be no link any more.
    pub(super) fn write(&self) {
        let mut spoke = Instant::now();
        let mut state = self.lock();
        while !state.over {
            let next = match (&state.link, state.reading) {
                (Some(link), Some(number)) if number == state.links => Some(link.output.clone()),
                _ => None,
            };
            if let Some(output) = next
                && let Some(packet) = state.session.next()
            {
                let last = state.session.said_goodbye();
                drop(state);
                let written = (&*output).write_all(&packet);
                spoke = Instant::now();
                state = self.lock();
                state.said_goodbye = last && written.is_ok();
                if written.is_err()
                    && let Some(link) = &state.link
                    && Arc::ptr_eq(&link.output, &output)
                {
                    // The reader notices that it is over.
                    hang_up(link);
                    state.link = None;
                }
                self.changed.notify_all();
                continue;
            }
            let left = HEARTBEAT.saturating_sub(spoke.elapsed());
            if left.is_zero() {
                state.session.beat();
                spoke = Instant::now();
                continue;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a link after the last one; `None` when none will come any more.
    fn next_link(&self, last: u64) -> Option<(u64, Arc<File>)> {
        let mut state = self.lock();
        state.reading = None;
        if last > 0 && state.links == last {
            state.link = None;
            state.since = Instant::now();
        }
        self.changed.notify_all();
        loop {
            let (links, left) = (state.links, self.patience.saturating_sub(state.since.elapsed()));
            if let Some(link) = &state.link
                && links > last
            {
                let input = link.input.clone();
                state.reading = Some(links);
                state.session.attach();
                self.changed.notify_all();
                return Some((links, input));
            }
            if left.is_zero() || state.over {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What has been said and is not known to have arrived.
    #[cfg(test)]
    pub(super) fn queued(&self) -> Vec<FromAgent> {
        let state = self.lock();
        let packets = state.session.kept().map(|packet| frame::read(&mut &*packet).unwrap().unwrap());
        packets.map(|packet| frame::decode(&packet.body).unwrap()).collect()
    }

    fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a blocked reader and writer of a link go on; a pipe cannot, and its reader gives up when it has heard nothing.
fn hang_up(link: &Link) {
    for file in [&link.input, &link.output] {
        let _ = rustix::net::shutdown(file, rustix::net::Shutdown::Both);
    }
}

/// The reading end. When it is dropped, no link will be taken any more.
pub(super) struct Reader {
    wire: Arc<Wire>,
    input: Option<BufReader<Heard>>,
    last: u64,
    said_goodbye: bool,
}

impl Reader {
    pub(super) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, input: None, last: 0, said_goodbye: false }
    }

    /// Takes the first link, where frames begin after bytes that are not for the agent: `skip` reads up to there.
    pub(super) fn skip(&mut self, skip: impl FnOnce(&mut BufReader<Heard>) -> io::Result<()>) -> io::Result<()> {
        self.take_link().map_or(Ok(()), skip)
    }

    /// The next message, over whichever link it comes. `None` when the controller has said goodbye or is gone for good.
    pub(super) fn next(&mut self) -> io::Result<Option<ToAgent>> {
        while !self.said_goodbye {
            match self.packet()? {
                Some(Taken::Message(body)) => return frame::decode(&body).map(Some),
                Some(Taken::Own) => {}
                Some(Taken::Bye) => self.said_goodbye = true,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Listens on for what the controller has of the last answers.
    pub(super) fn listen_out(mut self) {
        while self.said_goodbye && self.input.is_some() && matches!(self.packet(), Ok(Some(_))) {}
    }

    /// Takes a packet from a link; `None` when none will come any more.
    fn packet(&mut self) -> io::Result<Option<Taken>> {
        loop {
            let Some(input) = self.take_link() else { return Ok(None) };
            match frame::read(input) {
                Ok(Some(packet)) => {
                    let taken = self.wire.lock().session.take(packet)?;
                    self.wire.changed.notify_all();
                    return Ok(Some(taken));
                }
                Err(error) if error.kind() == ErrorKind::InvalidData => return Err(error),
                // Cut, at its end, or silent for too long.
                Ok(None) | Err(_) => self.input = None,
            }
            if self.said_goodbye {
                return Ok(None);
            }
        }
    }

    fn take_link(&mut self) -> Option<&mut BufReader<Heard>> {
        if self.input.is_none() {
            let (number, file) = self.wire.next_link(self.last)?;
            self.last = number;
            self.input = Some(BufReader::with_capacity(64 << 10, Heard(file)));
        }
        self.input.as_mut()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.wire.end();
    }
}

/// A stream on which somebody is heard: it fails after [`SILENCE`].
pub(super) struct Heard(Arc<File>);

impl Read for Heard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = Timespec { tv_sec: SILENCE.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&*self.0, PollFlags::IN)], Some(&limit))? == 0 {
            return Err(io::Error::new(ErrorKind::TimedOut, "nothing was heard of the controller"));
        }
        (&*self.0).read(buffer)
    }
}
