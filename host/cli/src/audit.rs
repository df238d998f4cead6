//! `airlock audit`: what was done with secrets and machines, by whom. `verify` needs no daemon.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use airlock_api::audit::{AuditEntry, AuditHead, AuditKeyView, AuditLog, Receipt};
use airlock_effects::files::PRIVATE_FILE;
use airlock_engine::audit::{Broken, Entry, PublicKey, Verifier, verify_entry};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome, REFUSED, USAGE};
use crate::output::{json_line, line, printable, result, table};

/// Entries that are asked for at once.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, oldest first
    Ls {
        /// Those behind this number
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: i64,
        /// Of this action only, e.g. credential_read
        #[arg(long)]
        action: Option<String>,
        /// About this subject only: USER/PROVIDER, or an id
        #[arg(long)]
        subject: Option<String>,
    },
    /// Write the whole log as lines of JSON, the public key first
    Export {
        /// File, or - for standard output; nothing is overwritten
        #[arg(long, value_name = "FILE", default_value = "-")]
        to: PathBuf,
    },
    /// Check chain and signatures of an export; names the first broken entry. Needs no daemon
    Verify {
        /// An export
        file: PathBuf,
        /// The public key to trust, instead of the one in the export; may be repeated
        #[arg(long = "key", value_name = "HEX")]
        keys: Vec<String>,
        /// A head that was remembered: it must be in the log
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<String>,
    },
}

/// The first line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heading {
    format: String,
    keys: Vec<AuditKeyView>,
    head: Option<AuditHead>,
}

const FORMAT: &str = "airlock-audit-1";

pub async fn run(global: &Global, command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Ls { after, action, subject } => {
            let client = Client::open(global)?;
            let filter = |name: &str, value: &Option<String>| {
                value.as_ref().map_or_else(String::new, |value| format!("&{name}={}", segment(value)))
            };
            let (action, subject) = (filter("action", &action), filter("subject", &subject));
            let log: AuditLog = client.get(&format!("/api/audit?after={after}{action}{subject}")).await?;
            Ok(result(global.json, &log, || {
                table(&["seq", "time", "actor", "action", "subject", "detail"], log.entries.iter().map(row).collect());
            }))
        }
        AuditCommand::Export { to } => export(global, &to).await,
        AuditCommand::Verify { file, keys, head } => verify(global, &file, &keys, head.as_deref()),
    }
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let time =
        jiff::Timestamp::from_millisecond(entry.at_ms).map_or_else(|_| entry.at_ms.to_string(), |t| t.to_string());
    let parts = [entry.seq.to_string(), time, entry.actor.clone(), entry.action.clone(), entry.subject.clone()];
    parts.into_iter().chain([entry.detail.clone()]).collect()
}

async fn export(global: &Global, to: &Path) -> Outcome {
    let client = Client::open(global)?;
    let failed = |error: &std::io::Error| {
        let (code, remedy) = match error.kind() {
            std::io::ErrorKind::AlreadyExists => ("file_exists", "give another file: nothing is overwritten"),
            _ => ("export_failed", "give a file that can be written"),
        };
        Failure::new(FAILED, code, format!("write {}", to.display()), remedy).because(error)
    };
    let mut file = match to.to_str() {
        Some("-") => None,
        _ => {
            let opened = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(to);
            Some(opened.map_err(|error| failed(&error))?)
        }
    };
    let mut put = |text: String| match &mut file {
        Some(file) => writeln!(file, "{text}").map_err(|error| failed(&error)),
        None => {
            line(text);
            Ok(())
        }
    };
    let mut after = 0;
    let mut count = 0;
    loop {
        let page: AuditLog = client.get(&format!("/api/audit?after={after}&limit={PAGE}")).await?;
        if after == 0 {
            put(text(&Heading { format: FORMAT.into(), keys: page.keys, head: page.head.clone() }))?;
        }
        for entry in &page.entries {
            put(text(entry))?;
        }
        count += page.entries.len();
        after = page.entries.last().map_or(after, |entry| entry.seq);
        if page.entries.len() < PAGE {
            break;
        }
    }
    if to != Path::new("-") {
        let done = json!({"written": to, "entries": count});
        return Ok(result(global.json, &done, || line(format!("{count} entries in {}", to.display()))));
    }
    Ok(std::process::ExitCode::SUCCESS)
}

