//! The rules of redaction, in the order in which they are applied to a line.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::bytes::{Captures, Regex, RegexSet};

use super::{MARK, judge};

/// What stands in for a line when the rules cannot be used.
const WITHHELD: &[u8] = b"[a line was withheld: the rules of redaction are broken]";

/// One pattern. Its group `s` is the secret, everything else stays.
pub struct Rule {
    pattern: &'static str,
    /// Whether a find is a secret, given the line before it and the find itself.
    judge: fn(&[u8], &[u8]) -> bool,
}

const ALWAYS: fn(&[u8], &[u8]) -> bool = |_, _| true;
const IF_CODE: fn(&[u8], &[u8]) -> bool = |_, value| judge::is_code(value);
const IF_CREDENTIAL: fn(&[u8], &[u8]) -> bool = |_, value| judge::is_credential(value);

/// Names whose value is a secret; the same as [`judge`]'s, as they stand in texts.
macro_rules! secret_name {
    () => {
        r"[a-z0-9_.-]*(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|private[_-]?key|access[_-]?key|session[_-]?key|cookie|authorization|credentials?|code[_-]?verifier|user[_-]?code|device[_-]?code|auth[_-]?code|ticket|jwt)"
    };
}
macro_rules! doubtful_name {
    () => {
        r"(?:code|state|nonce|pin|otp|assertion|signature)"
    };
}

/// Every rule. All patterns work on bytes, not on characters: a console holds any.
pub const RULES: &[Rule] = &[
    // header
    Rule {
        pattern: r#"(?i-u)\b(?:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token) {0,2}: {0,2}(?P<s>[^"'\r\n]+)"#,
        judge: ALWAYS,
    },
    // secret field
    Rule { pattern: concat!(r#"(?i-u)""#, secret_name!(), r#""\s*[:=]\s*"(?P<s>(?:[^"\\]|\\.)+)"#), judge: ALWAYS },
    // secret field in a quoted text
    Rule {
        pattern: concat!(r#"(?i-u)\\+""#, secret_name!(), r#"\\+"\s*[:=]\s*\\+"(?P<s>(?:[^"\\]|\\+[^"\\])+)"#),
        judge: ALWAYS,
    },
    // doubtful field
    Rule { pattern: concat!(r#"(?i-u)""#, doubtful_name!(), r#"\\*"\s*[:=]\s*\\*"(?P<s>[^"\\]+)"#), judge: IF_CODE },
    // secret variable
    Rule { pattern: concat!(r#"(?i-u)\b"#, secret_name!(), r#"=["']?(?P<s>[^\s"'&;,\\]+)"#), judge: ALWAYS },
    // secret option
    Rule {
        pattern: concat!(r#"(?i-u)\s--?"#, secret_name!(), r#"\s+["']?(?P<s>[^\s"'-][^\s"']*)"#),
        judge: IF_CREDENTIAL,
    },
    // password
    Rule {
        pattern: r#"(?i-u)(?:^|[\s"'(])(?:password|passwd|passphrase|api key|api_key|client_secret)\s*:\s*["']?(?P<s>[^\s"']+)"#,
        judge: ALWAYS,
    },
    // named token
    Rule { pattern: r#"(?i-u)\btoken\s*:\s*["']?(?P<s>[^\s"']{8,})"#, judge: IF_CREDENTIAL },
    // query
    Rule {
        pattern: concat!(
            r#"(?i-u)[?&\#;](?:"#,
            secret_name!(),
            "|",
            doubtful_name!(),
            r#"|code[_-]?challenge|client[_-]?id)=(?P<s>[^&\s"'`\#<>()\x00-\x1f]+)"#
        ),
        judge: ALWAYS,
    },
    // doubtful variable
    Rule {
        pattern: concat!(r#"(?i-u)\b"#, doubtful_name!(), r#"\s*[=:]\s*["']?(?P<s>[^\s"'&;,()\[\]<>\\]+)"#),
        judge: IF_CODE,
    },
    // scheme
    Rule { pattern: r"(?i-u)\b(?:bearer|basic)\s+(?P<s>[A-Za-z0-9._~+/=-]{6,})", judge: IF_CREDENTIAL },
    // URL with a user
    Rule { pattern: r"(?i-u)[a-z][a-z0-9+.-]*://(?P<s>[^/\s@]+)@", judge: ALWAYS },
    // URL with a query
    Rule {
        pattern: r#"(?i-u)[a-z][a-z0-9+.-]*://[^\s"'<>?\#\x00-\x1f]*[?\#](?P<s>[^\s"'`<>()\x00-\x1f]+)"#,
        judge: ALWAYS,
    },
    // known token
    Rule {
        pattern: concat!(
            r"(?-u)\b(?P<s>sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}",
            r"|ya29\.[A-Za-z0-9._-]{10,}|1//0[A-Za-z0-9_-]{10,}|4/[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{30,}|glpat-[A-Za-z0-9_-]{16,}",
            r"|A(?:KIA|SIA)[A-Z0-9]{16}|eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?|airlock_[A-Za-z0-9_-]{40,})",
        ),
        judge: ALWAYS,
    },
    // device code
    Rule {
        pattern: r"(?-u)(?i:code).*?\b(?P<s>[A-Z0-9]{4}-[A-Z0-9]{4})\b",
        judge: |_, word| judge::is_user_code(word) && word.iter().any(u8::is_ascii_uppercase),
    },
    // Base64 that has slashes; a path has words between them
    Rule { pattern: r"(?-u)(?P<s>[A-Za-z0-9+/]{40,}={0,2})", judge: judge::is_base64 },
    // token
    Rule { pattern: r"(?-u)(?P<s>[A-Za-z0-9_+~-]{20,}={0,2})", judge: judge::is_token },
];

struct Compiled {
    any: RegexSet,
    rules: Vec<(Regex, &'static Rule)>,
}

/// None only if a pattern is wrong, which a test excludes.
static COMPILED: LazyLock<Option<Compiled>> = LazyLock::new(|| {
    let any = RegexSet::new(RULES.iter().map(|rule| rule.pattern)).ok()?;
    let rules = RULES.iter().map(|rule| Some((Regex::new(rule.pattern).ok()?, rule))).collect::<Option<_>>()?;
    Some(Compiled { any, rules })
});

/// A line without its secrets.
pub fn apply(line: &[u8]) -> Cow<'_, [u8]> {
    let Some(compiled) = &*COMPILED else { return Cow::Borrowed(WITHHELD) };
    let mut clean = Cow::Borrowed(line);
    for index in compiled.any.matches(line) {
        if let Some((pattern, rule)) = compiled.rules.get(index)
            && let Cow::Owned(changed) =
                pattern.replace_all(&clean, |found: &Captures<'_>| replace(&clean, rule, found))
        {
            clean = Cow::Owned(changed);
        }
    }
    clean
}

fn replace(line: &[u8], rule: &Rule, found: &Captures<'_>) -> Vec<u8> {
    let (Some(whole), Some(secret)) = (found.get(0), found.name("s")) else { return MARK.into() };
    let before = line.get(..secret.start()).unwrap_or_default();
    if !(rule.judge)(before, secret.as_bytes()) {
        return whole.as_bytes().to_vec();
    }
    let head = line.get(whole.start()..secret.start()).unwrap_or_default();
    let tail = line.get(secret.end()..whole.end()).unwrap_or_default();
    [head, MARK.as_bytes(), tail].concat()
}
