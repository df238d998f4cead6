//! Device authorizations (RFC 8628): begun by a tool, decided by a person on another device, asked about until then. `now` is an
//! argument, randomness the only effect.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::digest;
use super::grants::random_text;

/// How long a person has.
pub const DEVICE_LIFE: Duration = Duration::from_secs(600);
/// How often a tool may ask.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Most authorizations at a time; more are refused, since each waits for a person.
const MOST: usize = 64;
/// No vowels, so that no code is a word (RFC 8628 section 6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// What a tool gets at the beginning.
#[derive(Debug)]
pub struct Begun {
    /// The tool's secret.
    pub device_code: String,
    /// What the person types.
    pub user_code: String,
}

/// What a tool that asks is told (RFC 8628 section 3.5).
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The person agreed; said once.
    Granted,
    /// Not yet: the code of the error.
    Error(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Open,
    Allowed,
    Denied,
}

struct Device {
    client_id: String,
    user_code: String,
    decision: Decision,
    begun: Instant,
    asked: Option<Instant>,
}

/// Everything begun, under the digest of its device code.
#[derive(Default)]
pub struct Devices(HashMap<[u8; 32], Device>);

impl Devices {
    /// Begins one; none if too many wait already.
    pub fn begin(&mut self, client_id: &str, now: Instant) -> Result<Option<Begun>, getrandom::Error> {
        // What is over is remembered for as long again, so that its tool hears so.
        self.0.retain(|_, device| now.duration_since(device.begun) < 2 * DEVICE_LIFE);
        if self.0.len() >= MOST {
            return Ok(None);
        }
        let (device_code, user_code) = (random_text()?, random_user_code()?);
        let client_id = client_id.to_owned();
        let device =
            Device { client_id, user_code: user_code.clone(), decision: Decision::Open, begun: now, asked: None };
        self.0.insert(digest(&device_code), device);
        Ok(Some(Begun { device_code, user_code }))
    }

    /// The person decided; false if nobody waits for that.
    pub fn decide(&mut self, user_code: &str, allow: bool, now: Instant) -> bool {
        let Some(device) = self.find(user_code, now) else { return false };
        device.decision = if allow { Decision::Allowed } else { Decision::Denied };
        true
    }

    /// A tool asks.
    pub fn ask(&mut self, device_code: &str, client_id: &str, now: Instant) -> Answer {
        let key = digest(device_code);
        let Some(device) = self.0.get_mut(&key).filter(|device| device.client_id == client_id) else {
            return Answer::Error("invalid_grant");
        };
        if device.is_over(now) {
            return Answer::Error("expired_token");
        }
        let before = device.asked.replace(now);
        match device.decision {
            Decision::Denied => Answer::Error("access_denied"),
            Decision::Allowed => {
                self.0.remove(&key);
                Answer::Granted
            }
            Decision::Open if before.is_some_and(|before| now.duration_since(before) < INTERVAL) => {
                Answer::Error("slow_down")
            }
            Decision::Open => Answer::Error("authorization_pending"),
        }
    }

    /// However it was typed: small, with blanks, without the dash.
    fn find(&mut self, user_code: &str, now: Instant) -> Option<&mut Device> {
        let plain = |text: &str| -> String {
            text.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect()
        };
        let wanted = plain(user_code);
        self.0.values_mut().find(|device| {
            plain(&device.user_code) == wanted && device.decision == Decision::Open && !device.is_over(now)
        })
    }
}

impl Device {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.begun) >= DEVICE_LIFE
    }
}

/// Eight letters with a dash between.
fn random_user_code() -> Result<String, getrandom::Error> {
    let mut code = String::new();
    while code.len() < 9 {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes)?;
        // 240 is the largest multiple of 20 in a byte: every letter is as likely as the others.
        for byte in bytes.into_iter().filter(|byte| *byte < 240) {
            if code.len() == 4 {
                code.push('-');
            }
            if code.len() < 9 {
                code.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(devices: &mut Devices, now: Instant) -> Begun {
        devices.begin("tool", now).unwrap().unwrap()
    }

    #[test]
    fn a_tool_waits_until_the_person_agreed_and_is_told_once() {
        let (mut devices, now) = (Devices::default(), Instant::now());
        let Begun { device_code, user_code } = begun(&mut devices, now);
        assert!(user_code.len() == 9 && user_code.as_bytes()[4] == b'-', "{user_code}");
        let ask = |devices: &mut Devices, after| devices.ask(&device_code, "tool", now + after);
        assert_eq!(ask(&mut devices, Duration::ZERO), Answer::Error("authorization_pending"));
        assert_eq!(ask(&mut devices, INTERVAL / 2), Answer::Error("slow_down"));
        assert_eq!(devices.ask(&device_code, "other", now), Answer::Error("invalid_grant"));
        let typed = user_code.to_lowercase().replace('-', " ");
        assert!(devices.decide(&typed, true, now) && !devices.decide(&typed, false, now), "decided once");
        assert_eq!(ask(&mut devices, INTERVAL), Answer::Granted);
        assert_eq!(ask(&mut devices, INTERVAL), Answer::Error("invalid_grant"));
    }

    #[test]
    fn a_denial_and_the_end_of_the_time_are_told() {
        let (mut devices, now) = (Devices::default(), Instant::now());
        let (one, other) = (begun(&mut devices, now), begun(&mut devices, now));
        assert!(devices.decide(&one.user_code, false, now));
        assert_eq!(devices.ask(&one.device_code, "tool", now), Answer::Error("access_denied"));
        let late = now + DEVICE_LIFE;
        assert!(!devices.decide(&other.user_code, true, late));
        assert_eq!(devices.ask(&other.device_code, "tool", late), Answer::Error("expired_token"));
        assert!(!devices.decide("", true, now), "no code is nobody's");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut devices, now) = (Devices::default(), Instant::now());
        assert_eq!((0..MOST + 9).filter(|_| devices.begin("tool", now).unwrap().is_some()).count(), MOST);
        assert!(devices.begin("tool", now + 2 * DEVICE_LIFE).unwrap().is_some());
    }
}
