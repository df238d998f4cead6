//! `airlock evidence`: what is kept of machines that failed.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use airlock_api::evidence::{EvidenceDetail, EvidenceFile, EvidenceList, EvidenceView};
use airlock_effects::files::PRIVATE_FILE;
use clap::Subcommand;
use futures_util::{Stream, StreamExt};
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, Outcome, REFUSED, USAGE};
use crate::output::{facts, line, printable, result, table};
use crate::progress::stage_line;

#[derive(Debug, Subcommand)]
pub enum EvidenceCommand {
    /// List evidence bundles, newest first
    Ls,
    /// Show why a machine failed: cause, remedy, stages, the end of its console, files
    Show { id: String },
    /// Write a bundle as one .tar.gz file, for whoever is to help
    Export {
        id: String,
        /// File, or - for standard output; nothing is overwritten [default: ID.tar.gz]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Remove bundles
    Rm {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub async fn run(global: &Global, command: EvidenceCommand) -> Outcome {
    let client = Client::open(global)?;
    let path = |id: &str| format!("/api/evidence/{}", segment(id));
    Ok(match command {
        EvidenceCommand::Ls => {
            let list: EvidenceList = client.get("/api/evidence").await?;
            result(global.json, &list, || {
                table(
                    &["id", "machine", "session", "cause", "stage", "age", "size"],
                    list.evidence.iter().map(row).collect(),
                )
            })
        }
        EvidenceCommand::Show { id } => {
            let detail: EvidenceDetail = client.get(&path(&id)).await?;
            result(global.json, &detail, || show(&detail))
        }
        EvidenceCommand::Export { id, to } => {
            if to.as_deref() == Some(Path::new("-")) {
                check_stdout(global.json)?;
            }
            // The daemon says first whether the id is one: only then may it name a file.
            let response = client.stream(&format!("{}/export", path(&id))).await?;
            let chunks = response.bytes_stream().map(|chunk| chunk.map_err(|error| client.broken(&error)));
            match to {
                Some(to) if to == Path::new("-") => {
                    copy(chunks, &mut std::io::stdout().lock(), "standard output").await?;
                    std::process::ExitCode::SUCCESS
                }
                to => {
                    let to = to.unwrap_or_else(|| PathBuf::from(format!("{id}.tar.gz")));
                    let bytes = to_file(chunks, &to).await?;
                    result(global.json, &json!({"written": to, "bytes": bytes}), || line(to.display().to_string()))
                }
            }
        }
        EvidenceCommand::Rm { ids } => {
            for id in &ids {
                client.delete(&path(id)).await?;
                if !global.json {
                    line(format!("evidence {id} is removed"));
                }
            }
            result(global.json, &json!({"removed": ids}), || {})
        }
    })
}

fn check_stdout(json: bool) -> Outcome<()> {
    let refusal = if json {
        "a JSON object cannot follow an archive on standard output"
    } else if std::io::stdout().is_terminal() {
        "an archive is nothing for a terminal"
    } else {
        return Ok(());
    };
    Err(Failure::new(USAGE, "bad_output", refusal, "give a file with --to FILE, or redirect the output"))
}

/// Writes a new file for its owner only. One that is not whole is removed.
async fn to_file<B: AsRef<[u8]>>(chunks: impl Stream<Item = Outcome<B>>, to: &Path) -> Outcome<u64> {
    let made = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(to);
    let mut file = made.map_err(|error| {
        let (exit, code, remedy) = match error.kind() {
            std::io::ErrorKind::AlreadyExists => (REFUSED, "file_exists", "give another --to FILE, or remove it"),
            _ => (FAILED, "export_failed", "give a --to FILE that can be written"),
        };
        Failure::new(exit, code, format!("write {}", to.display()), remedy).because(&error)
    })?;
    let copied = copy(chunks, &mut file, &to.display().to_string()).await;
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied
}

async fn copy<B: AsRef<[u8]>>(
    chunks: impl Stream<Item = Outcome<B>>,
    out: &mut impl Write,
    name: &str,
) -> Outcome<u64> {
    let mut chunks = std::pin::pin!(chunks);
    let mut size = 0;
    let unwritten = |error: std::io::Error| {
        Failure::new(FAILED, "export_failed", format!("write {name}"), "free space, or give another --to FILE")
            .because(&error)
    };
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        out.write_all(chunk.as_ref()).map_err(unwritten)?;
        size += chunk.as_ref().len() as u64;
    }
    out.flush().map_err(unwritten)?;
    Ok(size)
}

fn row(view: &EvidenceView) -> Vec<String> {
    vec![
        view.id.clone(),
        view.vm_id.clone(),
        view.session_id.clone().unwrap_or_default(),
        view.cause.clone().unwrap_or_default(),
        view.stage.map(|stage| stage.to_string()).unwrap_or_default(),
        age(view.age_s),
        size(view.size_bytes),
    ]
}

fn show(detail: &EvidenceDetail) {
    let view = &detail.evidence;
    facts(&[
        ("evidence", Some(view.id.clone())),
        ("machine", Some(view.vm_id.clone())),
        ("session", view.session_id.clone()),
        ("cause", view.cause.clone()),
        ("stage", view.stage.map(|stage| stage.to_string())),
        ("detail", detail.message.clone()),
        ("remedy", detail.remedy.clone()),
        ("saved", Some(format!("{} ({} ago)", view.saved_at, age(view.age_s)))),
        ("airlock", detail.airlock_version.clone()),
        ("guest build", detail.guest_build_id.clone()),
    ]);
    detail.stages.iter().for_each(|stage| line(stage_line(stage)));
    if !detail.console_end.is_empty() {
        line("the console's last lines:");
        let texts = detail.console_end.iter().filter(|text| !text.trim().is_empty());
        texts.for_each(|text| line(format!("  {}", printable(text))));
    }
    for file in &detail.files {
        line(file_line(file));
    }
    for left in &detail.left_out {
        line(format!("{:>10}  {}: {}", "-", printable(&left.name), printable(&left.reason)));
    }
    line(format!("all of it: airlock evidence export {}", view.id));
}

fn file_line(file: &EvidenceFile) -> String {
    let mut text = format!("{:>10}  {}", size(file.size_bytes), printable(&file.name));
    if let (Some(bytes), Some(reason)) = (file.cut_bytes, &file.cut_reason) {
        text.push_str(&format!(", {} cut out: {}", size(bytes), printable(reason)));
    }
    if file.redacted > 0 {
        text.push_str(&format!(", secrets taken out of {} lines", file.redacted));
    }
    text
}

/// A time span by its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5_999 => format!("{} min", seconds / 60),
        6_000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=10_239_999 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn spans_and_sizes_are_short() {
        assert_eq!([5, 100, 7_200, 200_000].map(age), ["5 s", "1 min", "2 h", "2 d"]);
        assert_eq!([17, 20_480, 20 << 20].map(size), ["17 B", "20 KiB", "20 MiB"]);
    }

    #[test]
    fn a_file_says_what_is_missing_from_it() {
        let mut file = EvidenceFile {
            name: "console.log".into(),
            size_bytes: 20,
            sha256: None,
            redacted: 0,
            cut_bytes: None,
            cut_reason: None,
        };
        assert_eq!(file_line(&file), "      20 B  console.log");
        file = EvidenceFile { redacted: 2, cut_bytes: Some(5), cut_reason: Some("full\x1b".into()), ..file };
        assert_eq!(file_line(&file), "      20 B  console.log, 5 B cut out: full, secrets taken out of 2 lines");
    }

    #[tokio::test]
    async fn nothing_is_overwritten_and_nothing_half_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("x.tar.gz");
        let lost = || Err(Failure::new(FAILED, "connection_lost", "talk to the daemon", ""));
        let failure = to_file(stream::iter([Ok("half"), lost()]), &to).await.unwrap_err();
        assert_eq!((failure.detail.code.as_str(), to.exists()), ("connection_lost", false));

        assert_eq!(to_file(stream::iter([Ok("whole"), Ok("!")]), &to).await.unwrap(), 6);
        assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let failure = to_file(stream::iter([Ok("other")]), &to).await.unwrap_err();
        assert_eq!((failure.exit, failure.detail.code.as_str()), (REFUSED, "file_exists"));
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "whole!");
    }
}
