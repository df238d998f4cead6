//! Logs without the secrets in them, otherwise byte for byte what they were.
//!
//! `airlock_protocol::redact` makes a short message harmless and is strict: every URL and every long word goes. A console that
//! somebody must diagnose needs its unit names, ids, digests and addresses, so here only what is known to carry a secret goes, in
//! favour of [`MARK`]: credentials' fields, login URLs, codes, headers, keys, and runs of characters that no word looks like.
//! The rules are data ([`rules`]); what a rule finds may still be judged by code.
//!
//! ```text
//! bytes -> lines (at most 64 KiB, memory is constant) -> [inside a private key? after a URL that was wrapped?] -> rules -> bytes
//! ```
//! Any bytes are taken. If the rules themselves are broken, nothing passes.

mod judge;
mod rules;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::Value;

/// What stands where a secret stood.
pub const MARK: &str = "[redacted]";

/// A line longer than this is redacted in pieces.
const MAX_LINE: usize = 64 * 1024;
/// A private key has no more lines than this; behind them a lost end mark hides nothing.
const MAX_KEY_LINES: u32 = 200;
/// A terminal breaks lines no narrower than this.
const NARROWEST: usize = 40;

/// Redacts a text that comes in pieces.
#[derive(Debug, Default)]
pub struct Redactor {
    line: Vec<u8>,
    context: Context,
    redacted: u64,
}

/// What the lines before this one say about it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Context {
    #[default]
    Text,
    /// Between the marks of a private key; lines so far.
    Key(u32),
    /// The line before ended inside a URL with a secret.
    Url,
}

impl Redactor {
    /// At the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes; adds what is complete to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            self.take(line, out);
            self.flush(self.line.len(), out);
            bytes = rest;
        }
        self.take(bytes, out);
    }

    /// Ends the text.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.flush(self.line.len(), out);
    }

    /// Lines that lost something so far.
    pub fn redacted(&self) -> u64 {
        self.redacted
    }

    /// Adds to the line; one that is too long goes in pieces, cut between words if it has any.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while self.line.len() + bytes.len() > MAX_LINE {
            let room = MAX_LINE - self.line.len();
            let (now, rest) = bytes.split_at(room);
            self.line.extend_from_slice(now);
            let space = self.line.iter().rposition(u8::is_ascii_whitespace).filter(|at| *at > MAX_LINE / 2);
            self.flush(space.map_or(MAX_LINE, |at| at + 1), out);
            bytes = rest;
        }
        self.line.extend_from_slice(bytes);
    }

    /// Redacts the first `length` bytes of the line.
    fn flush(&mut self, length: usize, out: &mut Vec<u8>) {
        let rest = self.line.split_off(length);
        let whole = std::mem::replace(&mut self.line, rest);
        let end = whole.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        let (text, end) = whole.split_at(end);
        let clean = self.line(text);
        self.redacted += u64::from(*clean != *text);
        out.extend_from_slice(&clean);
        out.extend_from_slice(end);
    }

    /// One line without its end.
    fn line<'t>(&mut self, text: &'t [u8]) -> Cow<'t, [u8]> {
        match std::mem::take(&mut self.context) {
            Context::Key(lines) if lines < MAX_KEY_LINES && judge::is_key_body(text) => {
                if !judge::ends_key(text) {
                    self.context = Context::Key(lines + 1);
                }
                return Cow::Borrowed(MARK.as_bytes());
            }
            Context::Url => {
                let rest = judge::wrapped_rest(text);
                if rest > 0 {
                    let (gone, after) = text.split_at(rest);
                    let clean = rules::apply(after);
                    if after.is_empty() && gone.len() >= NARROWEST {
                        self.context = Context::Url;
                    }
                    return Cow::Owned([MARK.as_bytes(), &clean].concat());
                }
            }
            Context::Text | Context::Key(_) => {}
        }
        let clean = rules::apply(text);
        if judge::begins_key(text) {
            self.context = Context::Key(0);
        } else if text.len() >= NARROWEST && judge::ends_in_url(text) && clean.ends_with(MARK.as_bytes()) {
            self.context = Context::Url;
        }
        clean
    }
}

/// A whole text at once.
pub fn redact_text(text: &str) -> String {
    let (mut redactor, mut out) = (Redactor::new(), Vec::with_capacity(text.len()));
    redactor.push(text.as_bytes(), &mut out);
    redactor.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Every text inside a JSON value; the values of secret fields go whole.
pub fn redact_json(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact_text(text),
        Value::Array(items) => items.iter_mut().for_each(redact_json),
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match field {
                    Value::String(text) if judge::hides_field(name, text) => MARK.clone_into(text),
                    Value::Array(_) | Value::Object(_) | Value::String(_) => redact_json(field),
                    Value::Null | Value::Bool(_) | Value::Number(_) => {}
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
