//! The terminal of a tool: keeps its screen, answers its questions.
//!
//! Wide, so that no tool wraps a URL; what is wrapped all the same is joined by the screen and by [`url`]. Pipes have a screen
//! too: it answers nothing, and a line feed begins a line, as a terminal's driver would do it.

use std::num::NonZeroU16;

use airlock_protocol::Sensitive;
use airlock_protocol::login::{self, DEFAULT_COLUMNS};
use regex_lite::Regex;
use vt100::{Callbacks, Parser, Screen};

use super::url;
use super::words::without_secrets;

/// Rows of the terminal.
pub const ROWS: u16 = 50;
/// Lines and characters of a tool's last words.
const LAST_LINES: usize = 5;
const LAST_CHARS: usize = 600;

/// The screen.
pub struct Terminal {
    parser: Parser<Answers>,
    columns: u16,
    is_pipe: bool,
}

/// What the terminal has to type back (ECMA-48 and xterm's control sequences: status, attributes, modes, size, colours).
#[derive(Default)]
struct Answers(Vec<u8>);

impl Answers {
    fn say(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }
}

impl Callbacks for Answers {
    fn unhandled_csi(&mut self, screen: &mut Screen, i1: Option<u8>, i2: Option<u8>, params: &[&[u16]], action: char) {
        let first = params.first().and_then(|group| group.first()).copied().unwrap_or(0);
        let (row, column) = screen.cursor_position();
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        match (i1, i2, first, action) {
            (None, None, 6, 'n') => self.say(&format!("\x1b[{};{}R", row + 1, column + 1)),
            (Some(b'?'), None, 6, 'n') => self.say(&format!("\x1b[?{};{}R", row + 1, column + 1)),
            (None, None, 5, 'n') => self.say("\x1b[0n"),
            // A VT220 with colours: what xterm says, shortened.
            (None, None, 0, 'c') => self.say("\x1b[?62;22c"),
            (Some(b'>'), None, 0, 'c') => self.say("\x1b[>1;10;0c"),
            (Some(b'>'), None, 0, 'q') => self.say("\x1bP>|airlock\x1b\\"),
            // The keyboard protocol with flags: none of them is on.
            (Some(b'?'), None, _, 'u') => self.say("\x1b[?0u"),
            // No mode is known.
            (Some(b'?'), Some(b'$'), mode, 'p') => self.say(&format!("\x1b[?{mode};0$y")),
            (None, Some(b'$'), mode, 'p') => self.say(&format!("\x1b[{mode};0$y")),
            (None, None, 18, 't') => self.say(&format!("\x1b[8;{rows};{columns}t")),
            (None, None, 14, 't') => self.say(&format!("\x1b[4;{};{}t", u32::from(rows) * 16, u32::from(columns) * 8)),
            _ => {}
        }
    }

    fn unhandled_osc(&mut self, _: &mut Screen, params: &[&[u8]]) {
        // Light text on a dark screen.
        match params {
            [b"10", b"?", ..] => self.say("\x1b]10;rgb:eeee/eeee/eeee\x1b\\"),
            [b"11", b"?", ..] => self.say("\x1b]11;rgb:0000/0000/0000\x1b\\"),
            [b"12", b"?", ..] => self.say("\x1b]12;rgb:eeee/eeee/eeee\x1b\\"),
            _ => {}
        }
    }
}

impl Terminal {
    /// An empty screen of so many columns.
    pub fn new(columns: u16) -> Self {
        Self {
            parser: Parser::new_with_callbacks(at_least_one(ROWS), at_least_one(columns), 0, Answers::default()),
            columns,
            is_pipe: false,
        }
    }

    /// The screen of a login's streams.
    pub fn of(streams: login::Terminal) -> Self {
        match streams {
            login::Terminal::Pty { columns } => Self::new(columns),
            login::Terminal::Pipes => Self { is_pipe: true, ..Self::new(DEFAULT_COLUMNS) },
        }
    }

