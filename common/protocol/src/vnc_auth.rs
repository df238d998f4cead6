//! The password of a guest's RFB server: how the server's password file holds it, and how it is proved (RFC 6143 7.2.2, "VNC
//! Authentication"). Pure.
//!
//! Both are DES with the bits of each key byte reversed, as the first VNC did it. That is weak, and does not have to be strong:
//! the password lives as long as its machine's owner, and only the daemon's bridge reaches the port.

use des::Des;
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};

use crate::Sensitive;

/// Bytes of a password that count; servers ignore the rest.
pub const PASSWORD_BYTES: usize = 8;
/// Bytes of the server's challenge, and of the answer to it.
pub const CHALLENGE_BYTES: usize = 16;
/// Security type of RFC 6143 7.2.1: no authentication.
pub const SECURITY_NONE: u8 = 1;
/// Security type of RFC 6143 7.2.2: this one.
pub const SECURITY_VNC_AUTH: u8 = 2;

/// The key of every VNC server's password file: it hides the password from a glance and from nothing else.
const FILE_KEY: [u8; 8] = [23, 82, 107, 6, 35, 78, 88, 7];

/// What a password file holds.
pub fn password_file(password: &Sensitive) -> [u8; PASSWORD_BYTES] {
    let mut block = key_of(password);
    encrypt(&FILE_KEY, &mut block);
    block
}

/// What proves that the password is known.
pub fn answer(password: &Sensitive, challenge: &[u8; CHALLENGE_BYTES]) -> [u8; CHALLENGE_BYTES] {
    let (key, mut answer) = (key_of(password), *challenge);
    for block in answer.chunks_exact_mut(PASSWORD_BYTES) {
        if let Ok(block) = block.try_into() {
            encrypt(&key, block);
        }
    }
    answer
}

/// The first bytes, filled up with zeros.
fn key_of(password: &Sensitive) -> [u8; PASSWORD_BYTES] {
    let mut key = [0; PASSWORD_BYTES];
    key.iter_mut().zip(password.expose().bytes()).for_each(|(key, byte)| *key = byte);
    key
}

fn encrypt(key: &[u8; PASSWORD_BYTES], block: &mut [u8; PASSWORD_BYTES]) {
    let cipher = Des::new(&key.map(u8::reverse_bits).into());
    let mut padded = Block::<Des>::from(*block);
    cipher.encrypt_block(&mut padded);
    *block = padded.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `vncpasswd -f` of TigerVNC writes them.
    #[test]
    fn the_file_is_the_one_that_servers_read() {
        for (password, file) in [
            ("airlock1", 0xe6f4_3678_7aea_3639_u64),
            ("abc", 0x9c0a_172d_3482_e122),
            ("longer-than-eight", 0xc5a6_ac61_378b_0df2),
        ] {
            assert_eq!(password_file(&Sensitive::new(password)), file.to_be_bytes(), "{password}");
        }
    }

    #[test]
    fn an_answer_depends_on_every_byte_that_counts() {
        let challenge = *b"0123456789abcdef";
        let of = |password: &str| answer(&Sensitive::new(password), &challenge);
        assert_ne!(of("airlock1"), of("airlock2"));
        assert_eq!(of("airlock1"), of("airlock1 and what nobody reads"));
        assert_ne!(of("airlock1")[..8], of("airlock1")[8..]);
    }
}
