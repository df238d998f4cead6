//! The terminal of a tool: keeps its screen, answers its questions.
//!
//! Wide, so that no tool wraps a URL; what is wrapped all the same is joined by the screen.

use std::num::NonZeroU16;

use airlock_protocol::Sensitive;
use airlock_protocol::redact::redact;
use vt100::{Callbacks, Parser, Screen};

use super::url;

/// Columns of the terminal.
pub const COLUMNS: NonZeroU16 = NonZeroU16::new(500).unwrap();
/// Rows of the terminal.
pub const ROWS: NonZeroU16 = NonZeroU16::new(50).unwrap();
/// Lines and characters of a tool's last words.
const LAST_LINES: usize = 5;
const LAST_CHARS: usize = 600;

/// The screen.
pub struct Terminal {
    parser: Parser<Answers>,
}

/// What the terminal has to type back (ECMA-48, DEC VT510: device status and device attributes reports).
#[derive(Default)]
struct Answers(Vec<u8>);

impl Callbacks for Answers {
    fn unhandled_csi(&mut self, screen: &mut Screen, i1: Option<u8>, _i2: Option<u8>, params: &[&[u16]], c: char) {
        let first = params.first().and_then(|group| group.first()).copied().unwrap_or(0);
        match (i1, first, c) {
            (None, 6, 'n') => {
                let (row, column) = screen.cursor_position();
                self.0.extend_from_slice(format!("\x1b[{};{}R", row + 1, column + 1).as_bytes());
            }
            (None, 5, 'n') => self.0.extend_from_slice(b"\x1b[0n"),
            // A VT220 with colours: what xterm says, shortened.
            (None, 0, 'c') => self.0.extend_from_slice(b"\x1b[?62;22c"),
            (Some(b'>'), 0, 'c') => self.0.extend_from_slice(b"\x1b[>1;10;0c"),
            _ => {}
        }
    }
}

impl Terminal {
    /// An empty screen.
    pub fn new() -> Self {
        Self { parser: Parser::new_with_callbacks(ROWS, COLUMNS, 0, Answers::default()) }
    }

    /// Takes what the tool wrote; returns what is to be typed back.
    pub fn write(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.parser.process(bytes);
        std::mem::take(&mut self.parser.callbacks_mut().0)
    }

    /// The provider's URL on the screen.
    pub fn url(&self, prefixes: &[String]) -> Option<Sensitive> {
        url::find(&self.parser.screen().contents(), prefixes).map(Sensitive::new)
    }

    /// The end of the screen, fit for an error: without URLs, tokens and the codes that were `typed`.
    pub fn last_words(&self, typed: &[Sensitive]) -> String {
        let mut contents = self.parser.screen().contents();
        for code in typed.iter().filter(|code| !code.expose().is_empty()) {
            contents = contents.replace(code.expose(), "[code]");
        }
        let lines: Vec<String> = contents.lines().map(str::trim).filter(|line| !line.is_empty()).map(redact).collect();
        let words = lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ");
        let cut = words.char_indices().rev().nth(LAST_CHARS - 1).map_or(0, |(at, _)| at);
        words[cut..].to_owned()
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_what_full_screen_tools_ask() {
        let mut terminal = Terminal::new();
        assert_eq!(terminal.write(b"ab\x1b[6n"), b"\x1b[1;3R");
        assert_eq!(terminal.write(b"\x1b[c\x1b[5n"), b"\x1b[?62;22c\x1b[0n");
        assert_eq!(terminal.write(b"\x1b[1;1H\x1b[2Jplain"), b"");
    }

    #[test]
    fn joins_a_url_that_the_screen_wrapped() {
        let prefixes = vec!["https://idp/".to_owned()];
        let url = format!("https://idp/{}", "a".repeat(700));
        let mut terminal = Terminal::new();
        terminal.write(format!("\x1b[32mvisit:\x1b[0m {url}\r\nthen").as_bytes());
        assert_eq!(terminal.url(&prefixes), Some(Sensitive::new(url)));
        let mut plain = Terminal::new();
        plain.write(b"no url");
        assert_eq!(plain.url(&prefixes), None);
    }

    #[test]
    fn last_words_hold_no_secret() {
        let mut terminal = Terminal::new();
        terminal.write(b"1\r\n2\r\n3\r\n4\r\nopen https://idp/?state=secret\r\nPaste code: ab#12\r\nInvalid code\r\n");
        assert_eq!(
            terminal.last_words(&[Sensitive::new("ab#12")]),
            "3 / 4 / open https://[url] / Paste code: [code] / Invalid code"
        );
    }
}
