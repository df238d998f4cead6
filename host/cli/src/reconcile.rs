//! `airlock reconcile`: what an earlier crash or somebody's hand left over, and a pass that looks after it.

use airlock_api::reconcile::ReconcileView;
use clap::Args;
use serde_json::json;

use crate::args::Global;
use crate::client::Client;
use crate::failure::Outcome;
use crate::output::{line, printable, result};

#[derive(Debug, Args)]
pub struct ReconcileArgs {
    /// Only say what a pass would do
    #[arg(long)]
    pub plan: bool,
}

pub async fn run(global: &Global, args: ReconcileArgs) -> Outcome {
    let client = Client::open(global)?;
    let found: ReconcileView =
        if args.plan { client.get("/api/reconcile").await? } else { client.post("/api/reconcile", &json!({})).await? };
    Ok(result(global.json, &found, || show(&found, args.plan)))
}

fn show(found: &ReconcileView, plan: bool) {
    if found.actions.is_empty() {
        line("records and host agree: nothing to do");
    }
    for action in &found.actions {
        line(format!("{}   {}", if plan { "would" } else { "did" }, printable(action)));
    }
    for foreign in &found.foreign {
        line(format!("left alone, not proved to be Airlock's: {}", printable(foreign)));
    }
    for (kind, count) in &found.leaked {
        line(format!("nobody owned: {count} {kind}"));
    }
}
