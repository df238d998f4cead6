//! What stands in a credential file, whatever its format, and when it says that it was made and ends. Pure.
//!
//! No error quotes the content: it is a secret.

use airlock_protocol::login::{CredentialFile, FieldType, FileFormat, InstantAt, InstantUnit};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It is not what the provider's file says.
    Malformed(String),
    /// It says itself that it is older than the login, or over.
    Stale(String),
}

/// Whether `text` is what `wanted` says; returns when the credential ends, if it says so. Times are milliseconds since the Unix
/// epoch.
pub fn check(text: &str, wanted: &CredentialFile, since_ms: u64, now_ms: u64) -> Result<Option<u64>, Wrong> {
    let malformed = |why: String| Err(Wrong::Malformed(why));
    let value = match parse(text, wanted.format) {
        Ok(value) => value,
        Err(why) => return malformed(why),
    };
    for pointer in &wanted.required {
        if !is_of(value.pointer(pointer), FieldType::String) {
            return malformed(format!("has no text at {pointer}"));
        }
    }
    for (pointer, kind) in &wanted.schema {
        if !is_of(value.pointer(pointer), *kind) {
            return malformed(format!("has no {} at {pointer}", name(*kind)));
        }
    }
    if let Some(at) = &wanted.fresh {
        match instant(&value, at, "iat") {
            Some(made) if made < whole_seconds(since_ms, at.unit) => {
                return Err(Wrong::Stale(format!("{} is older than the login", at.pointer)));
            }
            Some(_) => {}
            None => return malformed(format!("has no time at {}", at.pointer)),
        }
    }
    let Some(at) = &wanted.expires else { return Ok(None) };
    match instant(&value, at, "exp") {
        Some(ends) if ends <= now_ms => Err(Wrong::Stale(format!("{} is over", at.pointer))),
        Some(ends) => Ok(Some(ends)),
        None => malformed(format!("has no time at {}", at.pointer)),
    }
}

/// Times in whole seconds are cut: what was made in the second of the login is not older than it.
fn whole_seconds(ms: u64, unit: InstantUnit) -> u64 {
    if unit == InstantUnit::Ms { ms } else { ms / 1000 * 1000 }
}

fn parse(text: &str, format: FileFormat) -> Result<Value, String> {
    match format {
        FileFormat::Json => parse_json(text),
        FileFormat::Toml => toml::from_str::<toml::Table>(text)
            .ok()
            .and_then(|table| serde_json::to_value(table).ok())
            .ok_or_else(|| "is not TOML".to_owned()),
        FileFormat::Yaml => YamlLoader::load_from_str(text)
            .ok()
            .and_then(|documents| documents.first().map(|document| from_yaml(document, 0)))
            .ok_or_else(|| "is not YAML".to_owned()),
        FileFormat::Text if text.trim().is_empty() => Err("is empty".to_owned()),
        FileFormat::Text => Ok(Value::Null),
    }
}

/// JSON; tools put lines of comment around theirs. No string goes over a line end, so no part of one begins a line.
fn parse_json(text: &str) -> Result<Value, String> {
    let blank = |line: &str| if line.trim_start().starts_with("//") { String::new() } else { line.to_owned() };
    let plain = airlock_protocol::Sensitive::new(text.lines().map(blank).collect::<Vec<_>>().join("\n"));
    // The parser's own error text could quote the content.
    serde_json::from_str(plain.expose())
        .map_err(|error| format!("is not JSON at line {} column {}", error.line(), error.column()))
}

