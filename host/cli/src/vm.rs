//! `airlock vm`: machines of this daemon.

use std::io::Write;
use std::process::ExitCode;

use airlock_api::session::Timeline;
use airlock_api::vm::{VmList, VmView};
use clap::Subcommand;
use futures_util::StreamExt;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::Outcome;
use crate::output::{facts, json_line, line, printable, result, table};
use crate::progress::stage_line;

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// List machines, live ones first
    Ls,
    /// Show a machine
    Show { id: String },
    /// Print the end of its serial console
    Console {
        id: String,
        /// Go on until the machine is gone
        #[arg(short, long)]
        follow: bool,
        /// Bytes of the end to begin with
        #[arg(long, value_name = "BYTES")]
        tail: Option<u64>,
        /// The guest's bytes as they are, control sequences included
        #[arg(long)]
        raw: bool,
    },
    /// Print every stage of its boot
    Timeline { id: String },
    /// Destroy machines; returns when nothing of them is left
    Destroy {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub async fn run(global: &Global, command: VmCommand) -> Outcome {
    let client = Client::open(global)?;
    let path = |id: &str| format!("/api/vms/{}", segment(id));
    Ok(match command {
        VmCommand::Ls => {
            let list: VmList = client.get("/api/vms").await?;
            result(global.json, &list, || {
                table(&["id", "state", "stage", "image", "driver", "address", "tap", "pid"], rows(&list))
            })
        }
        VmCommand::Show { id } => {
            let vm: VmView = client.get(&path(&id)).await?;
            result(global.json, &json!({"vm": vm}), || show(&vm))
        }
        VmCommand::Console { id, follow, tail, raw } => {
            let tail = tail.map_or_else(String::new, |bytes| format!("&tail={bytes}"));
            let response = client.stream(&format!("{}/console?follow={follow}{tail}", path(&id))).await?;
            let mut bytes = response.bytes_stream();
            let mut size = 0;
            while let Some(chunk) = bytes.next().await {
                let chunk = chunk.map_err(|error| client.broken(&error))?;
                size += chunk.len();
                if !write(&chunk, raw) {
                    break;
                }
            }
            if global.json {
                line("");
                json_line(&json!({"vm": id, "bytes": size}));
            }
            ExitCode::SUCCESS
        }
        VmCommand::Timeline { id } => {
            let timeline: Timeline = client.get(&format!("{}/timeline", path(&id))).await?;
            result(global.json, &timeline, || timeline.stages.iter().for_each(|stage| line(stage_line(stage))))
        }
        VmCommand::Destroy { ids } => {
            for id in &ids {
                client.delete(&path(id)).await?;
                if !global.json {
                    line(format!("machine {id} is gone"));
                }
            }
            result(global.json, &json!({"destroyed": ids}), || {})
        }
    })
}

/// Writes guest output; false when nobody reads it any more. What follows an escape is printed as text: a guest has no say over the
/// operator's terminal.
fn write(chunk: &[u8], raw: bool) -> bool {
    let mut out = std::io::stdout().lock();
    let written =
        if raw { out.write_all(chunk) } else { out.write_all(printable(&String::from_utf8_lossy(chunk)).as_bytes()) };
    written.and_then(|()| out.flush()).is_ok()
}

fn rows(list: &VmList) -> Vec<Vec<String>> {
    let row = |vm: &VmView| {
        let cause = vm.error.as_ref().and_then(|error| error.cause.clone());
        vec![
            vm.id.clone(),
            cause.map_or_else(|| vm.state.clone(), |cause| format!("{} ({cause})", vm.state)),
            vm.stage.map(|stage| stage.to_string()).unwrap_or_default(),
            short_image(&vm.image),
            vm.driver.clone(),
            vm.address.to_string(),
            vm.tap.clone(),
            vm.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        ]
    };
    list.vms.iter().map(row).collect()
}

/// Name and the digest's first twelve digits, which every command takes as a reference.
fn short_image(reference: &str) -> String {
    match reference.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@sha256:{}", digest.get(..12).unwrap_or(digest)),
        None => reference.to_owned(),
    }
}

fn show(vm: &VmView) {
    let error = vm.error.as_ref();
    facts(&[
        ("machine", Some(vm.id.clone())),
        ("session", vm.session_id.clone()),
        ("state", Some(vm.state.clone())),
        ("stage", vm.stage.map(|stage| stage.to_string())),
        ("image", Some(vm.image.clone())),
        ("driver", Some(vm.driver.clone())),
        ("address", Some(vm.address.to_string())),
        ("mac", Some(vm.mac.to_string())),
        ("tap", Some(vm.tap.clone())),
        ("pid", vm.pid.map(|pid| pid.to_string())),
        ("created", Some(vm.created_at.clone())),
        ("ended", vm.ended_at.clone()),
        ("cause", error.and_then(|error| error.cause.clone())),
        ("detail", error.map(|error| error.message.clone())),
        ("evidence", error.and_then(|error| error.evidence_id.clone())),
        ("remedy", error.and_then(|error| error.remedy.clone())),
    ]);
}
