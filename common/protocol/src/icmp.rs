//! ICMP echo on the wire (RFC 792), as host and agent ask for it.

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
/// Shortest IPv4 header, and the header of an echo message.
const IPV4_HEADER: usize = 20;
const HEADER: usize = 8;

/// An echo request that carries `token`. Identifier and sequence number are its first bytes: the token alone tells answers
/// apart.
pub fn request(token: [u8; 8]) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend_from_slice(&token[..4]);
    message.extend_from_slice(&token);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Whether `packet`, with its IPv4 header, is the answer to the request with this token.
pub fn is_reply(packet: &[u8], token: [u8; 8]) -> bool {
    let Some(first) = packet.first() else { return false };
    // The header's length in 32-bit words (RFC 791).
    let header = usize::from(first & 0x0f) * 4;
    let Some(message) = packet.get(header..).filter(|_| header >= IPV4_HEADER) else { return false };
    message.first() == Some(&ECHO_REPLY)
        && message.get(4..HEADER) == Some(&token[..4])
        && message.get(HEADER..) == Some(&token)
}

/// RFC 1071. A message of ours has an even length.
fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: [u8; 8] = *b"airlock1";

    #[test]
    fn a_request_has_a_checksum_that_closes() {
        let message = request(TOKEN);
        assert_eq!((message[0], message[1], message.len()), (8, 0, 16));
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let packet = |kind: u8, token: [u8; 8], header: usize| {
            let mut packet = vec![0; header];
            packet[0] = 0x40 | u8::try_from(header / 4).unwrap();
            packet.extend(request(token));
            packet[header] = kind;
            packet
        };
        assert!(is_reply(&packet(ECHO_REPLY, TOKEN, 20), TOKEN));
        assert!(is_reply(&packet(ECHO_REPLY, TOKEN, 24), TOKEN), "with IP options");
        assert!(!is_reply(&packet(ECHO_REQUEST, TOKEN, 20), TOKEN), "our own request on loopback");
        assert!(!is_reply(&packet(ECHO_REPLY, *b"another1", 20), TOKEN));
        let whole = packet(ECHO_REPLY, TOKEN, 20);
        for cut in 0..whole.len() {
            assert!(!is_reply(&whole[..cut], TOKEN), "{cut}");
        }
        assert!(!is_reply(&[0x41; 40], TOKEN), "a header shorter than a header");
    }
}
