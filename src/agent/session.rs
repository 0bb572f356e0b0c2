//! What makes a connection survive its links: every frame arrives once and in order, whatever happens to the bytes.
//!
//! Frames are numbered by counting. Each end keeps what the other has not said to have; on a new link both first say how
//! many frames they have, and go on from there. What is kept is bounded: whoever fills it has to wait. The same code for
//! both ends, without clocks, threads or streams: those are `wire` on a node and `client::link` on the controller.

use super::frame::{Head, Packet};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

/// An end that has nothing to say says so this often.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// A link over which nothing came for so long is taken as cut.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// How much may be kept, in bytes and frames, before senders wait.
const WINDOW: (usize, usize) = (1 << 20, 1024);
/// After how many bytes or frames their arrival is told. A small part of the window, so that nobody waits without need.
const TELL: (usize, usize) = (WINDOW.0 / 4, WINDOW.1 / 16);

/// One end of a session.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Packets of the frames that the other end is not known to have, oldest first, and their size.
    kept: VecDeque<Arc<Vec<u8>>>,
    size: usize,
    /// How many frames the other end is known to have.
    acknowledged: u64,
    /// How many frames have arrived.
    received: u64,
    /// What has arrived since the other end was told, in bytes and frames.
    untold: (usize, usize),
    link: Link,
    /// Nothing more will be sent after what is kept.
    closing: bool,
}

/// What is to be said over the present link.
#[derive(Debug, Default)]
struct Link {
    resume: bool,
    /// Which of `kept` is next; `None` until the other end has said what it has.
    next: Option<usize>,
    told: bool,
    bye: bool,
}

/// What a packet is for the one who took it from the link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A message, encoded.
    Message(Vec<u8>),
    /// Something between the ends of the session.
    Own,
    /// The other end has nothing more to say.
    Bye,
}

impl Session {
    /// Queues the packet of a frame.
    pub(super) fn push(&mut self, packet: Vec<u8>) {
        self.size += packet.len();
        self.kept.push_back(Arc::new(packet));
    }

    /// Whether who has more to send should wait.
    pub(super) fn full(&self) -> bool {
        self.size >= WINDOW.0 || self.kept.len() >= WINDOW.1
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> impl Iterator<Item = &[u8]> {
        self.kept.iter().map(|packet| packet.as_slice())
    }

    /// Says goodbye after what has been queued.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether nothing more will be queued.
    #[cfg(feature = "controller")]
    pub(super) fn closing(&self) -> bool {
        self.closing
    }

    /// Begins with a new link. Nothing of the one before may be taken any more.
    pub(super) fn attach(&mut self) {
        self.link = Link { resume: true, ..Link::default() };
    }

    /// Has something said over the link, whatever it is.
    pub(super) fn beat(&mut self) {
        self.link.told = false;
    }

    /// Whether the goodbye has been said over the present link.
    pub(super) fn said_goodbye(&self) -> bool {
        self.link.bye
    }

    /// The next packet for the link.
    pub(super) fn next(&mut self) -> Option<Arc<Vec<u8>>> {
        let own = |head: Head| Some(Arc::new(head.encode().to_vec()));
        if std::mem::take(&mut self.link.resume) {
            (self.untold, self.link.told) = ((0, 0), true);
            return own(Head::Resume(self.received));
        }
        let next = self.link.next?;
        if !self.link.told || self.untold.0 >= TELL.0 || self.untold.1 >= TELL.1 {
            (self.untold, self.link.told) = ((0, 0), true);
            return own(Head::Received(self.received));
        }
        if let Some(packet) = self.kept.get(next) {
            self.link.next = Some(next + 1);
            return Some(packet.clone());
        }
        if self.closing && !std::mem::replace(&mut self.link.bye, true) {
            return own(Head::Bye);
        }
        None
    }

    /// Takes a packet from the link. An error when the other end is not what it was before.
    pub(super) fn take(&mut self, packet: Packet) -> io::Result<Taken> {
        match (packet.head, self.link.next) {
            (Head::Resume(count), None) => {
                self.acknowledge(count)?;
                self.link.next = Some(0);
                Ok(Taken::Own)
            }
            (Head::Received(count), Some(next)) => {
                let gone = self.acknowledge(count)?;
                self.link.next = Some(next.checked_sub(gone).ok_or_else(out_of_step)?);
                Ok(Taken::Own)
            }
            (Head::Frame(_), Some(_)) => {
                self.received += 1;
                self.untold = (self.untold.0 + packet.body.len(), self.untold.1 + 1);
                Ok(Taken::Message(packet.body))
            }
            (Head::Bye, Some(_)) => Ok(Taken::Bye),
            _ => Err(out_of_step()),
        }
    }

    /// Forgets what the other end has; returns how many frames that are.
    fn acknowledge(&mut self, count: u64) -> io::Result<usize> {
        let gone = count.checked_sub(self.acknowledged).map_or(usize::MAX, |gone| gone as usize);
        if gone > self.kept.len() {
            return Err(out_of_step());
        }
        self.size -= self.kept.drain(..gone).map(|packet| packet.len()).sum::<usize>();
        self.acknowledged = count;
        Ok(gone)
    }
}

fn out_of_step() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the two ends of the connection are out of step (a bug in kprov)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::frame;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// One end with what it has to send, what has come, and the bytes on their way to it.
    #[derive(Default)]
    struct End {
        session: Session,
        to_send: VecDeque<Vec<u8>>,
        arrived: Vec<Vec<u8>>,
        bye: bool,
        bytes: Vec<u8>,
    }

