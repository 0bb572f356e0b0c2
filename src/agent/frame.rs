//! Packets: what controller and agent put on a link, and its form in bytes.
//!
//! A packet is a head of nine bytes (a letter and a big-endian `u64`) and, in a frame, one message in postcard. Encoding and
//! decoding are shared by both ends; reading here is the agent's, which blocks. The controller reads the same bytes
//! asynchronously in `client`. What the packets are for is `session`'s business.

use super::protocol::MAX_FRAME;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read};

/// How long the head of a packet is, in bytes.
pub(super) const HEAD: usize = 9;

/// The head of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// A message of so many bytes follows.
    Frame(usize),
    /// First on a link: so many frames have arrived over all links so far.
    Resume(u64),
    /// So many frames have arrived. Sent now and then, and when there is nothing else to say.
    Received(u64),
    /// Nothing more will come.
    Bye,
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEAD] {
        let (kind, number) = match self {
            Self::Frame(length) => (b'f', length as u64),
            Self::Resume(count) => (b's', count),
            Self::Received(count) => (b'r', count),
            Self::Bye => (b'b', 0),
        };
        let mut head = [kind; HEAD];
        head[1..].copy_from_slice(&number.to_be_bytes());
        head
    }

    pub(super) fn decode(head: [u8; HEAD]) -> io::Result<Self> {
        let [kind, number @ ..] = head;
        match (kind, u64::from_be_bytes(number)) {
            (b'f', length) if length <= MAX_FRAME as u64 => Ok(Self::Frame(length as usize)),
            (b's', count) => Ok(Self::Resume(count)),
            (b'r', count) => Ok(Self::Received(count)),
            (b'b', 0) => Ok(Self::Bye),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "not a packet of an agent")),
        }
    }
}

/// A packet that has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) head: Head,
    /// The message of a frame, encoded.
    pub(super) body: Vec<u8>,
}

/// Encodes a message as the packet of a frame. An error when it is longer than [`MAX_FRAME`].
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame =
        postcard::to_extend(message, vec![0; HEAD]).map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let length = frame.len() - HEAD;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("a message of {length} bytes; at most {MAX_FRAME} can be sent"),
        ));
    }
    frame[..HEAD].copy_from_slice(&Head::Frame(length).encode());
    Ok(frame)
}

/// Decodes the body of a frame.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("not a message of this build: {error}")))
}

