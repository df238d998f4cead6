//! What is printed: results on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::args::Command;
use crate::failure::Failure;

/// Log on stderr. The daemon logs what it does, clients only what is wrong; `AIRLOCK_LOG` overrides, `AIRLOCK_LOG_FORMAT=json`
/// gives one object per line.
pub fn init_log(command: &Command) {
    let default = if matches!(command, Command::Serve(_) | Command::DemoIdp(_)) { "info,sqlx=warn" } else { "warn" };
    let filter = EnvFilter::try_from_env("AIRLOCK_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber is impossible here: this runs once, first.
    let _ = if std::env::var("AIRLOCK_LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().try_init()
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
}

/// One line on stdout. A reader that went away (`| head`) is no error of ours.
pub fn line(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
}

/// Something that went wrong and ends nothing, on stderr, with what to do about it.
pub fn warn(text: &str, remedy: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {}\nremedy: {remedy}", printable(text));
}

/// One JSON object on one line.
pub fn json_line(value: &impl Serialize) {
    line(serde_json::to_string(value).unwrap_or_default());
}

/// `value` as JSON, or what `human` prints.
pub fn result(json: bool, value: &impl Serialize, human: impl FnOnce()) -> ExitCode {
    if json {
        json_line(value)
    } else {
        human()
    }
    ExitCode::SUCCESS
}

/// Rows with a heading, without a frame.
pub fn table(heading: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    line(table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n"));
}

/// Names with values, one a line; absent values are left out.
pub fn facts(facts: &[(&str, Option<String>)]) {
    for (name, value) in facts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        line(format!("{name:<12} {}", printable(value)));
    }
}

/// Text of others without what a terminal would obey: control characters but line end and tab.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// Code, what, chain, remedy; on stdout as an object with `--json`.
pub fn print_failure(failure: &Failure, json: bool) -> ExitCode {
    let detail = &failure.detail;
    if json {
        let mut error = serde_json::to_value(detail).unwrap_or_default();
        error["chain"] = json!(failure.chain);
        json_line(&json!({ "error": error }));
    } else {
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "error [{}]: {}", detail.code, printable(&detail.message));
        for (name, value) in [
            ("cause", detail.cause.clone()),
            ("stage", detail.stage.map(|stage| stage.to_string())),
            ("evidence", detail.evidence_id.clone()),
            ("request", detail.request_id.clone()),
        ] {
            if let Some(value) = value {
                let _ = writeln!(err, "  {name}: {}", printable(&value));
            }
        }
        for last in &detail.console_end {
            let _ = writeln!(err, "  console: {}", printable(last));
        }
        for cause in &failure.chain {
            let _ = writeln!(err, "  because: {}", printable(cause.trim_end()));
        }
        if let Some(remedy) = &detail.remedy {
            let _ = writeln!(err, "  remedy: {}", printable(remedy));
        }
    }
    ExitCode::from(failure.exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}1mc\r\n\td\x07"), "a[2Jb1mc\n\td");
    }
}
