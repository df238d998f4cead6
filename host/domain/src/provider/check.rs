//! Whether the values of a provider's file can be used: every pattern compiles, every path stays below the home directory.

use airlock_protocol::login::Flow;
use regex_lite::Regex;

use super::schema::{CredentialSpec, Login, Provider, TerminalKind, Versions};

/// The first value that cannot be used: field, value, what it must be.
pub(super) type Refusal = (String, String, String);

/// The largest file that is placed, in bytes: it must fit into a frame with the rest.
const MAX_PLACED: usize = 64 * 1024;

type Checked = Result<(), Refusal>;

pub(super) fn provider(provider: &Provider) -> Checked {
    let id_ok = !provider.id.is_empty()
        && provider.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    need(id_ok, "id", &provider.id, "lower-case letters, digits and _")?;
    need(!provider.name.trim().is_empty(), "name", &provider.name, "a name for people")?;
    need(!provider.image.is_empty(), "image", &provider.image, "the name of a golden image")?;
    for domain in &provider.egress {
        let plain = domain.strip_prefix("*.").unwrap_or(domain);
        let is_name = plain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'{' | b'}' | b'_'));
        need(is_name && !plain.is_empty(), "egress", domain, "a host name, or *. and a host name")?;
    }
    if let Some(given) = &provider.versions {
        versions(given)?;
    }
    provider.login.as_ref().map_or(Ok(()), login)
}

fn versions(versions: &Versions) -> Checked {
    let range = semver::VersionReq::parse(&versions.range)
        .map_err(|error| refusal("versions.range", &versions.range, &format!("a version range ({error})")))?;
    for text in &versions.checked {
        let version = semver::Version::parse(text)
            .map_err(|error| refusal("versions.checked", text, &format!("a version ({error})")))?;
        need(range.matches(&version), "versions.checked", text, "a version inside versions.range")?;
    }
    Ok(())
}

fn login(login: &Login) -> Checked {
    command("login.command", &login.command)?;
    need(!login.user.is_empty(), "login.user", &login.user, "a user of the guest")?;
    need((1..=3600).contains(&login.url_timeout_s), "login.url_timeout_s", login.url_timeout_s, "1 to 3600 seconds")?;
    need((20..=4000).contains(&login.columns), "login.columns", login.columns, "20 to 4000")?;
    for name in login.env.keys() {
        need(is_variable(name), "login.env", name, "the name of a variable")?;
    }
    for name in &login.unset_env {
        need(is_variable(name), "login.unset_env", name, "the name of a variable")?;
    }
    flows(login)?;
    for text in [&login.url_pattern, &login.user_code_pattern].into_iter().flatten() {
        let field =
            if Some(text) == login.url_pattern.as_ref() { "login.url_pattern" } else { "login.user_code_pattern" };
        pattern(field, text)?;
    }
    prompts(login)?;
    for rule in &login.outcomes {
        pattern("login.outcomes.pattern", &rule.pattern)?;
    }
    callback(login)?;
    for file in &login.files {
        need(is_below_home(&file.path), "login.files.path", &file.path, BELOW_HOME)?;
        need(mode(&file.mode).is_some(), "login.files.mode", &file.mode, "permission bits in octal, such as 0600")?;
        let len = file.content.len();
        need(len <= MAX_PLACED, "login.files.content", format!("{len} bytes"), "at most 65536 bytes")?;
    }
    if let Some(status) = &login.status_command {
        command("login.status_command", &status.args)?;
        if let Some(output) = &status.output {
            pattern("login.status_command.output", output)?;
        }
    }
    need(!login.credentials.is_empty(), "login.credentials", "[]", "at least one file")?;
    let only_optional = login.credentials.iter().all(|file| file.optional);
    need(!only_optional, "login.credentials.optional", "true", "false for at least one file")?;
    login.credentials.iter().try_for_each(credential)
}

