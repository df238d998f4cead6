//! `airlock vault`: the keys that wrap the credentials' keys. No key is ever shown.

use airlock_api::vault::{RotationView, VaultKeyView, VaultView};
use clap::Subcommand;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, Outcome};
use crate::output::{line, result, table};

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Show the keys, where they are from, and how many credentials each wraps
    Status,
    /// Make another key the one that seals, and wrap everything anew, while the daemon serves
    Rotate {
        /// Remove the former key when nothing needs it any more; backups of the database then need it and do not have it
        #[arg(long)]
        forget: bool,
    },
    /// Remove a former key that wraps nothing any more
    Forget { key: String },
}

pub async fn run(global: &Global, command: VaultCommand) -> Outcome {
    let client = Client::open(global)?;
    let key_path = |id: &str| format!("/api/vault/keys/{}", segment(id));
    match command {
        VaultCommand::Status => {
            let status: VaultView = client.get("/api/vault").await?;
            Ok(result(global.json, &status, || show(&status)))
        }
        VaultCommand::Rotate { forget } => {
            let done: RotationView = client.post("/api/vault/rotate", &json!({})).await?;
            if done.failed > 0 {
                let message = format!("{} credentials do not open; {} were wrapped anew", done.failed, done.rewrapped);
                return Err(Failure::new(
                    FAILED,
                    "rotation_incomplete",
                    message,
                    "see the daemon's log, and airlock vault status",
                ));
            }
            if forget {
                client.delete(&key_path(&done.from)).await?;
            }
            Ok(result(global.json, &json!({"rotation": done, "forgotten": forget}), || {
                line(format!("key {} seals now; {} credentials were wrapped anew", done.to, done.rewrapped));
                let former = if forget { "is removed" } else { "may be removed: airlock vault forget" };
                line(format!("key {} {former}", done.from));
            }))
        }
        VaultCommand::Forget { key } => {
            client.delete(&key_path(&key)).await?;
            Ok(result(global.json, &json!({"forgotten": key}), || line(format!("key {key} is removed"))))
        }
    }
}

fn show(status: &VaultView) {
    let row = |key: &VaultKeyView| {
        let role = match (key.active, key.removable) {
            (true, _) => "seals",
            (false, true) => "removable",
            (false, false) => "opens",
        };
        let memory = if key.locked { "locked" } else { "may be swapped" };
        vec![key.id.clone(), role.into(), key.credentials.to_string(), memory.into(), key.place.clone()]
    };
    table(&["key", "role", "credentials", "memory", "from"], status.keys.iter().map(row).collect());
    for missing in &status.missing {
        line(format!(
            "key {} is not here; {} credentials need it: put it into vault.older",
            missing.id, missing.credentials
        ));
    }
}
