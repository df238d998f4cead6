//! Frames of the control channel: `ALK1`, a big-endian 32-bit length, that many bytes of JSON.
//!
//! The same bytes travel on virtio-serial and on vsock. virtio-serial has no connections, so after a restart of either side
//! the stream may start in the middle of a frame, or a frame may end early and the next one follow: the decoder then skips to
//! the next magic and counts what it skipped. It never waits for the rest of a frame behind which another one has begun.

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// Start of every frame.
pub const MAGIC: [u8; 4] = *b"ALK1";
/// The largest payload, in bytes. Credentials are a few KiB; a larger length is treated as noise.
pub const MAX_PAYLOAD: usize = 1 << 20;
const HEADER: usize = 8;
/// The magic and the first byte of a length up to [`MAX_PAYLOAD`]. JSON has no zero byte, so behind a magic this can only be the
/// start of another frame.
const START: [u8; 5] = *b"ALK1\0";

/// Why a value could not be framed.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The value has no JSON form.
    #[error("encode a control frame")]
    Json(#[from] serde_json::Error),
    /// The JSON is larger than [`MAX_PAYLOAD`].
    #[error("a control frame of {len} bytes is larger than {MAX_PAYLOAD}")]
    TooLarge {
        /// Size of the JSON in bytes.
        len: usize,
    },
}

/// The frame of `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let json = serde_json::to_vec(message)?;
    let len = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_PAYLOAD);
    let Some(len) = len else { return Err(EncodeError::TooLarge { len: json.len() }) };
    let mut frame = Vec::with_capacity(HEADER + json.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&json);
    Ok(frame)
}

/// Cuts a byte stream into messages. Never fails: bytes that are no frame are skipped and counted.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// So many bytes behind the magic at the buffer's start were looked through for another frame.
    searched: usize,
    skipped: u64,
}

impl Decoder {
    /// A decoder at an unknown place of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes skipped so far because they belonged to no frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one. A frame whose JSON is not a `T`, such as a message of a newer peer, is skipped.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let start = self.buffer.windows(MAGIC.len()).position(|window| window == MAGIC);
            // Without a magic, only its possible beginning at the end is worth keeping.
            let keep_from = start.unwrap_or_else(|| self.buffer.len().saturating_sub(MAGIC.len() - 1));
            self.skip(keep_from);
            start?;
            let header = self.buffer.get(..HEADER)?;
            let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
            if len > MAX_PAYLOAD {
                self.skip(MAGIC.len());
                continue;
            }
            let Some(payload) = self.buffer.get(HEADER..HEADER + len) else {
                let next = self.next_start()?;
                self.skip(next);
                continue;
            };
            match serde_json::from_slice(payload) {
                Ok(message) => {
                    self.drop_front(HEADER + len);
                    return Some(message);
                }
                // Whole, so a message of a newer version: its text may hold a magic, but no frame.
                Err(_) if serde_json::from_slice::<IgnoredAny>(payload).is_ok() => self.skip(HEADER + len),
                // A frame that was cut, or a magic inside noise: look for the next magic behind this one.
                Err(_) => self.skip(MAGIC.len()),
            }
        }
    }

    /// Where another frame begins inside the incomplete one at the buffer's start.
    fn next_start(&mut self) -> Option<usize> {
        let from = MAGIC.len() + self.searched;
        let rest = self.buffer.get(from..)?;
        let found = rest.windows(START.len()).position(|window| window == START);
        self.searched += rest.len().saturating_sub(START.len() - 1);
        found.map(|at| from + at)
    }

    fn skip(&mut self, count: usize) {
        self.skipped += count as u64;
        self.drop_front(count);
    }

    fn drop_front(&mut self, count: usize) {
        if count > 0 {
            self.buffer.drain(..count);
            self.searched = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_round_trip_in_any_chunks(messages in proptest::collection::vec("\\PC{0,60}", 0..6), size in 1usize..40) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
            let mut decoder = Decoder::new();
            let mut seen: Vec<String> = Vec::new();
            for chunk in stream.chunks(size) {
                decoder.push(chunk);
                while let Some(m) = decoder.next_message() { seen.push(m); }
            }
            prop_assert_eq!(seen, messages);
            prop_assert_eq!(decoder.skipped(), 0);
        }

        #[test]
        fn resynchronizes_after_a_cut_frame(cut in 1usize..20, message in "[a-z]{0,40}") {
            let whole = encode(&"a message that was cut by a restart").unwrap();
            let mut decoder = Decoder::new();
            decoder.push(&whole[cut..]);
            decoder.push(&encode(&message).unwrap());
            prop_assert_eq!(decoder.next_message::<String>(), Some(message));
        }

        #[test]
        fn a_frame_that_ends_early_does_not_hold_up_the_next(cut in 1usize..2000, message in "[a-z]{0,40}", size in 1usize..3000) {
            let whole = encode(&"x".repeat(2000)).unwrap();
            let next = encode(&message).unwrap();
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            for chunk in [&whole[..cut], &next].concat().chunks(size) {
                decoder.push(chunk);
                while let Some(message) = decoder.next_message::<String>() { seen.push(message); }
            }
            prop_assert_eq!(seen, vec![message]);
            prop_assert_eq!(decoder.skipped(), cut as u64);
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            while decoder.next_message::<serde_json::Value>().is_some() {}
        }
    }

    #[test]
    fn a_message_of_a_newer_peer_is_skipped_whole() {
        use crate::message::HostMessage;
        let newer = encode(&serde_json::json!({"type": "levitate", "how": "ALK1 and ALK1"})).unwrap();
        let known = HostMessage::Ping { n: 3 };
        let mut decoder = Decoder::new();
        decoder.push(&newer);
        assert_eq!(decoder.next_message::<HostMessage>(), None);
        assert_eq!(decoder.skipped(), newer.len() as u64);
        decoder.push(&[newer.clone(), encode(&known).unwrap(), newer].concat());
        assert_eq!(decoder.next_message(), Some(known));
        assert_eq!(decoder.next_message::<HostMessage>(), None);
    }

    #[test]
    fn a_large_message_in_small_pieces_is_looked_through_once() {
        let frame = encode(&"x".repeat(MAX_PAYLOAD - 2)).unwrap();
        let mut decoder = Decoder::new();
        let (last, rest) = frame.split_last().unwrap();
        for chunk in rest.chunks(4096) {
            decoder.push(chunk);
            assert_eq!(decoder.next_message::<String>(), None);
        }
        // All but what may be the beginning of a start.
        assert_eq!(decoder.searched, rest.len() - MAGIC.len() - (START.len() - 1));
        decoder.push(&[*last]);
        assert_eq!(decoder.next_message::<String>().map(|text| text.len()), Some(MAX_PAYLOAD - 2));
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused() {
        assert!(matches!(encode(&"x".repeat(MAX_PAYLOAD)), Err(EncodeError::TooLarge { .. })));
    }
}