fn flows(login: &Login) -> Checked {
    need(!login.flows.is_empty(), "login.flows", "[]", "at least one of device_code, paste_code, loopback")?;
    for (at, flow) in login.flows.iter().enumerate() {
        need(!login.flows[..at].contains(flow), "login.flows", flow, "named once")?;
    }
    for (flow, part) in &login.flow {
        let field = format!("login.flow.{flow}");
        need(login.flows.contains(flow), &field, flow, "one of login.flows")?;
        if let Some(text) = &part.url_pattern {
            pattern(&format!("{field}.url_pattern"), text)?;
        }
    }
    if login.flows.contains(&Flow::DeviceCode) {
        let given = login.user_code_pattern.is_some();
        need(given, "login.user_code_pattern", "nothing", "given, since login.flows has device_code")?;
    }
    if login.flows.contains(&Flow::PasteCode) {
        let asked = login.prompts.iter().any(|prompt| prompt.ask.is_some() && applies(&prompt.flows, Flow::PasteCode));
        need(asked, "login.prompts", "nothing with ask", "one with ask = \"code\", since login.flows has paste_code")?;
    }
    Ok(())
}

fn prompts(login: &Login) -> Checked {
    for prompt in &login.prompts {
        pattern("login.prompts.pattern", &prompt.pattern)?;
        let one = prompt.answer.is_some() != prompt.ask.is_some();
        need(one, "login.prompts.answer", &prompt.pattern, "a pattern with either answer or ask = \"code\"")?;
    }
    Ok(())
}

fn callback(login: &Login) -> Checked {
    let Some(callback) = &login.callback else { return Ok(()) };
    need(
        callback.never_probe,
        "login.callback.never_probe",
        "false",
        "true: Airlock never connects to a callback port",
    )?;
    need(callback.port != Some(0), "login.callback.port", "0", "a port")?;
    if let Some(name) = &callback.port_env {
        need(is_variable(name), "login.callback.port_env", name, "the name of a variable")?;
        need(callback.port.is_some(), "login.callback.port", "nothing", "given, since port_env chooses it")?;
    }
    if let Some(path) = &callback.path {
        need(path.starts_with('/'), "login.callback.path", path, "a path from /")?;
    }
    Ok(())
}

fn credential(file: &CredentialSpec) -> Checked {
    need(is_below_home(&file.path), "login.credentials.path", &file.path, BELOW_HOME)?;
    let pointer = |field: &str, text: &String| need(text.starts_with('/'), field, text, "a JSON pointer (RFC 6901)");
    file.required.iter().try_for_each(|text| pointer("login.credentials.required", text))?;
    file.schema.keys().try_for_each(|text| pointer("login.credentials.schema", text))?;
    if let Some(at) = &file.expires {
        pointer("login.credentials.expires.pointer", &at.pointer)?;
    }
    if let Some(at) = &file.fresh {
        pointer("login.credentials.fresh.pointer", &at.pointer)?;
    }
    let has_pointers =
        !file.required.is_empty() || !file.schema.is_empty() || file.expires.is_some() || file.fresh.is_some();
    let is_text = file.format == airlock_protocol::login::FileFormat::Text;
    need(!(is_text && has_pointers), "login.credentials.format", "text", "json, toml or yaml, since pointers are given")
}

const BELOW_HOME: &str = "a plain path below the home directory";

/// Whether a rule that names `flows` is for `flow`.
pub(super) fn applies(flows: &[Flow], flow: Flow) -> bool {
    flows.is_empty() || flows.contains(&flow)
}

/// Permission bits.
pub(super) fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o7777)
}

/// The terminal of a login in one flow.
pub(super) fn terminal(kind: TerminalKind, columns: u16) -> airlock_protocol::login::Terminal {
    match kind {
        TerminalKind::Pty => airlock_protocol::login::Terminal::Pty { columns },
        TerminalKind::Pipes => airlock_protocol::login::Terminal::Pipes,
    }
}

fn is_below_home(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn command(field: &str, words: &[String]) -> Checked {
    let ok = words.first().is_some_and(|program| !program.is_empty()) && words.iter().all(|word| !word.contains('\0'));
    need(ok, field, format!("{words:?}"), "a program and its arguments")
}

fn pattern(field: &str, text: &str) -> Checked {
    let compiled = Regex::new(text)
        .map_err(|error| refusal(field, text, &format!("a regular expression of regex-lite ({error})")))?;
    need(!compiled.is_match(""), field, text, "a pattern that does not match nothing")
}

fn need(ok: bool, field: &str, value: impl ToString, expected: &str) -> Checked {
    if ok { Ok(()) } else { Err(refusal(field, &value.to_string(), expected)) }
}

fn refusal(field: &str, value: &str, expected: &str) -> Refusal {
    (field.to_owned(), value.to_owned(), expected.to_owned())
}