/// YAML as JSON; what JSON cannot say (keys that are no scalars, too deep) is left out.
fn from_yaml(yaml: &Yaml, depth: u32) -> Value {
    let key = |yaml: &Yaml| match yaml {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    match yaml {
        _ if depth > 32 => Value::Null,
        Yaml::String(text) => Value::String(text.clone()),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Real(_) => yaml.as_f64().map_or(Value::Null, Into::into),
        Yaml::Boolean(yes) => (*yes).into(),
        Yaml::Array(list) => list.iter().map(|item| from_yaml(item, depth + 1)).collect(),
        Yaml::Hash(map) => {
            let pairs = map.iter().filter_map(|(name, value)| Some((key(name)?, from_yaml(value, depth + 1))));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    }
}

fn is_of(value: Option<&Value>, kind: FieldType) -> bool {
    value.is_some_and(|value| match kind {
        FieldType::String => value.as_str().is_some_and(|text| !text.is_empty()),
        FieldType::Number => value.is_number(),
        FieldType::Boolean => value.is_boolean(),
        FieldType::Array => value.as_array().is_some_and(|list| !list.is_empty()),
        FieldType::Object => value.as_object().is_some_and(|map| !map.is_empty()),
    })
}

fn name(kind: FieldType) -> &'static str {
    match kind {
        FieldType::String => "text",
        FieldType::Number => "number",
        FieldType::Boolean => "true or false",
        FieldType::Array => "list",
        FieldType::Object => "object",
    }
}

/// Milliseconds since the Unix epoch; of a token its `claim`.
fn instant(value: &Value, at: &InstantAt, claim: &str) -> Option<u64> {
    let value = value.pointer(&at.pointer)?;
    match at.unit {
        InstantUnit::S => number(value)?.checked_mul(1000),
        InstantUnit::Ms => number(value),
        InstantUnit::Rfc3339 => rfc3339(value.as_str()?),
        InstantUnit::Jwt => {
            let payload = URL_SAFE_NO_PAD.decode(value.as_str()?.split('.').nth(1)?.trim_end_matches('=')).ok()?;
            number(serde_json::from_slice::<Value>(&payload).ok()?.get(claim)?)?.checked_mul(1000)
        }
    }
}

/// A whole number, or one with a fraction, which is cut.
fn number(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    let cut = |float: f64| (0.0..9e15).contains(&float).then_some(float as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(cut))
}

/// `2026-11-23T10:15:30.123Z`, or with an offset (RFC 3339).
fn rfc3339(text: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    let separated = text.get(4..5)? == "-" && text.get(13..14)? == ":" && (1..=12).contains(&month);
    let rest = text.get(19..)?;
    let fraction_len = rest.strip_prefix('.').map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = rest.split_at(fraction_len);
    let ms =
        if fraction.is_empty() { 0 } else { format!("{:0<3}", fraction.get(1..)?).get(..3)?.parse::<i64>().ok()? };
    let offset_min = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            sign * (zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?)
        }
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + (minute - offset_min) * 60 + second;
    separated.then(|| u64::try_from(seconds * 1000 + ms).ok())?
}

