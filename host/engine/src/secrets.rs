//! Random secrets: tokens, tickets and cookies of the API, stored and compared as SHA-256 hashes only; passwords of screens, which
//! are kept in memory only.

use airlock_protocol::Sensitive;
use airlock_protocol::vnc_auth::PASSWORD_BYTES;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::error::Error;

/// A secret of 256 bits with a prefix that tells people (and scanners of leaks) what it is.
pub fn draw(prefix: &str) -> Result<String, Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// A password for a machine's RFB server: as long as those servers read, 48 random bits.
pub fn draw_vnc_password() -> Result<Sensitive, Error> {
    let mut bytes = [0u8; PASSWORD_BYTES * 3 / 4];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(Sensitive::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is stored of a secret. A plain hash is enough: the secret itself has 256 bits of entropy.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_screens_have_the_length_that_counts_and_differ() {
        let (one, other) = (draw_vnc_password().unwrap(), draw_vnc_password().unwrap());
        assert_eq!(one.expose().len(), PASSWORD_BYTES);
        assert_ne!(one, other);
    }
}
