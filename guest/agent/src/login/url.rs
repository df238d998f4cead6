//! The URL of a login in the text of a screen. Pure.
//!
//! Where the terminal wrapped, the screen has joined the lines already. Where the tool wrapped by itself, a line ends at the
//! edge of the terminal, or of the 80 columns that tools take for one, and the next is nothing but the rest of the URL.

use regex_lite::Regex;

/// The width that tools wrap at when they do not look.
const USUAL_COLUMNS: usize = 80;
/// Padding and border between the text of a box and the edge.
const EDGE: usize = 4;
/// Lines of boxes that tools draw around text.
const BORDERS: [char; 6] = ['|', '\u{2502}', '\u{2503}', '\u{2551}', '\u{258e}', '\u{2590}'];

/// What a URL of a login looks like.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    prefixes: Vec<String>,
    pattern: Option<Regex>,
}

impl Wanted {
    /// URLs that start with one of `prefixes` and match `pattern`.
    pub fn new(prefixes: &[String], pattern: Option<&str>) -> Self {
        let prefixes = prefixes.iter().filter(|prefix| !prefix.is_empty()).cloned().collect();
        Self { prefixes, pattern: pattern.and_then(|pattern| Regex::new(pattern).ok()) }
    }

    /// Whether a URL that came through the shim is the login's.
    pub fn is_login(&self, url: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(url))
    }

    /// The last such URL at the start of a word in `text`, the contents of a screen of so many columns: what a tool shows again
    /// stands below what it showed first.
    pub fn find(&self, text: &str, columns: usize) -> Option<String> {
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let mut urls = lines.iter().enumerate().rev().flat_map(|(at, line)| {
            self.starts(line).into_iter().rev().map(move |start| (at, start)).collect::<Vec<_>>()
        });
        urls.find_map(|(at, start)| Some(join(&lines[at..], start, columns)).filter(|url| self.is_login(url)))
    }

    fn starts(&self, line: &str) -> Vec<usize> {
        let places = self.prefixes.iter().flat_map(|prefix| line.match_indices(prefix.as_str()));
        let mut starts: Vec<usize> = places.map(|(at, _)| at).filter(|at| starts_a_word(line, *at)).collect();
        starts.sort_unstable();
        starts
    }
}

fn starts_a_word(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '/' | '.' | '=' | '%' | '-' | '_'))
}

/// The URL from `start` of the first line, with what stands of it in the lines below, without the punctuation of the sentence
/// around it.
fn join(lines: &[&str], start: usize, columns: usize) -> String {
    let first = &lines[0][start..];
    let mut url = word(first).to_owned();
    let mut goes_on = is_border(&first[url.len()..]);
    for pair in lines.windows(2) {
        let rest = pair[1].trim_start_matches(|c: char| c.is_whitespace() || BORDERS.contains(&c));
        let piece = word(rest);
        if !goes_on || piece.is_empty() || !is_border(&rest[piece.len()..]) || !is_full(pair[0], piece, columns) {
            break;
        }
        url.push_str(piece);
        goes_on = true;
    }
    url.trim_end_matches(['.', ',', ';', ':', '!', ')', ']']).to_owned()
}

/// Whether `line` goes on in `piece`, the next one: it ends at an edge. Of the edge that is only usual, the piece must look
/// like a part of a URL as well.
fn is_full(line: &str, piece: &str, columns: usize) -> bool {
    let len = line.chars().count();
    // A line that the terminal wrapped counts from its last row.
    let edge = len.saturating_sub(1) % columns.max(1) + 1;
    let ends_at = |width: usize| edge <= width && width - edge <= EDGE;
    let is_part = piece.contains(|c: char| c.is_ascii_digit() || "%&=_-+/".contains(c));
    ends_at(columns) || ends_at(USUAL_COLUMNS) && is_part
}

/// Up to the first character that no URL holds (RFC 3986).
fn word(text: &str) -> &str {
    let ends =
        |c: char| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '\'');
    &text[..text.find(ends).unwrap_or(text.len())]
}

