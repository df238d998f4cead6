//! `airlock provider`: which tools can be signed in, and whether a provider's file is right.
//!
//! `check` reads the file alone. With `--run` the daemon runs the real tool, in a VM of its own, up to its page or its code; what
//! was seen is printed without secrets, and the session is ended.

use std::path::PathBuf;
use std::process::ExitCode;

use airlock_api::catalog::ProviderList;
use airlock_api::session::{OauthUrl, SessionView};
use airlock_domain::provider::{Provider, ProviderError};
use clap::Subcommand;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome, USAGE};
use crate::follow::{Event, follow_until};
use crate::login::{cancel, start};
use crate::output::{facts, line, result, table};

#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// List the providers of the daemon
    Ls,
    /// Check a provider's file; exit 2 if it is refused
    Check {
        file: PathBuf,
        /// Also run the tool in a VM of the daemon, up to its page or code, and end it
        #[arg(long)]
        run: bool,
        /// Whose sign-in the run is
        #[arg(long, value_name = "ID", default_value = "provider-check")]
        user: String,
    },
}

pub async fn run(global: &Global, command: ProviderCommand) -> Outcome {
    match command {
        ProviderCommand::Ls => {
            let list: ProviderList = Client::open(global)?.get("/api/providers").await?;
            let rows = list.providers.iter().map(|one| vec![one.id.clone(), one.name.clone(), one.image.clone()]);
            Ok(result(global.json, &list, || table(&["id", "name", "image"], rows.collect())))
        }
        ProviderCommand::Check { file, run, user } => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(&file).map_err(|error| {
                Failure::new(NOT_FOUND, "provider_unreadable", format!("read {name}"), "").because(&error)
            })?;
            let provider = Provider::parse(&name, &text).map_err(|error| refused(&error))?;
            if run { try_out(global, &provider, &user).await } else { Ok(valid(global, &provider)) }
        }
    }
}

fn refused(error: &ProviderError) -> Box<Failure> {
    let remedy = "correct the field; README, section Providers, has them all";
    Failure::new(USAGE, "provider_invalid", error.to_string(), remedy).beneath(error)
}

fn valid(global: &Global, provider: &Provider) -> ExitCode {
    let login = provider.login.as_ref();
    let flows: Vec<&str> = login.iter().flat_map(|login| &login.flows).map(|flow| flow.name()).collect();
    let files: Vec<&str> = login.iter().flat_map(|login| &login.credentials).map(|file| file.path.as_str()).collect();
    let checked = provider.versions.as_ref().map(|versions| versions.checked.join(", "));
    let body = json!({"valid": true, "id": provider.id, "image": provider.image, "flows": flows, "credentials": files,
        "checked": checked});
    result(global.json, &body, || {
        facts(&[
            ("provider", Some(format!("{} ({})", provider.id, provider.name))),
            ("image", Some(provider.image.clone())),
            ("flows", Some(flows.join(", "))),
            ("credentials", Some(files.join(", "))),
            ("checked with", checked.clone()),
            ("terms", provider.terms.clone()),
        ]);
    })
}

async fn try_out(global: &Global, provider: &Provider, user: &str) -> Outcome {
    let client = Client::open(global)?;
    let list: ProviderList = client.get("/api/providers").await?;
    if !list.providers.iter().any(|known| known.id == provider.id) {
        let remedy = "put the file into the daemon's providers_dir and start the daemon again";
        return Err(Failure::new(NOT_FOUND, "unknown_provider", format!("the daemon has no {}", provider.id), remedy));
    }
    let started = start(&client, user, &provider.id).await?;
    let followed = tokio::select! {
        followed = follow_until(&client, &started.session_id, |event| match event {
            Event::State(session) => session.is_over() || session.state == "awaiting_user",
            Event::Stage(_) => false,
        }) => followed.map(drop),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let path = format!("/api/auth/session/{}", segment(&started.session_id));
    let seen: Outcome<(SessionView, Option<OauthUrl>)> = async {
        followed?;
        let session: SessionView = client.get(&path).await?;
        let page = client.get::<OauthUrl>(&format!("{path}/oauth-url")).await.ok();
        Ok((session, page))
    }
    .await;
    // Whatever came of it, nothing of it stays.
    let ended = cancel(&client, &started.session_id).await;
    let (session, page) = seen?;
    ended?;
    let page_seen = page.as_ref().map(|page| without_query(page.url.expose()));
    let login = session.login.as_ref();
    // A session that failed has a cause for good; its login goes with its machine.
    let outcome = session.cause.clone().or_else(|| login.and_then(|login| login.outcome.clone()));
    let has_code = page.as_ref().is_some_and(|page| page.user_code.is_some());
    let body = json!({"id": provider.id, "flow": login.map(|login| &login.flow), "page": page_seen, "userCode": has_code,
        "codeWanted": login.is_some_and(|login| login.code_wanted), "outcome": outcome});
    let code = result(global.json, &body, || {
        facts(&[
            ("provider", Some(provider.id.clone())),
            ("flow", login.map(|login| login.flow.clone())),
            ("page", page_seen.clone()),
            ("user code", has_code.then(|| "shown".to_owned())),
            ("asks for a code", login.filter(|login| login.code_wanted).map(|_| "yes".to_owned())),
            ("outcome", outcome.clone()),
        ]);
    });
    if page_seen.is_some() && outcome.is_none() {
        return Ok(code);
    }
    if !global.json {
        line("the tool showed no page that its provider's file knows");
    }
    Ok(ExitCode::from(FAILED))
}

/// A URL as it may be shown: without query and fragment, where codes and states are.
fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_shown_without_its_secrets() {
        assert_eq!(without_query("https://i/a/b?state=s3cret#c"), "https://i/a/b");
        assert_eq!(without_query("https://i/device"), "https://i/device");
    }

    #[test]
    fn every_shipped_file_is_valid() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../providers");
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(files.len() >= 7, "{files:?}");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            Provider::parse(&file.display().to_string(), &text).unwrap();
        }
    }
}
