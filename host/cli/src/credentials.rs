//! `airlock credentials`: what the vault holds. Only `export` reads contents; see [`crate::export`].

use std::path::PathBuf;

use airlock_api::credential::{CredentialContent, CredentialList, CredentialView};
use clap::Subcommand;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::export;
use crate::failure::{Failure, NOT_FOUND, Outcome};
use crate::output::{facts, line, result, table};

#[derive(Debug, Subcommand)]
pub enum CredentialsCommand {
    /// List a user's credentials
    Ls { user: String },
    /// Show what a credential is, without its contents
    Show { user: String, provider: String },
    /// Write a credential's files below a directory, as the tool expects them in its home; needs a token with credentials:read
    Export {
        user: String,
        provider: String,
        /// Directory; made if it does not exist
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Replace files that are there
        #[arg(long)]
        force: bool,
    },
    /// Forget a credential
    Rm { user: String, provider: String },
}

pub async fn run(global: &Global, command: CredentialsCommand) -> Outcome {
    let client = Client::open(global)?;
    Ok(match command {
        CredentialsCommand::Ls { user } => {
            let list = list(&client, &user).await?;
            result(global.json, &list, || {
                let row = |view: &CredentialView| {
                    let expires = view.expires_at.clone().unwrap_or_default();
                    vec![
                        view.provider.clone(),
                        view.written_at.clone(),
                        expires,
                        view.files.join(" "),
                        view.session_id.clone(),
                    ]
                };
                table(
                    &["provider", "written", "expires", "files", "session"],
                    list.credentials.iter().map(row).collect(),
                );
            })
        }
        CredentialsCommand::Show { user, provider } => {
            let found = list(&client, &user).await?.credentials.into_iter().find(|view| view.provider == provider);
            let found = found.ok_or_else(|| {
                let message = format!("user {user:?} has no credential of {provider:?}");
                Failure::new(NOT_FOUND, "no_credential", message, "see airlock credentials ls USER")
            })?;
            result(global.json, &json!({"credential": found}), || show(&found))
        }
        CredentialsCommand::Export { user, provider, to, force } => {
            let path = format!("{}?purpose=export", path(&user, &provider));
            // Looked at before the secret is asked for, and audited.
            export::check_directory(&to)?;
            let content: CredentialContent = client.get(&path).await?;
            let written = export::write(&to, &content.files, force)?;
            result(global.json, &json!({"written": written}), || {
                written.iter().for_each(|path| line(path.display().to_string()))
            })
        }
        CredentialsCommand::Rm { user, provider } => {
            client.delete(&path(&user, &provider)).await?;
            result(global.json, &json!({"deleted": {"userId": user, "provider": provider}}), || line("deleted"))
        }
    })
}

fn path(user: &str, provider: &str) -> String {
    format!("/api/auth/credentials/{}/{}", segment(user), segment(provider))
}

async fn list(client: &Client, user: &str) -> Outcome<CredentialList> {
    client.get(&format!("/api/auth/credentials/{}", segment(user))).await
}

fn show(view: &CredentialView) {
    facts(&[
        ("user", Some(view.user_id.clone())),
        ("provider", Some(view.provider.clone())),
        ("captured", Some(view.created_at.clone())),
        ("written", Some(view.written_at.clone())),
        ("expires", view.expires_at.clone()),
        ("version", Some(view.version.to_string())),
        ("session", Some(view.session_id.clone())),
        ("key", Some(view.key_id.clone())),
        ("files", Some(view.files.join(" "))),
    ]);
}
