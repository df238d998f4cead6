//! What a tool wrote since the last answer, as text: patterns of prompts and outcomes are looked for in it.
//!
//! The screen alone does not do: what a tool repaints stands there once, and what was answered stands there still. Escape
//! sequences are left out; those that move the cursor to another place become a line end or, to the right, blanks.

use airlock_protocol::Sensitive;
use airlock_protocol::redact::redact;
use regex_lite::Regex;
use vte::{Params, Parser, Perform};

/// So many bytes are kept; the oldest go first.
const MAX_KEPT: usize = 64 * 1024;
/// The longest line that is told, in characters.
const MAX_LINE: usize = 300;

/// The text, and what was found in it.
pub struct Words {
    parser: Parser,
    text: Text,
    patterns: Vec<Option<Regex>>,
    found: Vec<bool>,
}

#[derive(Default)]
struct Text(String);

impl Words {
    /// Looks for `patterns`. One that does not compile is never found; the host refuses such files.
    pub fn new<'a>(patterns: impl Iterator<Item = &'a str>) -> Self {
        let patterns: Vec<_> = patterns.map(|pattern| Regex::new(pattern).ok()).collect();
        Self { parser: Parser::new(), text: Text::default(), found: vec![false; patterns.len()], patterns }
    }

    /// Takes what the tool wrote; returns the numbers of the patterns that stand there for the first time since the mark, in
    /// the order in which they stand.
    pub fn write(&mut self, bytes: &[u8]) -> Vec<usize> {
        self.parser.advance(&mut self.text, bytes);
        self.text.cut();
        let (text, found) = (&self.text.0, &self.found);
        let mut new: Vec<(usize, usize)> = self
            .patterns
            .iter()
            .enumerate()
            .filter(|(number, _)| !found[*number])
            .filter_map(|(number, pattern)| Some((pattern.as_ref()?.find(text)?.start(), number)))
            .collect();
        new.sort_unstable();
        new.iter().for_each(|(_, number)| self.found[*number] = true);
        new.into_iter().map(|(_, number)| number).collect()
    }

    /// Forgets: something was typed, and what comes now is about that.
    pub fn mark(&mut self) {
        self.text.0.clear();
        self.found.fill(false);
    }

    /// The line where a pattern stands, without URLs, tokens and what is in `secrets`.
    pub fn line(&self, number: usize, secrets: &[Sensitive]) -> String {
        let place = self.patterns.get(number).and_then(Option::as_ref).and_then(|pattern| pattern.find(&self.text.0));
        let Some(place) = place else { return String::new() };
        let start = self.text.0[..place.start()].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text.0[place.end()..].find('\n').map_or(self.text.0.len(), |at| place.end() + at);
        let lines = self.text.0[start..end].lines().map(|line| without_secrets(line.trim(), secrets));
        lines.collect::<Vec<_>>().join(" / ").chars().take(MAX_LINE).collect()
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words")
    }
}

/// A line fit for an error.
pub fn without_secrets(line: &str, secrets: &[Sensitive]) -> String {
    let mut line = line.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        line = line.replace(secret.expose(), "[code]");
    }
    redact(&line)
}

impl Text {
    fn cut(&mut self) {
        if self.0.len() > MAX_KEPT {
            let from = (self.0.len() - MAX_KEPT / 2..).find(|at| self.0.is_char_boundary(*at)).unwrap_or(0);
            self.0.drain(..from);
        }
    }

    fn new_line(&mut self) {
        if !self.0.is_empty() && !self.0.ends_with('\n') {
            self.0.push('\n');
        }
    }
}

impl Perform for Text {
    fn print(&mut self, c: char) {
        self.0.push(c);
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' | 0x0b | 0x0c => self.0.push('\n'),
            b'\t' => self.0.push(' '),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, _intermediates: &[u8], _ignore: bool, action: char) {
        let first = params.iter().next().and_then(|group| group.first()).copied().unwrap_or(0).max(1);
        match action {
            'C' => self.0.extend(std::iter::repeat_n(' ', usize::from(first.min(500)))),
            'A' | 'B' | 'E' | 'F' | 'H' | 'f' | 'd' | 'J' => self.new_line(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    #[test]
    fn finds_what_comes_in_pieces_once_until_something_is_typed() {
        let mut words = Words::new(["Paste code here", r"(?i)invalid code", "("].into_iter());
        assert_eq!(words.write(b"Pas"), NONE);
        assert_eq!(words.write(b"\x1b[1mte\x1b[1Ccode\x1b[0m here > "), vec![0]);
        assert_eq!(words.write(b"\x1b[2K\rPaste code here > "), NONE);
        words.mark();
        assert_eq!(words.write(b"INVALID code. Retry.\r\nPaste code here > "), vec![1, 0]);
        assert_eq!(words.line(1, &[]), "INVALID code. Retry.");
    }

    #[test]
    fn moving_the_cursor_parts_words() {
        let mut words = Words::new(["onetwo", "three four"].into_iter());
        assert_eq!(words.write(b"\x1b[1;1Hone\x1b[2;1Htwo\x1b]0;title three four\x07 three\tfour"), vec![1]);
    }

    #[test]
    fn a_line_is_told_without_secrets() {
        let mut words = Words::new(["refused"].into_iter());
        words.write("before\r\ncode S3CR-ET refused at https://idp/?state=s3cret \u{2502}\r\nafter".as_bytes());
        let line = words.line(0, &[Sensitive::new("S3CR-ET")]);
        assert_eq!(line, "code [code] refused at https://[url] \u{2502}");
        assert_eq!(words.line(9, &[]), "");
    }

    #[test]
    fn endless_output_is_bounded_and_the_newest_counts() {
        let mut words = Words::new(["the end"].into_iter());
        for _ in 0..100 {
            assert_eq!(words.write("\u{e9}".repeat(2000).as_bytes()), NONE);
        }
        assert!(words.text.0.len() <= MAX_KEPT + 4000);
        assert_eq!(words.write(b"the end"), vec![0]);
    }
}
