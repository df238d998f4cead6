//! Text that may hold secrets, made fit for a console, a log or an error.
//!
//! Tools print login URLs, codes and tokens in the middle of ordinary words. What is kept are words; URLs are cut to
//! `https://[url]`, and long tokens become `[token]`.

/// A run of token characters this long is no word of a message.
const TOKEN: usize = 20;

/// `text` without URLs and without anything that looks like a token.
pub fn redact(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(redact_word).collect()
}

fn redact_word(word: &str) -> String {
    let bare = word.trim_end();
    let space = word.get(bare.len()..).unwrap_or_default();
    if let Some(at) = bare.find("://") {
        // What stands before the scheme may be a character of several bytes: a quotation mark, say.
        let before = bare[..at].char_indices().rfind(|(_, c)| !c.is_ascii_alphanumeric());
        let scheme = before.map_or(0, |(last, c)| last + c.len_utf8());
        return format!("{}://[url]{space}", redact_tokens(&bare[..scheme]) + &bare[scheme..at]);
    }
    redact_tokens(bare) + space
}

/// Replaces each long run of token characters. A path keeps its separators, so it stays readable.
fn redact_tokens(word: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '~' | '%' | '#');
    let mut out = String::new();
    let mut run = String::new();
    for c in word.chars().map(Some).chain([None]) {
        match c {
            Some(c) if is_token(c) => run.push(c),
            other => {
                out.push_str(if run.len() >= TOKEN { "[token]" } else { &run });
                run.clear();
                out.extend(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_words_and_hides_secrets() {
        for (text, expected) in [
            ("visit: https://idp.example/authorize?state=abc&code=1 now\n", "visit: https://[url] now\n"),
            ("open(http://127.0.0.1:4080/callback?code=x)", "open(http://[url]"),
            ("token=abcd1234-EFGH5678_ijkl saved", "token=[token] saved"),
            ("cannot open /usr/lib/firefox-esr/browser: ENOENT", "cannot open /usr/lib/firefox-esr/browser: ENOENT"),
            ("Invalid code", "Invalid code"),
            ("see \u{201c}https://idp.example/a?code=1\u{201d}", "see \u{201c}https://[url]"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(before in "[a-z =:(]{0,20}", secret in "[A-Za-z0-9_-]{20,60}", after in "[ )][a-z ]{0,20}") {
            let plain = redact(&format!("{before}{secret}{after}"));
            let in_url = redact(&format!("{before} https://x/?code={secret}{after}"));
            prop_assert!(!plain.contains(&secret) && !in_url.contains(&secret));
        }
    }
}