    impl End {
        fn new(messages: &[Vec<u8>]) -> Self {
            Self { to_send: messages.iter().cloned().collect(), ..Self::default() }
        }

        /// Sends up to `packets` packets; the first message that is left waits while the session is full.
        fn send(&mut self, packets: usize, other: &mut Self) {
            for _ in 0..packets {
                while !self.session.full()
                    && let Some(message) = self.to_send.pop_front()
                {
                    self.session.push(frame::encode(&serde_bytes::ByteBuf::from(message)).unwrap());
                }
                if self.to_send.is_empty() {
                    self.session.close();
                }
                assert!(self.session.size < WINDOW.0 + frame::HEAD + 8 + (2 << 20));
                match self.session.next() {
                    Some(packet) => other.bytes.extend_from_slice(&packet),
                    None => return self.session.beat(),
                }
            }
        }

        /// Takes what has arrived whole; the rest waits for more.
        fn receive(&mut self) {
            let mut rest = self.bytes.as_slice();
            loop {
                let before = rest;
                match frame::read(&mut rest) {
                    Ok(Some(packet)) => match self.session.take(packet).unwrap() {
                        Taken::Message(body) => {
                            let message: serde_bytes::ByteBuf = frame::decode(&body).unwrap();
                            self.arrived.push(message.into_vec());
                        }
                        Taken::Own => {}
                        Taken::Bye => self.bye = true,
                    },
                    Ok(None) => break self.bytes.clear(),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
                        let keep = before.len();
                        break drop(self.bytes.drain(..self.bytes.len() - keep));
                    }
                }
            }
        }
    }

    /// Lets both ends talk until both have said goodbye. Each cut says how long that link holds: how often the ends take
    /// turns, how many packets are sent in each, and how many of the last bytes do not arrive.
    fn talk(left: &[Vec<u8>], right: &[Vec<u8>], cuts: &[(usize, usize, usize, usize)]) -> (End, End) {
        let (mut a, mut b) = (End::new(left), End::new(right));
        for (turns, packets, lost_a, lost_b) in cuts.iter().copied().chain([(usize::MAX, 3, 0, 0)]) {
            a.session.attach();
            b.session.attach();
            for _ in 0..turns {
                if a.bye && b.bye {
                    return (a, b);
                }
                a.send(packets, &mut b);
                b.receive();
                b.send(packets, &mut a);
                a.receive();
            }
            // What is under way when the link is cut arrives in part, and the rest of a packet never.
            a.send(packets, &mut b);
            b.send(packets, &mut a);
            for (end, lost) in [(&mut a, lost_a), (&mut b, lost_b)] {
                end.bytes.truncate(end.bytes.len().saturating_sub(lost));
                end.receive();
                end.bytes.clear();
            }
        }
        unreachable!("the last link is never cut")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_frame_arrives_once_and_in_order(
            left in vec(vec(any::<u8>(), 0..40), 0..300),
            right in vec(vec(any::<u8>(), 0..40), 0..300),
            cuts in vec((0..6usize, 1..40usize, 0..300usize, 0..300usize), 0..20),
        ) {
            let (a, b) = talk(&left, &right, &cuts);
            prop_assert!(a.arrived == right && b.arrived == left);
        }
    }

    #[test]
    fn large_frames_wait_and_are_let_go() {
        let left: Vec<Vec<u8>> = (0..40).map(|i| vec![i; (i as usize) * 50_000]).collect();
        let (a, b) = talk(&left, &[], &[(3, 2, 100_000, 0), (2, 5, 0, 7), (1, 9, 1_000_000, 0)]);
        assert!(b.arrived == left && a.arrived.is_empty());
        assert!(a.session.kept.len() < TELL.1 && a.session.size < TELL.0 + 2 * left[39].len());
    }

    #[test]
    fn an_end_that_has_forgotten_is_refused() {
        let packet = |head| Packet { head, body: Vec::new() };
        let mut session = Session::default();
        session.attach();
        assert!(session.take(packet(Head::Frame(0))).is_err(), "a frame before both have said what they have");
        assert!(session.take(packet(Head::Resume(1))).is_err(), "more than was sent");
        session.push(vec![0]);
        session.take(packet(Head::Resume(1))).unwrap();
        session.attach();
        assert!(session.take(packet(Head::Resume(0))).is_err(), "less than before");
    }
}