/// Reads one packet; `None` at the end of the stream. A stream that ends inside a packet is an error.
pub(super) fn read(input: &mut impl Read) -> io::Result<Option<Packet>> {
    let mut head = [0; HEAD];
    let first = loop {
        match input.read(&mut head) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[first..])?;
    let head = Head::decode(head)?;
    let mut body = Vec::new();
    if let Head::Frame(length) = head {
        body = vec![0; length];
        input.read_exact(&mut body)?;
    }
    Ok(Some(Packet { head, body }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::{FromAgent, RunHeader, StepName, Task, TaskResult, ToAgent};
    use crate::modules::{Blob, Diff, Failure, Grade, Outcome, Resource, UnitEffect};
    use crate::pki::SigningRequest;
    use crate::system::Mode;
    use crate::value::{After, Map, Value};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn after() -> impl Strategy<Value = After> {
        any::<[String; 3]>().prop_map(|[task_id, task, host]| After { task_id, task, host })
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-1e300..1e300).prop_map(Value::Float),
            any::<String>().prop_map(Value::String),
            after().prop_map(Value::Unknown),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::List),
                vec((any::<String>(), inner), 0..6).prop_map(|pairs| Value::Map(pairs.into_iter().collect())),
            ]
        })
    }

    fn map() -> impl Strategy<Value = Map> {
        vec((any::<String>(), value()), 0..4).prop_map(|pairs| pairs.into_iter().collect())
    }

    fn failure() -> impl Strategy<Value = Failure> {
        (any::<String>(), map()).prop_map(|(message, result)| Failure { message, result })
    }

    fn request() -> impl Strategy<Value = SigningRequest> {
        (any::<[String; 3]>(), any::<Vec<String>>(), any::<u32>()).prop_map(
            |([ca_certificate, ca_key, csr], usages, days)| SigningRequest {
                ca_certificate,
                ca_key,
                csr,
                usages,
                days,
            },
        )
    }

    fn diff() -> impl Strategy<Value = Diff> {
        prop_oneof![
            any::<(String, Option<String>, Option<String>)>().prop_map(|(path, before, after)| Diff::Text {
                path,
                before,
                after
            }),
            any::<(String, Vec<(String, Option<String>, Option<String>)>)>()
                .prop_map(|(subject, fields)| Diff::Fields { subject, fields }),
            any::<String>().prop_map(Diff::Note),
        ]
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let grade = prop_oneof![Just(Grade::Exact), Just(Grade::KnownAfterApply), Just(Grade::Opaque)];
        (any::<bool>(), map(), vec(diff(), 0..3), grade, option::of(after())).prop_map(
            |(changed, result, diff, grade, after)| Outcome {
                changed,
                result,
                diff,
                grade,
                after,
                units: vec![UnitEffect {
                    unit: "kubelet.service".into(),
                    action: None,
                    was_active: changed,
                    host: None,
                }],
            },
        )
    }

    fn resource() -> impl Strategy<Value = Resource> {
        use crate::modules::command::{Command, Program};
        let program = prop_oneof![
            any::<(Vec<String>, bool)>().prop_map(|(argv, expand)| Program::Argv { argv, expand }),
            any::<[String; 2]>().prop_map(|[script, executable]| Program::Shell { script, executable }),
        ];
        (program, any::<[Option<String>; 4]>(), any::<[bool; 2]>(), any::<Vec<(String, String)>>()).prop_map(
            |(program, [chdir, creates, removes, stdin], [strip_empty_ends, probe], environment)| {
                let chdir = chdir.map(Into::into);
                let command = Command { program, chdir, creates, removes, stdin, strip_empty_ends, probe, environment };
                Resource::Command(command)
            },
        )
    }

    fn task() -> impl Strategy<Value = Task> {
        (any::<[u32; 3]>(), any::<bool>(), any::<(Vec<String>, Option<String>)>(), resource()).prop_map(
            |([seq, epoch, group], ignore_errors, (notify, handler), resource)| Task {
                seq,
                name: StepName { task: format!("{seq}"), item: handler.as_ref().map(|_| epoch), ..StepName::default() },
                epoch,
                group,
                ignore_errors,
                notify,
                handler,
                carried: ignore_errors,
                expect: ignore_errors.then(Vec::new),
                resource,
            },
        )
    }

    /// Reads one message.
    fn message<T: DeserializeOwned>(input: &mut &[u8]) -> io::Result<Option<T>> {
        read(input)?.map(|packet| decode(&packet.body)).transpose()
    }

    fn to_agent() -> impl Strategy<Value = ToAgent> {
        let id = any::<u32>;
        prop_oneof![
            any::<(bool, String, i64)>().prop_map(|(plan, id, started)| match plan {
                true => ToAgent::Begin { mode: Mode::Plan, run: None },
                false => {
                    let run = RunHeader { id, started, ..RunHeader::default() };
                    ToAgent::Begin { mode: Mode::Apply, run: Some(run) }
                }
            }),
            Just(ToAgent::Facts),
            task().prop_map(ToAgent::from),
            any::<(u32, Vec<u8>, Option<String>)>().prop_map(|(seq, bytes, last)| ToAgent::Chunk { seq, bytes, last }),
            any::<(u32, String)>().prop_map(|(seq, pem)| ToAgent::Certificate { seq, pem }),
            (id(), failure()).prop_map(|(seq, failure)| ToAgent::Refused { seq, failure }),
            (id(), request()).prop_map(|(id, request)| ToAgent::Sign { id, request }),
            any::<(u32, String)>().prop_map(|(id, address)| ToAgent::Connect { id, address }),
            any::<(u32, Vec<u8>)>().prop_map(|(id, bytes)| ToAgent::Data { id, bytes }),
            any::<(u32, u32)>().prop_map(|(id, bytes)| ToAgent::Window { id, bytes }),
            id().prop_map(|id| ToAgent::Close { id }),
            id().prop_map(|id| ToAgent::Reset { id }),
            any::<bool>().prop_map(|now| ToAgent::Cancel { now }),
        ]
    }

    fn from_agent() -> impl Strategy<Value = FromAgent> {
        let id = any::<u32>;
        let result = prop_oneof![
            outcome().prop_map(TaskResult::Done),
            failure().prop_map(TaskResult::Failed),
            Just(TaskResult::NotNeeded),
            Just(TaskResult::Dropped),
        ];
        let blob = any::<(String, Option<String>)>().prop_map(|(digest, member)| Blob { digest, member });
        let failed = || option::of(failure());
        prop_oneof![
            any::<String>().prop_map(|build| FromAgent::Hello { build }),
            (value(), failed()).prop_map(|(value, failed)| FromAgent::Facts(failed.map_or(Ok(value), Err))),
            id().prop_map(|seq| FromAgent::Started { seq }),
            (id(), result).prop_map(|(seq, result)| FromAgent::Done { seq, result }),
            (id(), blob).prop_map(|(seq, blob)| FromAgent::NeedBlob { seq, blob }),
            (id(), any::<String>(), request()).prop_map(|(seq, signer, request)| FromAgent::NeedCertificate {
                seq,
                signer,
                request
            }),
            (id(), any::<String>(), failed())
                .prop_map(|(id, pem, failed)| FromAgent::Signed { id, result: failed.map_or(Ok(pem), Err) }),
            (id(), failed()).prop_map(|(id, failed)| FromAgent::Connected { id, result: failed.map_or(Ok(()), Err) }),
            any::<(u32, Vec<u8>)>().prop_map(|(id, bytes)| FromAgent::Data { id, bytes }),
            any::<(u32, u32)>().prop_map(|(id, bytes)| FromAgent::Window { id, bytes }),
            id().prop_map(|id| FromAgent::Closed { id }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn messages_to_the_agent_survive(messages in vec(to_agent(), 1..4)) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message).unwrap()).collect();
            let mut input = bytes.as_slice();
            for message in messages {
                prop_assert_eq!(self::message(&mut input).unwrap(), Some(message));
            }
            prop_assert_eq!(message::<ToAgent>(&mut input).unwrap(), None);
        }

        #[test]
        fn messages_from_the_agent_survive(message in from_agent()) {
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(self::message(&mut bytes.as_slice()).unwrap(), Some(message));
        }

        #[test]
        fn a_cut_frame_is_an_error(message in to_agent(), keep in 0.0..1.0) {
            let bytes = encode(&message).unwrap();
            let keep = 1 + ((bytes.len() - 2) as f64 * keep) as usize;
            prop_assert!(read(&mut &bytes[..keep]).is_err());
        }

        #[test]
        fn noise_is_an_error_or_a_message(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode::<ToAgent>(&bytes);
            let _ = read(&mut bytes.as_slice());
        }
    }

    #[test]
    fn too_long_is_an_error_at_both_ends() {
        let long = ToAgent::Data { id: 1, bytes: vec![0; MAX_FRAME + 1] };
        assert!(encode(&long).is_err());
        assert!(read(&mut Head::Frame(MAX_FRAME + 1).encode().as_slice()).is_err());
    }
}