/// Days since the Unix epoch of a date of the Gregorian calendar, counted in years from March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let years = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (years.div_euclid(400), years.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(format: FileFormat, required: &[&str]) -> CredentialFile {
        let required = required.iter().map(|pointer| (*pointer).to_owned()).collect();
        CredentialFile { path: "c".into(), format, required, ..CredentialFile::default() }
    }

    fn at(pointer: &str, unit: InstantUnit) -> Option<InstantAt> {
        Some(InstantAt { pointer: pointer.into(), unit })
    }

    #[test]
    fn every_format_is_looked_into_by_pointer() {
        let gh = "github.com:\n    users:\n        alice:\n            oauth_token: gho_1\n    oauth_token: gho_1\n    user: alice\n";
        let copilot = "// managed automatically\n  // do not edit\n{\"a\": {\"b\": \"x//y\"}}";
        for (format, text, pointer) in [
            (FileFormat::Yaml, gh, "/github.com/oauth_token"),
            (FileFormat::Json, copilot, "/a/b"),
            (FileFormat::Toml, "[a]\nb = \"t\"", "/a/b"),
        ] {
            assert_eq!(check(text, &wanted(format, &[pointer]), 0, 0), Ok(None), "{format:?}");
            let missing = check(text, &wanted(format, &["/a/none"]), 0, 0);
            assert_eq!(missing, Err(Wrong::Malformed("has no text at /a/none".into())));
        }
        assert_eq!(check("x", &wanted(FileFormat::Text, &[]), 0, 0), Ok(None));
        for (format, text) in [
            (FileFormat::Text, " \n"),
            (FileFormat::Toml, "s3cret"),
            (FileFormat::Yaml, "a: [s3cret"),
            (FileFormat::Json, "s3cret"),
        ] {
            let Err(Wrong::Malformed(why)) = check(text, &wanted(format, &[]), 0, 0) else { panic!("{format:?}") };
            assert!(!why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn values_have_the_type_of_the_schema() {
        let text = r#"{"n": 1, "s": "x", "b": false, "l": [1], "o": {"k": 1}, "e": "", "el": [], "eo": {}}"#;
        for (pointer, kind, ok) in [
            ("/n", FieldType::Number, true),
            ("/s", FieldType::String, true),
            ("/b", FieldType::Boolean, true),
            ("/l", FieldType::Array, true),
            ("/o", FieldType::Object, true),
            ("/s", FieldType::Number, false),
            ("/e", FieldType::String, false),
            ("/el", FieldType::Array, false),
            ("/eo", FieldType::Object, false),
        ] {
            let mut wanted = wanted(FileFormat::Json, &[]);
            wanted.schema.insert(pointer.into(), kind);
            assert_eq!(check(text, &wanted, 0, 0).is_ok(), ok, "{pointer} {kind:?}");
        }
    }

    #[test]
    fn instants_are_read_in_every_unit() {
        let jwt = format!("h.{}.s", URL_SAFE_NO_PAD.encode(r#"{"exp":1763893530,"iat":1}"#));
        let text = format!(
            r#"{{"s":1763893530,"f":1763893530.9,"ms":1763893530123,"z":"2025-11-23T10:25:30.123456Z","o":"2025-11-23T12:25:30+02:00","j":"{jwt}"}}"#
        );
        for (pointer, unit, expected) in [
            ("/s", InstantUnit::S, 1_763_893_530_000),
            ("/f", InstantUnit::S, 1_763_893_530_000),
            ("/ms", InstantUnit::Ms, 1_763_893_530_123),
            ("/z", InstantUnit::Rfc3339, 1_763_893_530_123),
            ("/o", InstantUnit::Rfc3339, 1_763_893_530_000),
            ("/j", InstantUnit::Jwt, 1_763_893_530_000),
        ] {
            let expires = CredentialFile { expires: at(pointer, unit), ..wanted(FileFormat::Json, &[]) };
            assert_eq!(check(&text, &expires, 0, 5), Ok(Some(expected)), "{pointer}");
            let over = check(&text, &expires, 0, expected);
            assert_eq!(over, Err(Wrong::Stale(format!("{pointer} is over"))));
        }
        for pointer in ["/none", "/s"] {
            let expires =
                CredentialFile { expires: at(pointer, InstantUnit::Rfc3339), ..wanted(FileFormat::Json, &[]) };
            let expected = format!("has no time at {pointer}");
            assert_eq!(check(&text, &expires, 0, 5), Err(Wrong::Malformed(expected)));
        }
    }

    #[test]
    fn what_says_that_it_is_older_than_the_login_is_stale() {
        let fresh = CredentialFile { fresh: at("/t", InstantUnit::Rfc3339), ..wanted(FileFormat::Json, &[]) };
        let check = |text: &str, since| check(text, &fresh, since, 0);
        let text = r#"{"t":"1970-01-01T00:01:40Z"}"#;
        assert_eq!(check(text, 100_999), Ok(None), "of the same second");
        assert_eq!(check(text, 101_000), Err(Wrong::Stale("/t is older than the login".into())));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799_000)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400_000)),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01", None),
            ("yesterday, all my troubles", None),
        ] {
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }
}
