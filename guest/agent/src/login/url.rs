//! The URL of a login in the text of a screen. Pure.

/// The first URL in `text` that starts with one of `prefixes` at the start of a word.
pub fn find<'a>(text: &'a str, prefixes: &[String]) -> Option<&'a str> {
    let mut starts: Vec<usize> = prefixes
        .iter()
        .filter(|prefix| !prefix.is_empty())
        .flat_map(|prefix| text.match_indices(prefix.as_str()))
        .map(|(at, _)| at)
        .collect();
    starts.sort_unstable();
    starts.into_iter().filter(|at| starts_a_word(text, *at)).map(|at| url_at(text, at)).next()
}

fn starts_a_word(text: &str, at: usize) -> bool {
    text[..at]
        .chars()
        .next_back()
        .is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '/' | '.' | '=' | '%' | '-' | '_'))
}

/// Up to the first character that no URL holds (RFC 3986), without the punctuation of the sentence around it.
fn url_at(text: &str, at: usize) -> &str {
    let ends =
        |c: char| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '\'');
    let rest = &text[at..];
    let url = &rest[..rest.find(ends).unwrap_or(rest.len())];
    url.trim_end_matches(['.', ',', ';', ':', '!', ')', ']'])
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
            assert_eq!(find(text, &prefixes), expected, "{text}");
        }
        assert_eq!(find("x", &[String::new()]), None);
    }
}
