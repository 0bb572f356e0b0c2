//! Frames: a big-endian `u32` length and one message in postcard.
//!
//! Encoding and decoding are shared by both ends; reading and writing here is the agent's, which blocks. The controller
//! reads and writes the same bytes asynchronously in `client`.

use super::protocol::MAX_FRAME;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read};

/// Encodes a message with its length in front. An error when it is longer than [`MAX_FRAME`].
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame =
        postcard::to_extend(message, vec![0; 4]).map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("a message of {length} bytes; at most {MAX_FRAME} can be sent"),
        ));
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// Decodes the body of a frame.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("not a message of this build: {error}")))
}

/// Reads the length of a frame from its head.
pub(super) fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("not a frame: {length} bytes announced")));
    }
    Ok(length)
}

/// Reads one message; `None` at the end of the stream. A stream that ends inside a frame is an error.
pub(super) fn read<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    let mut head = [0; 4];
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
    let mut body = vec![0; length(head)?];
    input.read_exact(&mut body)?;
    decode(&body).map(Some)
}
