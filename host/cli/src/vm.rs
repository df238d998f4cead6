//! `airlock vm`: machines of this daemon.

use std::io::Write;
use std::process::ExitCode;

use airlock_api::reach::{ReachRequest, ReachTarget, ReachView};
use airlock_api::session::Timeline;
use airlock_api::vm::{VmList, VmView};
use clap::Subcommand;
use futures_util::StreamExt;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::diagnose;
use crate::failure::{FAILED, Outcome};
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
    /// Say why it is not reachable, or that it is healthy
    Diagnose { id: String },
    /// Try to reach something from inside a machine; exit 1 if it is not reached
    Reach {
        id: String,
        /// tcp:ADDRESS:PORT, udp:ADDRESS:PORT, ping:ADDRESS or resolve:NAME
        #[arg(value_parser = target)]
        target: ReachTarget,
        /// Longest wait, 1 to 30
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=30))]
        timeout_s: u64,
    },
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
        VmCommand::Diagnose { id } => {
            let view = diagnose::of_machine(&client, &id).await?;
            result(global.json, &view, || diagnose::show(&view))
        }
        VmCommand::Reach { id, target, timeout_s } => {
            let request = ReachRequest { target, timeout_ms: timeout_s * 1000 };
            let view: ReachView = client.post(&format!("{}/reach", path(&id)), &request).await?;
            result(global.json, &view, || line(printable(&sentence(&id, &request, &view))));
            if view.is_reached() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
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

/// A target as it is written on the command line.
fn target(text: &str) -> Result<ReachTarget, String> {
    let (kind, rest) = text.split_once(':').ok_or("write KIND:TARGET, such as tcp:192.168.100.1:22")?;
    let socket =
        || rest.parse().map_err(|_| format!("{rest:?} is not ADDRESS:PORT (a name is no address: resolve:NAME)"));
    match kind {
        "tcp" => Ok(ReachTarget::Tcp { address: socket()? }),
        "udp" => Ok(ReachTarget::Udp { address: socket()? }),
        "ping" => {
            let address = rest.parse().map_err(|_| format!("{rest:?} is not an IPv4 address"))?;
            Ok(ReachTarget::Ping { address })
        }
        "resolve" if !rest.is_empty() => Ok(ReachTarget::Resolve { name: rest.to_owned() }),
        "resolve" => Err("resolve needs a name".to_owned()),
        _ => Err(format!("{kind:?} is not tcp, udp, ping or resolve")),
    }
}

/// What came of a probe, in words. A probe that failed says nothing about its target.
fn sentence(id: &str, request: &ReachRequest, view: &ReachView) -> String {
    let (verb, what) = match &request.target {
        ReachTarget::Tcp { address } => ("reach", format!("TCP {address}")),
        ReachTarget::Udp { address } => ("reach", format!("UDP {address}")),
        ReachTarget::Ping { address } => ("reach", format!("{address} by ping")),
        ReachTarget::Resolve { name } => ("resolve", name.clone()),
    };
    let (ms, errno) = (view.ms, view.errno.as_deref().unwrap_or_default());
    let detail = view.detail.as_deref().unwrap_or(&view.outcome);
    let list = |addresses: &Vec<_>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let says = match view.outcome.as_str() {
        "connected" | "answered" => return format!("machine {id} reaches {what} ({ms:.1} ms)"),
        "resolved" => {
            let addresses = view.addresses.as_ref().map(list).unwrap_or_default();
            return format!("machine {id} resolves {what} to {addresses} ({ms:.1} ms)");
        }
        "failed" if verb == "reach" => {
            let cause = if errno.is_empty() { String::new() } else { format!(": {errno}") };
            return format!("machine {id} could not try to reach {what}: {detail}{cause}");
        }
        "refused" => format!("refused after {ms:.1} ms"),
        "timed_out" => format!("no answer within {} ms", request.timeout_ms),
        "unreachable" => format!("{errno} after {ms:.1} ms"),
        _ => detail.to_owned(),
    };
    format!("machine {id} does not {verb} {what}: {says}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn targets_are_read_as_they_are_documented() {
        for (text, expected) in [
            ("tcp:192.168.100.1:22", ReachTarget::Tcp { address: ([192, 168, 100, 1], 22).into() }),
            ("tcp:[fe80::1%2]:22", ReachTarget::Tcp { address: "[fe80::1%2]:22".parse().unwrap() }),
            ("udp:1.2.3.4:53", ReachTarget::Udp { address: ([1, 2, 3, 4], 53).into() }),
            ("ping:192.168.100.1", ReachTarget::Ping { address: Ipv4Addr::new(192, 168, 100, 1) }),
            ("resolve:example.org", ReachTarget::Resolve { name: "example.org".into() }),
        ] {
            assert_eq!(target(text), Ok(expected));
        }
        for bad in [
            "192.168.100.1",
            "tcp:192.168.100.1",
            "tcp:example.org:22",
            "ping:1.2.3.4:5",
            "ping:::1",
            "resolve:",
            "http:x",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_outcome_is_one_plain_sentence() {
        let says =
            |text: &str, outcome: &str, errno: Option<&str>, detail: Option<&str>, addresses: Option<Vec<Ipv4Addr>>| {
                let request = ReachRequest { target: target(text).unwrap(), timeout_ms: 5000 };
                let (errno, detail) = (errno.map(str::to_owned), detail.map(str::to_owned));
                sentence("v", &request, &ReachView { outcome: outcome.into(), errno, detail, addresses, ms: 1.25 })
            };
        let (tcp, udp) = ("tcp:10.0.0.1:22", "udp:10.0.0.1:53");
        let sentences = [
            says(tcp, "connected", None, None, None),
            says("ping:10.0.0.1", "answered", None, None, None),
            says("resolve:a.example", "resolved", None, None, Some(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()])),
            says(tcp, "refused", None, None, None),
            says(udp, "timed_out", None, None, None),
            says(tcp, "unreachable", Some("ENETUNREACH"), None, None),
            says("ping:10.0.0.1", "failed", Some("EPERM"), Some("ping 10.0.0.1"), None),
            says(tcp, "failed", None, Some("start a probe while 16 others run"), None),
            says("resolve:a.example", "failed", None, Some("the name server says no such name"), None),
            says("resolve:a.example", "timed_out", None, None, None),
        ];
        assert_eq!(
            sentences,
            [
                "machine v reaches TCP 10.0.0.1:22 (1.2 ms)",
                "machine v reaches 10.0.0.1 by ping (1.2 ms)",
                "machine v resolves a.example to 10.0.0.1, 10.0.0.2 (1.2 ms)",
                "machine v does not reach TCP 10.0.0.1:22: refused after 1.2 ms",
                "machine v does not reach UDP 10.0.0.1:53: no answer within 5000 ms",
                "machine v does not reach TCP 10.0.0.1:22: ENETUNREACH after 1.2 ms",
                "machine v could not try to reach 10.0.0.1 by ping: ping 10.0.0.1: EPERM",
                "machine v could not try to reach TCP 10.0.0.1:22: start a probe while 16 others run",
                "machine v does not resolve a.example: the name server says no such name",
                "machine v does not resolve a.example: no answer within 5000 ms",
            ]
        );
    }
}