    /// Takes what the tool wrote; returns what is to be typed back.
    pub fn write(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.is_pipe {
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                match line.strip_suffix(b"\n") {
                    Some(line) => [line, b"\r\n"].into_iter().for_each(|part| self.parser.process(part)),
                    None => self.parser.process(line),
                }
            }
            self.parser.callbacks_mut().0.clear();
            return Vec::new();
        }
        self.parser.process(bytes);
        std::mem::take(&mut self.parser.callbacks_mut().0)
    }

    /// What is typed for a line end.
    pub fn line_end(&self) -> &'static str {
        if self.is_pipe { "\n" } else { "\r" }
    }

    /// The provider's URL on the screen.
    pub fn url(&self, wanted: &url::Wanted) -> Option<Sensitive> {
        wanted.find(&self.parser.screen().contents(), usize::from(self.columns)).map(Sensitive::new)
    }

    /// What `pattern` finds on the screen: its first group, or all of it.
    pub fn user_code(&self, pattern: &Regex) -> Option<Sensitive> {
        let contents = self.parser.screen().contents();
        let found = pattern.captures(&contents)?;
        found.get(1).or_else(|| found.get(0)).map(|code| Sensitive::new(code.as_str()))
    }

    /// The end of the screen, fit for an error: without URLs, tokens and what is in `secrets`.
    pub fn last_words(&self, secrets: &[Sensitive]) -> String {
        let contents = self.parser.screen().contents();
        let lines = contents.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines: Vec<String> = lines.map(|line| without_secrets(line, secrets)).collect();
        let words = lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ");
        let cut = words.char_indices().rev().nth(LAST_CHARS - 1).map_or(0, |(at, _)| at);
        words[cut..].to_owned()
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminal")
    }
}

/// The emulation has no screen of nothing.
fn at_least_one(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_what_full_screen_tools_ask() {
        let mut terminal = Terminal::new(500);
        assert_eq!(terminal.write(b"ab\x1b[6n"), b"\x1b[1;3R");
        assert_eq!(terminal.write(b"\x1b[c\x1b[5n"), b"\x1b[?62;22c\x1b[0n");
        assert_eq!(terminal.write(b"\x1b[1;1H\x1b[2Jplain"), b"");
        for (asked, answer) in [
            ("\x1b[?u", "\x1b[?0u"),
            ("\x1b]11;?\x07", "\x1b]11;rgb:0000/0000/0000\x1b\\"),
            ("\x1b]10;?\x1b\\", "\x1b]10;rgb:eeee/eeee/eeee\x1b\\"),
            ("\x1b[18t", "\x1b[8;50;500t"),
            ("\x1b[?2026$p", "\x1b[?2026;0$y"),
            ("\x1b[>0q", "\x1bP>|airlock\x1b\\"),
            ("\x1b[>c", "\x1b[>1;10;0c"),
        ] {
            assert_eq!(String::from_utf8(terminal.write(asked.as_bytes())).unwrap(), answer, "{asked:?}");
        }
    }

    #[test]
    fn joins_a_url_that_the_screen_wrapped() {
        let wanted = url::Wanted::new(&["https://idp/".to_owned()], None);
        let url = format!("https://idp/{}", "a".repeat(700));
        let mut terminal = Terminal::new(500);
        terminal.write(format!("\x1b[32mvisit:\x1b[0m {url}\r\nthen").as_bytes());
        assert_eq!(terminal.url(&wanted), Some(Sensitive::new(url)));
        let mut plain = Terminal::new(500);
        plain.write(b"no url");
        assert_eq!(plain.url(&wanted), None);
    }

    #[test]
    fn last_words_hold_no_secret() {
        let mut terminal = Terminal::new(500);
        terminal.write(b"1\r\n2\r\n3\r\n4\r\nopen https://idp/?state=secret\r\nPaste code: ab#12\r\nInvalid code\r\n");
        assert_eq!(
            terminal.last_words(&[Sensitive::new("ab#12")]),
            "3 / 4 / open https://[url] / Paste code: [code] / Invalid code"
        );
    }

    #[test]
    fn pipes_have_lines_and_nobody_to_answer() {
        let mut terminal = Terminal::of(login::Terminal::Pipes);
        assert_eq!(terminal.write(b"one\ntwo\x1b[6n\n"), b"");
        assert_eq!((terminal.last_words(&[]).as_str(), terminal.line_end()), ("one / two", "\n"));
    }

    #[test]
    fn a_user_code_is_the_group_of_its_pattern() {
        let mut terminal = Terminal::new(500);
        terminal.write(b"Enter this one-time code:\r\n  \x1b[94mABCD-12345\x1b[0m\r\n");
        let code = |pattern: &str| terminal.user_code(&Regex::new(pattern).unwrap());
        assert_eq!(code(r"code:\s+([A-Z0-9]{4}-[A-Z0-9]{5})"), Some(Sensitive::new("ABCD-12345")));
        assert_eq!(code(r"[A-Z]{4}-\d{5}"), Some(Sensitive::new("ABCD-12345")));
        assert_eq!(code("[A-Z]{9}"), None);
    }
}
