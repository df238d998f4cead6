//! Judgements that a pattern cannot make: whether characters look like a secret, whether a line belongs to the one before it.

/// A run of token characters this long may be a token.
pub const RUN: usize = 20;

/// Names of fields and variables whose value is always a secret, as they end; in lower case without `_` and `-`.
const SECRET_NAMES: [&str; 19] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "privatekey",
    "accesskey",
    "sessionkey",
    "cookie",
    "authorization",
    "credential",
    "credentials",
    "codeverifier",
    "usercode",
    "devicecode",
    "authcode",
    "ticket",
    "jwt",
];
/// Names whose value is a secret when it looks like one: `code=exited` and `state: running` are not.
const DOUBTFUL_NAMES: [&str; 7] = ["code", "state", "nonce", "pin", "otp", "assertion", "signature"];

/// Whether a JSON field must not be shown.
pub fn hides_field(name: &str, value: &str) -> bool {
    let name: String = name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect();
    SECRET_NAMES.iter().any(|secret| name.ends_with(secret))
        || (DOUBTFUL_NAMES.contains(&name.as_str()) && is_code(value.as_bytes()))
}

/// Whether the value of a doubtful name is a code: six characters or more with digits among letters, an authorization
/// server's `WDJB-MJHT`, a one-time number.
pub fn is_code(value: &[u8]) -> bool {
    if value.len() < 6 || value.starts_with(b"0x") || is_constant(value) {
        return false;
    }
    if value.iter().all(u8::is_ascii_digit) {
        return value.len() <= 8;
    }
    value.iter().any(u8::is_ascii_digit) || is_user_code(value)
}

/// Eight capitals or digits with a hyphen in the middle (RFC 8628 section 6.1).
pub fn is_user_code(word: &[u8]) -> bool {
    word.len() == 9
        && word
            .iter()
            .enumerate()
            .all(|(at, c)| if at == 4 { *c == b'-' } else { c.is_ascii_uppercase() || c.is_ascii_digit() })
}

/// `ERR_HTTP2_SESSION`: the name of an error.
fn is_constant(word: &[u8]) -> bool {
    word.first().is_some_and(u8::is_ascii_uppercase)
        && word.contains(&b'_')
        && word.iter().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == b'_')
}

/// Whether what follows `Bearer` or `Basic` is a credential and not an ordinary word.
pub fn is_credential(value: &[u8]) -> bool {
    value.iter().any(u8::is_ascii_digit)
        || (value.iter().skip(1).any(u8::is_ascii_uppercase) && value.iter().any(u8::is_ascii_lowercase))
        || value.len() >= RUN
}

/// Whether a run of token characters is a token. `before` is the line up to it: a digest that says so, a UUID and an address of
/// memory are no secrets. In words letters follow letters and digits stand together; in tokens digits, capitals and small letters
/// take turns.
pub fn is_token(before: &[u8], run: &[u8]) -> bool {
    if run.len() < RUN || is_number(run) || is_digest(before, run) {
        return false;
    }
    if let Some(at) = uuid_in(run) {
        return is_token(before, &run[..at]) || is_token(b"", &run[at + UUID..]);
    }
    let unbroken = |part: &[u8]| part.len() >= RUN && digit_groups(part) >= 2;
    run.split(|c| !c.is_ascii_alphanumeric()).any(unbroken) || (digit_groups(run) >= 1 && turns(run) * 4 >= run.len())
}

/// How many times digits begin.
fn digit_groups(run: &[u8]) -> usize {
    let begins = |pair: &[u8]| !pair[0].is_ascii_digit() && pair[1].is_ascii_digit();
    usize::from(run.first().is_some_and(u8::is_ascii_digit)) + run.windows(2).filter(|pair| begins(pair)).count()
}

/// Whether a run with slashes in it is base64 and not a path, whose parts are judged each for itself.
pub fn is_base64(before: &[u8], run: &[u8]) -> bool {
    let first = run.split(|c| *c == b'/').next().unwrap_or_default();
    let has = |kind: fn(&u8) -> bool| run.iter().any(kind);
    first.len() < run.len()
        && !first.is_empty()
        && !is_digest(before, first)
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && turns(run) * 5 >= run.len() * 2
}

