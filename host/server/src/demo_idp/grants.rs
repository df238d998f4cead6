//! Codes and tokens: issued, redeemed, forgotten. `now` is an argument, randomness the only effect.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::digest;
use super::request::AuthorizeRequest;

/// A code must be redeemed within this time (RFC 6749 section 4.1.2 allows ten minutes at most).
pub const CODE_LIFE: Duration = Duration::from_secs(60);
/// Life of an access token.
pub const ACCESS_LIFE: Duration = Duration::from_secs(3600);
const REFRESH_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most codes and most tokens kept at a time; the oldest give way.
const MOST: usize = 1024;

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// `invalid_grant` of RFC 6749 section 5.2.
    #[error("{0}")]
    Refused(&'static str),
    /// The system gave no random bytes.
    #[error("read random bytes for a code or token")]
    Random(#[from] getrandom::Error),
}

/// What a token request gets.
#[derive(Debug)]
pub struct Issued {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in_s: u64,
    pub account: String,
}

struct Code {
    client_id: String,
    redirect_uri: String,
    challenge: String,
    account: String,
    issued: Instant,
    used: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Access,
    Refresh,
}

struct Token {
    client_id: String,
    account: String,
    code: [u8; 32],
    use_for: Use,
    issued: Instant,
}

impl Token {
    fn lives(&self, now: Instant) -> bool {
        let life = if self.use_for == Use::Access { ACCESS_LIFE } else { REFRESH_LIFE };
        now.duration_since(self.issued) < life
    }
}

/// Everything issued, under the digest of its text.
#[derive(Default)]
pub struct Grants {
    codes: HashMap<[u8; 32], Code>,
    tokens: HashMap<[u8; 32], Token>,
}

impl Grants {
    /// A code for a request that the account's owner agreed to.
    pub fn new_code(&mut self, request: &AuthorizeRequest, account: &str, now: Instant) -> Result<String, GrantError> {
        let text = random_text()?;
        self.codes.retain(|_, code| now.duration_since(code.issued) < CODE_LIFE);
        make_room(&mut self.codes, |code| code.issued);
        let code = Code {
            client_id: request.client_id.clone(),
            redirect_uri: request.redirect_uri.clone(),
            challenge: request.code_challenge.clone(),
            account: account.to_owned(),
            issued: now,
            used: false,
        };
        self.codes.insert(digest(&text), code);
        Ok(text)
    }

    /// Tokens for a code. A code that is redeemed twice is stolen: what it gave is revoked (RFC 6749 section 4.1.2).
    pub fn redeem_code(
        &mut self,
        code: &str,
        client_id: &str,
        redirect_uri: &str,
        verifier: &str,
        now: Instant,
    ) -> Result<Issued, GrantError> {
        let key = digest(code);
        let Some(found) = self.codes.get_mut(&key) else { return Err(GrantError::Refused("the code is unknown")) };
        if now.duration_since(found.issued) >= CODE_LIFE {
            return Err(GrantError::Refused("the code is older than 60 s"));
        }
        if found.used {
            self.tokens.retain(|_, token| token.code != key);
            return Err(GrantError::Refused("the code was used before"));
        }
        if found.client_id != client_id || found.redirect_uri != redirect_uri {
            return Err(GrantError::Refused("client_id and redirect_uri must be those of the authorization request"));
        }
        if !verifies(verifier, &found.challenge) {
            return Err(GrantError::Refused("code_verifier does not match code_challenge"));
        }
        found.used = true;
        let account = found.account.clone();
        self.issue(client_id, &account, key, now)
    }

    /// Tokens for a device whose person agreed.
    pub fn for_device(
        &mut self,
        device_code: &str,
        client_id: &str,
        account: &str,
        now: Instant,
    ) -> Result<Issued, GrantError> {
        self.issue(client_id, account, digest(device_code), now)
    }

    /// New tokens for a refresh token, which is used up (rotation).
    pub fn refresh(&mut self, refresh_token: &str, client_id: &str, now: Instant) -> Result<Issued, GrantError> {
        let key = digest(refresh_token);
        let usable = self
            .tokens
            .get(&key)
            .is_some_and(|token| token.use_for == Use::Refresh && token.client_id == client_id && token.lives(now));
        match self.tokens.remove(&key) {
            Some(token) if usable => self.issue(client_id, &token.account, token.code, now),
            _ => Err(GrantError::Refused("the refresh token is unknown, used or expired")),
        }
    }

    /// Whose access token this is.
    pub fn account_of(&self, access_token: &str, now: Instant) -> Option<String> {
        let token = self.tokens.get(&digest(access_token))?;
        (token.use_for == Use::Access && token.lives(now)).then(|| token.account.clone())
    }

    fn issue(&mut self, client_id: &str, account: &str, code: [u8; 32], now: Instant) -> Result<Issued, GrantError> {
        self.tokens.retain(|_, token| token.lives(now));
        let (access_token, refresh_token) = (random_text()?, random_text()?);
        for (text, use_for) in [(&access_token, Use::Access), (&refresh_token, Use::Refresh)] {
            make_room(&mut self.tokens, |token| token.issued);
            let (client_id, account) = (client_id.to_owned(), account.to_owned());
            self.tokens.insert(digest(text), Token { client_id, account, code, use_for, issued: now });
        }
        Ok(Issued { access_token, refresh_token, expires_in_s: ACCESS_LIFE.as_secs(), account: account.to_owned() })
    }
}

/// RFC 7636 sections 4.1 and 4.6.
fn verifies(verifier: &str, challenge: &str) -> bool {
    let is_unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if !(43..=128).contains(&verifier.len()) || !verifier.chars().all(is_unreserved) {
        return false;
    }
    let computed = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    computed.as_bytes().ct_eq(challenge.as_bytes()).into()
}

fn make_room<T>(map: &mut HashMap<[u8; 32], T>, issued: impl Fn(&T) -> Instant) {
    while map.len() >= MOST {
        let Some(oldest) = map.iter().min_by_key(|(_, value)| issued(value)).map(|(key, _)| *key) else { return };
        map.remove(&oldest);
    }
}

/// 256 random bits in base64url.
pub fn random_text() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::request::AuthorizeParams;
    use super::*;

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const REDIRECT: &str = "http://127.0.0.1:7/cb";

    fn request() -> AuthorizeRequest {
        AuthorizeRequest::validate(&AuthorizeParams {
            response_type: "code".into(),
            client_id: "tool".into(),
            redirect_uri: REDIRECT.into(),
            code_challenge: CHALLENGE.into(),
            code_challenge_method: "S256".into(),
            ..AuthorizeParams::default()
        })
        .unwrap()
    }

    #[test]
    fn the_example_of_rfc_7636_verifies() {
        assert!(verifies(VERIFIER, CHALLENGE));
        assert!(!verifies(&VERIFIER.replace('d', "e"), CHALLENGE));
        assert!(!verifies("short", CHALLENGE));
    }

    #[test]
    fn a_code_lives_sixty_seconds() {
        let (mut grants, start) = (Grants::default(), Instant::now());
        for (after, works) in [(CODE_LIFE - Duration::from_millis(1), true), (CODE_LIFE, false)] {
            let code = grants.new_code(&request(), "alice", start).unwrap();
            assert_eq!(grants.redeem_code(&code, "tool", REDIRECT, VERIFIER, start + after).is_ok(), works);
        }
    }

    #[test]
    fn a_code_used_twice_revokes_what_it_gave() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let code = grants.new_code(&request(), "alice", now).unwrap();
        let issued = grants.redeem_code(&code, "tool", REDIRECT, VERIFIER, now).unwrap();
        assert_eq!(grants.account_of(&issued.access_token, now).as_deref(), Some("alice"));
        assert!(grants.redeem_code(&code, "tool", REDIRECT, VERIFIER, now).is_err());
        assert_eq!(grants.account_of(&issued.access_token, now), None);
        assert!(grants.refresh(&issued.refresh_token, "tool", now).is_err());
    }

    #[test]
    fn a_refresh_token_rotates() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let code = grants.new_code(&request(), "alice", now).unwrap();
        let first = grants.redeem_code(&code, "tool", REDIRECT, VERIFIER, now).unwrap();
        assert!(grants.refresh(&first.access_token, "tool", now).is_err(), "an access token is no refresh token");
        let second = grants.refresh(&first.refresh_token, "tool", now).unwrap();
        assert!(grants.refresh(&first.refresh_token, "tool", now).is_err());
        assert_eq!(grants.account_of(&second.access_token, now).as_deref(), Some("alice"));
        assert_eq!(grants.account_of(&second.access_token, now + ACCESS_LIFE), None);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        for _ in 0..MOST + 10 {
            grants.new_code(&request(), "alice", now).unwrap();
        }
        assert_eq!(grants.codes.len(), MOST);
    }
}
