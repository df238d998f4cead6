//! `airlock doctor`: what this host can and cannot do. Exit 1 if a start would fail.

use std::process::ExitCode;

use airlock_api::dhcp::DhcpView;
use airlock_api::reconcile::ReconcileView;
use airlock_effects::doctor::{Fact, examine, firecracker, listener, probed};
use airlock_image::Registry;
use serde_json::json;

use crate::args::Global;
use crate::client::Client;
use crate::config;
use crate::failure::{FAILED, Outcome};
use crate::output::{json_line, line, printable};

/// Images that the shipped providers boot from.
pub const IMAGES: [&str; 2] = ["base", "browser"];

pub async fn run(global: &Global) -> Outcome {
    let config = config::load(global, None)?;
    let facts = examine(&config.state_dir, &config.network).await;
    let missing = missing_images(&config.state_dir);
    let facts = facts
        .into_iter()
        .chain([listener(config.listen)])
        .chain(firecracker(&config.vmm.firecracker).await)
        .chain([probed(&config.state_dir)])
        .chain(leftovers(global).await)
        .chain(dhcp(global).await)
        .collect::<Vec<_>>();
    let ok = facts.iter().all(is_fine) && missing.is_empty();
    if global.json {
        json_line(&json!({"ok": ok, "facts": facts, "missingImages": missing}));
    } else {
        facts.iter().for_each(print);
        for name in &missing {
            line(format!("FAIL   image         {name} is not built"));
            line(format!("       remedy: airlock image build {name}, or airlock up"));
        }
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What is there and no machine owns, as the daemon that runs here sees it; none without a daemon, whose next start looks after it.
async fn leftovers(global: &Global) -> Option<Fact> {
    let found: ReconcileView = Client::open(global).ok()?.get("/api/reconcile").await.ok()?;
    let leaked: Vec<_> = found.leaked.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let left_alone = match found.foreign.len() {
        0 => String::new(),
        1 => "; one thing that is not proved to be Airlock's is left alone".to_owned(),
        count => format!("; {count} things that are not proved to be Airlock's are left alone"),
    };
    let (detail, remedy) = if leaked.is_empty() {
        (format!("nothing is left of any machine that ended{left_alone}"), None)
    } else {
        let remedy = "airlock reconcile --plan shows them, airlock reconcile removes them";
        (format!("left of machines that ended: {}{left_alone}", leaked.join(", ")), Some(remedy.to_owned()))
    };
    Some(Fact { name: "leftovers", ok: leaked.is_empty(), required: false, detail, remedy })
}

/// Whether the daemon that runs here hands out addresses; none without a daemon.
async fn dhcp(global: &Global) -> Option<Fact> {
    let found: DhcpView = Client::open(global).ok()?.get("/api/dhcp").await.ok()?;
    let detail = match found.failure {
        None => "machines whose image asks for its address get their lease".to_owned(),
        Some(failure) => format!("machines whose image asks for its address get none: {failure}"),
    };
    Some(Fact { name: "dhcp", ok: found.serving, required: false, detail, remedy: found.remedy })
}

/// Whether a start does not fail because of it.
pub fn is_fine(fact: &Fact) -> bool {
    fact.ok || !fact.required
}

/// One fact: `ok`, `warn` (a start works without it) or `FAIL`.
pub fn print(fact: &Fact) {
    let mark = match (fact.ok, fact.required) {
        (true, _) => "ok",
        (false, false) => "warn",
        (false, true) => "FAIL",
    };
    line(format!("{mark:<6} {:<13} {}", fact.name, printable(&fact.detail)));
    if let Some(remedy) = &fact.remedy {
        line(format!("       remedy: {}", printable(remedy)));
    }
}

/// Shipped images that cannot be used as they are.
fn missing_images(state_dir: &std::path::Path) -> Vec<&'static str> {
    // A state directory that does not exist yet has no images, and asking must not make it.
    if !state_dir.join("images").is_dir() {
        return IMAGES.to_vec();
    }
    let registry = Registry::open(state_dir).ok();
    IMAGES.into_iter().filter(|name| registry.as_ref().is_none_or(|registry| registry.find(name).is_err())).collect()
}