/// Nothing but the frame.
fn is_border(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || BORDERS.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_provider_s_url_in_what_tools_print() {
        let prefixes = vec!["https://claude.com/".to_owned(), "http://192.168.100.1:4080/authorize".to_owned()];
        for (text, expected) in [
            (
                "If the browser didn't open, visit: https://claude.com/cai?code=true&state=a-b_c\nPaste code",
                Some("https://claude.com/cai?code=true&state=a-b_c"),
            ),
            ("(https://claude.com/x).", Some("https://claude.com/x")),
            ("\u{2502} https://claude.com/x \u{2502}", Some("https://claude.com/x")),
            (
                "\"http://192.168.100.1:4080/authorize?r=http%3A%2F%2F127.0.0.1\"",
                Some("http://192.168.100.1:4080/authorize?r=http%3A%2F%2F127.0.0.1"),
            ),
            ("docs at https://docs.example/ first, then https://claude.com/y", Some("https://claude.com/y")),
            ("https://evil.example/?u=https://claude.com/x", None),
            ("nothing here", None),
        ] {
            assert_eq!(Wanted::new(&prefixes, None).find(text, 500).as_deref(), expected, "{text}");
        }
        assert_eq!(Wanted::new(&[String::new()], None).find("x", 500), None);
    }

    #[test]
    fn only_the_url_that_matches_counts() {
        let wanted = Wanted::new(&["https://idp/".to_owned()], Some("[?&]state="));
        let text = "see https://idp/help or https://idp/auth?state=x.";
        assert_eq!(wanted.find(text, 500).as_deref(), Some("https://idp/auth?state=x"));
        assert!(wanted.is_login("https://other/?state=1") && !wanted.is_login("https://idp/docs"));
    }

    #[test]
    fn a_word_below_a_url_is_no_part_of_it() {
        let wanted = Wanted::new(&["https://i/".to_owned()], None);
        let url = format!("https://i/{}", "a".repeat(69));
        for below in ["Waiting...", "Paste code here", ""] {
            assert_eq!(wanted.find(&format!("{url}\n{below}"), 500).as_deref(), Some(url.as_str()), "{below}");
        }
        // A page of its own is the newer one.
        assert_eq!(wanted.find(&format!("{url}\nhttps://i/other x"), 500).as_deref(), Some("https://i/other"));
        let short = "https://i/abc";
        assert_eq!(wanted.find(&format!("{short}\nx=1"), 500).as_deref(), Some(short));
    }

    proptest::proptest! {
        #[test]
        fn a_url_is_whole_however_wide_the_terminal_and_whoever_wrapped_it(
            tail in "[a-zA-Z0-9%&=_/+~.-]{1,900}[a-z0-9]",
            columns in 24usize..=500,
            indent in 0usize..=2,
            framed: bool,
            by_tool: bool,
        ) {
            let url = format!("https://i/{tail}");
            let frame = if framed { "\u{2502}" } else { "" };
            let room = columns - 2 * indent - 2 * frame.chars().count();
            let written = if by_tool {
                let pieces: Vec<char> = url.chars().collect();
                pieces.chunks(room).map(|piece| {
                    let piece: String = piece.iter().collect();
                    let pad = if framed { " ".repeat(room - piece.len() + indent) } else { String::new() };
                    format!("{frame}{}{piece}{pad}{frame}\r\n", " ".repeat(indent))
                }).collect()
            } else {
                format!("{url}\r\n")
            };
            let mut terminal = super::super::terminal::Terminal::new(u16::try_from(columns).unwrap());
            terminal.write(format!("visit:\r\n{written}\r\nPaste code here if prompted >").as_bytes());
            let wanted = Wanted::new(&["https://i/".to_owned()], None);
            proptest::prop_assert_eq!(terminal.url(&wanted), Some(airlock_protocol::Sensitive::new(url)));
        }
    }
}
