//! `GET /metrics`: gauges of what is there, in the text format of Prometheus 0.0.4. They are counted when they are asked for, from
//! the records and from the kernel, so none of them can drift. The DHCP server counts since the daemon was started.

use std::fmt::Write;

use airlock_effects::network::dhcp::DhcpStatus;
use airlock_engine::Snapshot;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;

/// Gauges for Prometheus. `airlock_leaked_resources` must read 0.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String)))]
pub async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let snapshot = app.engine().snapshot().await?;
    let viewers = text_of_viewers(app.seats().count());
    let text = text(&snapshot) + &viewers + &text_of_dhcp(&app.engine().dhcp());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

fn text(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let leaked: Vec<_> = snapshot.leaked.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect();
    let pairs = |counts: &std::collections::BTreeMap<String, usize>| -> Vec<(String, usize)> {
        counts.iter().map(|(name, count)| (name.clone(), *count)).collect()
    };
    family(&mut text, "airlock_leaked_resources", "Resources that are there and that no VM owns", "kind", &leaked);
    family(&mut text, "airlock_vms", "VMs of which something is left, by state", "state", &pairs(&snapshot.vms));
    let sessions = pairs(&snapshot.sessions);
    family(&mut text, "airlock_sessions", "Sessions that have not ended, by state", "state", &sessions);
    let failures = pairs(&snapshot.failures);
    family(
        &mut text,
        "airlock_session_failures",
        "Sessions that failed, as far as recorded, by cause",
        "cause",
        &failures,
    );
    let name = "airlock_vm_failures_total";
    let _ = write!(
        text,
        "# HELP {name} VMs that failed since this daemon started, by the cause of their diagnosis\n# TYPE {name} counter\n"
    );
    for (cause, count) in &snapshot.diagnosed {
        let _ = writeln!(text, "{name}{{cause=\"{cause}\"}} {count}");
    }
    for (name, help, value) in [
        ("airlock_addresses", "Addresses in the pool", snapshot.addresses),
        ("airlock_addresses_leased", "Addresses of the pool that are leased", snapshot.leased),
        ("airlock_foreign_resources", "Things that may be leftovers but are not proved to be ours", snapshot.foreign),
    ] {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    text
}

fn text_of_viewers(count: usize) -> String {
    let name = "airlock_viewers";
    format!("# HELP {name} Viewers that are connected\n# TYPE {name} gauge\n{name} {count}\n")
}

/// Counters of the DHCP server, and whether it serves.
fn text_of_dhcp(status: &DhcpStatus) -> String {
    let serving = u8::from(status.failure.is_none());
    let name = "airlock_dhcp_serving";
    let mut text = format!("# HELP {name} Whether DHCP is served\n# TYPE {name} gauge\n{name} {serving}\n");
    let name = "airlock_dhcp_requests_total";
    let _ = write!(text, "# HELP {name} DHCP requests, by what came of them\n# TYPE {name} counter\n");
    for (outcome, count) in &status.outcomes {
        let _ = writeln!(text, "{name}{{outcome=\"{outcome}\"}} {count}");
    }
    text
}

/// One family with one label. The values of our labels are names of ours: nothing in them needs escaping.
fn family(text: &mut String, name: &str, help: &str, label: &str, samples: &[(String, usize)]) {
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
    for (value, count) in samples {
        let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_domain::reconcile::Resource;

    #[test]
    fn every_kind_of_leak_is_there_even_at_zero() {
        let snapshot = Snapshot {
            leaked: Resource::ALL.map(|kind| (kind, usize::from(kind == Resource::Tap))).into(),
            vms: [("ready".to_owned(), 2)].into(),
            diagnosed: [("link_missing".to_owned(), 3)].into(),
            addresses: 253,
            leased: 2,
            ..Snapshot::default()
        };
        let text = text(&snapshot);
        assert!(text.contains("# TYPE airlock_leaked_resources gauge\n"));
        for line in [
            "airlock_leaked_resources{kind=\"tap\"} 1",
            "airlock_leaked_resources{kind=\"lease\"} 0",
            "airlock_leaked_resources{kind=\"process\"} 0",
            "airlock_vms{state=\"ready\"} 2",
            "airlock_vm_failures_total{cause=\"link_missing\"} 3",
            "airlock_addresses_leased 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_outcome_of_a_dhcp_request_is_a_counter() {
        let status = DhcpStatus { failure: None, outcomes: [("ack", 3), ("no_lease", 1)].into() };
        let text = text_of_dhcp(&status);
        for line in [
            "airlock_dhcp_serving 1",
            "# TYPE airlock_dhcp_requests_total counter",
            "airlock_dhcp_requests_total{outcome=\"ack\"} 3",
            "airlock_dhcp_requests_total{outcome=\"no_lease\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
