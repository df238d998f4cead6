//! `airlock credentials`: what the vault holds. Only `export` reads contents, and writes them to files of mode 0600 or less.

use std::path::{Component, Path, PathBuf};

use airlock_api::credential::{CredentialContent, CredentialFile, CredentialList, CredentialView};
use airlock_effects::files;
use clap::Subcommand;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use crate::output::{facts, line, result, table};

#[derive(Debug, Subcommand)]
pub enum CredentialsCommand {
    /// List a user's credentials
    Ls { user: String },
    /// Show what a credential is, without its contents
    Show { user: String, provider: String },
    /// Write a credential's files below a directory
    Export {
        user: String,
        provider: String,
        /// Directory; made if it does not exist
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
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
                    vec![view.provider.clone(), view.created_at.clone(), view.files.join(" "), view.session_id.clone()]
                };
                table(&["provider", "sealed", "files", "session"], list.credentials.iter().map(row).collect());
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
        CredentialsCommand::Export { user, provider, to } => {
            let content: CredentialContent = client.get(&path(&user, &provider)).await?;
            let mut written = Vec::new();
            for file in &content.files {
                written.push(export(&to, file)?);
            }
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
        ("sealed", Some(view.created_at.clone())),
        ("session", Some(view.session_id.clone())),
        ("key", Some(view.key_id.clone())),
        ("files", Some(view.files.join(" "))),
    ]);
}

/// Writes one file below `dir`. The path comes from a guest, so it must not lead out.
fn export(dir: &Path, file: &CredentialFile) -> Outcome<PathBuf> {
    let relative = Path::new(&file.path);
    let plain =
        relative.components().all(|part| matches!(part, Component::Normal(_))) && relative.file_name().is_some();
    if !plain {
        let message = format!("the credential's path {:?} leads out of the directory", file.path);
        return Err(Failure::new(
            FAILED,
            "bad_credential_path",
            message,
            "correct the credential path in the provider file",
        ));
    }
    let path = dir.join(relative);
    let mode = (file.mode & 0o600) | 0o400;
    let written = files::create_private_dir(dir)
        .and_then(|()| path.parent().map_or(Ok(()), files::create_private_dir))
        .and_then(|()| files::write_atomic(&path, file.content.expose().as_bytes(), mode));
    written.map_err(|error| {
        Failure::new(
            FAILED,
            error.cause().unwrap_or("export_failed"),
            error.to_string(),
            "give a directory that can be written",
        )
        .beneath(&error)
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_protocol::Sensitive;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &str, mode: u32) -> CredentialFile {
        CredentialFile { path: path.into(), mode, content: Sensitive::new("s3cret") }
    }

    #[test]
    fn files_are_private_and_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let path = export(&to, &file(".tool/credentials.json", 0o644)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "s3cret");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(to.join(".tool").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_path_never_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/x", "a/../../x", "", "."] {
            assert!(export(dir.path(), &file(bad, 0o600)).is_err(), "{bad}");
        }
    }
}