fn verify(global: &Global, path: &Path, trusted: &[String], head: Option<&str>) -> Outcome {
    let bad = |what: String| Failure::new(FAILED, "not_an_export", what, "give a file that airlock audit export wrote");
    let head = head.map(parse_head).transpose()?;
    let file = std::fs::File::open(path).map_err(|error| {
        let message = format!("read {}", path.display());
        Failure::new(NOT_FOUND, "export_unreadable", message, "name a file that exists").because(&error)
    })?;
    let mut lines = BufReader::new(file).lines();
    let mut next = || lines.next().transpose().map_err(|error| bad(format!("read {}", path.display())).because(&error));
    let heading: Heading = next()?
        .and_then(|text| serde_json::from_str(&text).ok())
        .filter(|heading: &Heading| heading.format == FORMAT)
        .ok_or_else(|| bad(format!("{} does not begin as an export", path.display())))?;
    let pinned = trusted.iter().map(|key| public_key(key)).collect::<Outcome<Vec<_>>>()?;
    let own: Vec<PublicKey> = heading.keys.into_iter().map(|key| PublicKey { id: key.id, key: key.key }).collect();
    let keys = if pinned.is_empty() { own } else { pinned };
    let (mut verifier, mut count, mut seen) = (Verifier::default(), 0u64, false);
    while let Some(text) = next()? {
        let entry: AuditEntry = serde_json::from_str(&text)
            .map_err(|error| bad(format!("line {} is no entry", count + 2)).because(&error))?;
        seen |= head.as_ref().is_some_and(|head| head.seq == entry.seq && head.hash == entry.hash);
        verifier.push(&to_entry(entry), &keys).map_err(|broken| broken_log(&broken))?;
        count += 1;
    }
    // The export's own head, and the one that somebody remembered.
    let last = verifier.heads().values().next().cloned();
    if let Some(own) = heading
        .head
        .filter(|own| last.as_ref().is_none_or(|(seq, hash)| *seq < own.seq || (*seq == own.seq && *hash != own.hash)))
    {
        return Err(broken_log(&Broken::CutOff { seq: own.seq, hash: own.hash }));
    }
    if let Some(head) = head.filter(|_| !seen) {
        return Err(broken_log(&Broken::CutOff { seq: head.seq, hash: head.hash }));
    }
    let heads: Vec<_> =
        verifier.heads().iter().map(|(host, (seq, hash))| json!({"host": host, "seq": seq, "hash": hash})).collect();
    let key_ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
    let done = json!({"valid": true, "entries": count, "heads": heads, "keys": key_ids, "pinned": !trusted.is_empty()});
    Ok(result(global.json, &done, || {
        line(format!("{count} entries, chained and signed by {}", key_ids.join(", ")));
        for (host, (seq, hash)) in verifier.heads() {
            line(format!("head of {}   {seq}:{hash}", printable(host)));
        }
        if trusted.is_empty() {
            line("the key is the export's own: give the one you know with --key");
        }
    }))
}

fn broken_log(broken: &Broken) -> Box<Failure> {
    let remedy = "do not trust the log from that entry on; compare it with an older export";
    Failure::new(REFUSED, "audit_broken", broken.to_string(), remedy)
}

fn parse_head(text: &str) -> Outcome<AuditHead> {
    let parsed = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, hash.to_owned())));
    let (seq, hash) = parsed.ok_or_else(|| {
        Failure::new(USAGE, "bad_head", format!("{text:?} is not SEQ:HASH"), "airlock audit verify prints heads")
    })?;
    Ok(AuditHead { seq, hash })
}

fn public_key(text: &str) -> Outcome<PublicKey> {
    PublicKey::parse(text).ok_or_else(|| {
        let remedy = "give the 64 hexadecimal digits of GET /api/audit, keys";
        Failure::new(USAGE, "bad_key", format!("{text:?} is no public key"), remedy)
    })
}

fn to_entry(entry: AuditEntry) -> Entry {
    Entry {
        host: entry.host,
        seq: entry.seq,
        at_ms: entry.at_ms,
        actor: entry.actor,
        action: entry.action,
        subject: entry.subject,
        detail: entry.detail,
        previous: entry.previous,
        hash: entry.hash,
        key_id: entry.key_id,
        signature: entry.signature,
    }
}

/// `airlock session receipt`: what was removed, checked against its signature before it is shown.
pub async fn receipt(global: &Global, session: &str) -> Outcome {
    let client = Client::open(global)?;
    let receipt: Receipt = client.get(&format!("/api/auth/session/{}/receipt", segment(session))).await?;
    let Receipt { entry, key } = receipt.clone();
    let key = PublicKey { id: key.id, key: key.key };
    verify_entry(&to_entry(entry), &[key]).map_err(|broken| broken_log(&broken))?;
    let detail: serde_json::Value = serde_json::from_str(&receipt.entry.detail).unwrap_or_default();
    if global.json {
        json_line(&json!({"receipt": receipt, "detail": detail, "valid": true}));
        return Ok(std::process::ExitCode::SUCCESS);
    }
    line(format!("session      {} ({})", receipt.entry.subject, printable(detail["session"].as_str().unwrap_or("?"))));
    line(format!("machine      {}", printable(detail["vm"].as_str().unwrap_or("?"))));
    line(format!("credential   {}", if detail["credentialSealed"] == true { "sealed" } else { "none" }));
    for (thing, said) in detail["removed"].as_object().into_iter().flatten() {
        let name = match &said["name"] {
            serde_json::Value::Null => said.to_string(),
            serde_json::Value::String(name) => name.clone(),
            other => other.to_string(),
        };
        line(format!("removed      {thing} {}", printable(&name)));
    }
    let left: Vec<&str> = detail["left"].as_array().into_iter().flatten().filter_map(|thing| thing.as_str()).collect();
    line(format!("left         {}", if left.is_empty() { "nothing".into() } else { left.join(", ") }));
    line(format!(
        "signed       entry {} of {} by key {}",
        receipt.entry.seq,
        printable(&receipt.entry.host),
        receipt.entry.key_id
    ));
    Ok(std::process::ExitCode::SUCCESS)
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