/// How often the kind of character changes.
fn turns(run: &[u8]) -> usize {
    let kind = |c: &u8| match c {
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        b'0'..=b'9' => 3,
        _ => 0,
    };
    run.windows(2).filter(|pair| kind(&pair[0]) != 0 && kind(&pair[1]) != 0 && kind(&pair[0]) != kind(&pair[1])).count()
}

/// Length of a UUID in characters.
const UUID: usize = 36;

/// Where a UUID stands in a run by itself: ids of machines, `vm-` and `ev-` before one included.
fn uuid_in(run: &[u8]) -> Option<usize> {
    let is_uuid = |part: &[u8]| {
        part.iter()
            .enumerate()
            .all(|(at, c)| if matches!(at, 8 | 13 | 18 | 23) { *c == b'-' } else { c.is_ascii_hexdigit() })
    };
    let letter = |at: Option<usize>| at.and_then(|at| run.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let alone = |at: usize| !letter(at.checked_sub(1)) && !letter(Some(at + UUID));
    run.windows(UUID).enumerate().find(|(at, part)| alone(*at) && is_uuid(part)).map(|(at, _)| at)
}

/// `0x0000-0xffff`, and bits: `0b0011xx`.
fn is_number(run: &[u8]) -> bool {
    let bits = |part: &[u8]| part.strip_prefix(b"0b").is_some_and(|bits| bits.iter().all(|c| b"01x_".contains(c)));
    run.split(|c| *c == b'-').all(|part| part.starts_with(b"0x") || bits(part))
}

/// A hash that is named as one: `sha256:...`.
fn is_digest(before: &[u8], run: &[u8]) -> bool {
    run.iter().all(u8::is_ascii_hexdigit)
        && [&b"sha256:"[..], b"sha512:", b"sha1:"].iter().any(|name| before.ends_with(name))
}

/// The first line of a private key (RFC 7468).
pub fn begins_key(line: &[u8]) -> bool {
    contains(line, b"-----BEGIN ") && contains(line, b"PRIVATE KEY-----") && !ends_key(line)
}

/// The last one.
pub fn ends_key(line: &[u8]) -> bool {
    contains(line, b"-----END ")
}

/// Whether a line can stand inside a private key: base64, a header (`Proc-Type: 4,ENCRYPTED`), the end mark, possibly behind a
/// log's prefix.
pub fn is_key_body(line: &[u8]) -> bool {
    let last = line.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
    let base64 = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
    (!last.is_empty() && last.iter().all(base64)) || line.is_empty() || ends_key(line) || contains(line, b"4,ENCRYPTED")
}

/// Whether a URL runs to the end of the line.
pub fn ends_in_url(line: &[u8]) -> bool {
    let last = line.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
    contains(last, b"://") && last.iter().all(is_url)
}

/// How many bytes at the start of a line are the rest of a URL that a terminal broke: the first word, if it looks like a part
/// of a query or stands alone.
pub fn wrapped_rest(line: &[u8]) -> usize {
    let length = line.iter().position(|c| !is_url(c)).unwrap_or(line.len());
    let (word, after) = line.split_at(length);
    let ends = after
        .first()
        .is_none_or(|c| c.is_ascii_whitespace() || c.is_ascii_control() || matches!(c, b'"' | b'\'' | b'>' | b')'));
    let is_query = word.iter().any(|c| matches!(c, b'=' | b'&' | b'%')) || is_token(b"", word);
    if ends && !word.is_empty() && (is_query || after.is_empty()) { length } else { 0 }
}

/// Characters of a URL (RFC 3986 section 2), without the parentheses and quotes that stand around one.
fn is_url(c: &u8) -> bool {
    c.is_ascii_alphanumeric() || b"-._~:/?#@!$&*+,;=%".contains(c)
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}
