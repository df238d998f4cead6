//! `airlock token`: API tokens. A new token's secret is printed once.

use airlock_api::token::{TokenCreated, TokenList, TokenRequest, TokenView};
use clap::Subcommand;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::Outcome;
use crate::output::{line, result, table};

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it
    Create {
        name: String,
        /// sessions:write, credentials:read, credentials:write or admin; may be repeated
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// List tokens
    Ls,
    /// Revoke a token by its id
    Revoke { id: String },
}

pub async fn run(global: &Global, command: TokenCommand) -> Outcome {
    let client = Client::open(global)?;
    Ok(match command {
        TokenCommand::Create { name, scopes } => {
            let created: TokenCreated = client.post("/api/tokens", &TokenRequest { name, scopes }).await?;
            result(global.json, &created, || line(created.token.expose()))
        }
        TokenCommand::Ls => {
            let list: TokenList = client.get("/api/tokens").await?;
            result(global.json, &list, || {
                let row = |view: &TokenView| {
                    vec![view.id.clone(), view.name.clone(), view.scopes.join(" "), view.created_at.clone()]
                };
                table(&["id", "name", "scopes", "created"], list.tokens.iter().map(row).collect());
            })
        }
        TokenCommand::Revoke { id } => {
            client.delete(&format!("/api/tokens/{}", segment(&id))).await?;
            result(global.json, &json!({"revoked": id}), || line(format!("token {id} is revoked")))
        }
    })
}
