//! `airlock session`: sign-ins of this daemon.

use std::io::IsTerminal;
use std::process::ExitCode;

use airlock_api::session::{OauthUrl, RetryRequest, SessionList, SessionView, Timeline};
use airlock_protocol::Sensitive;
use airlock_protocol::login::Flow;
use clap::Subcommand;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, segment};
use crate::failure::{FAILED, Failure, Outcome};
use crate::follow::{Event, follow};
use crate::login::outcome;
use crate::login_news::news;
use crate::output::{facts, json_line, line, result, table};
use crate::progress::{Progress, next_stage, stage_line};

#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List sessions, newest first
    Ls {
        /// Of this user only
        #[arg(long, value_name = "ID")]
        user: Option<String>,
    },
    /// Show a session with its timeline
    Show { id: String },
    /// Follow a session until it is over; exit 1 unless it completes
    Watch { id: String },
    /// End a session; returns when its machine is gone
    Cancel { id: String },
    /// Print the provider's page of a sign-in, and the code to type there. Both are secret
    Url { id: String },
    /// Show a page in the browser of a sign-in's machine
    Open {
        id: String,
        /// An http:// or https:// address
        url: String,
    },
    /// Type the code that the provider's page shows; it is read from the standard input
    Code { id: String },
    /// Try a login that failed again, in the same machine; in another flow also one that still runs
    Retry {
        id: String,
        /// Another flow of the provider
        #[arg(long, value_name = "FLOW", value_parser = flow_of)]
        flow: Option<Flow>,
    },
    /// Show what was removed when a session's machine was destroyed, signed
    Receipt { id: String },
}

pub async fn run(global: &Global, command: SessionCommand) -> Outcome {
    let client = Client::open(global)?;
    let path = |id: &str| format!("/api/auth/session/{}", segment(id));
    Ok(match command {
        SessionCommand::Ls { user } => {
            let user = user.map_or_else(String::new, |user| format!("/{}", segment(&user)));
            let list: SessionList = client.get(&format!("/api/auth/sessions{user}")).await?;
            result(global.json, &list, || {
                table(&["id", "user", "provider", "state", "stage", "address", "created"], rows(&list))
            })
        }
        SessionCommand::Show { id } => {
            let session: SessionView = client.get(&path(&id)).await?;
            let timeline: Timeline = client.get(&format!("{}/timeline", path(&id))).await?;
            let both = json!({"session": session, "timeline": timeline});
            result(global.json, &both, || {
                show(&session);
                timeline.stages.iter().for_each(|stage| line(stage_line(stage)));
            })
        }
        SessionCommand::Watch { id } => {
            let mut watching = Watching::new(global.json);
            let session = follow(&client, &segment(&id), |event| watching.event(event)).await?;
            drop(watching);
            if global.json {
                json_line(&json!({"session": session}));
                ExitCode::from(u8::from(session.state != "completed"))
            } else {
                outcome(&session)?;
                ExitCode::SUCCESS
            }
        }
        SessionCommand::Url { id } => {
            let page: OauthUrl = client.get(&format!("{}/oauth-url", path(&id))).await?;
            result(global.json, &page, || {
                line(page.url.expose());
                if let Some(code) = &page.user_code {
                    line(format!("code {}", code.expose()));
                }
            })
        }
        SessionCommand::Open { id, url } => {
            client.post_empty(&format!("{}/open-url", path(&id)), &json!({ "url": url })).await?;
            result(global.json, &json!({ "opened": true }), || line("opened"))
        }
        SessionCommand::Code { id } => {
            let code = read_code()?;
            let session: SessionView =
                client.post(&format!("{}/code", path(&id)), &json!({ "code": code.expose() })).await?;
            result(global.json, &json!({"session": session}), || line("sent"))
        }
        SessionCommand::Retry { id, flow } => {
            let session: SessionView = client.post(&format!("{}/retry", path(&id)), &RetryRequest { flow }).await?;
            result(global.json, &json!({"session": session}), || {
                let attempt = session.login.as_ref().map_or(0, |login| login.attempt);
                line(format!("session {} is {}, attempt {attempt}", session.session_id, session.state));
            })
        }
        SessionCommand::Receipt { id } => crate::audit::receipt(global, &id).await?,
        SessionCommand::Cancel { id } => {
            let session: SessionView = client.post(&format!("{}/cancel", path(&id)), &json!({})).await?;
            result(global.json, &json!({"session": session}), || {
                line(format!("session {} is {}", session.session_id, session.state))
            })
        }
    })
}

/// What is shown of a session that is watched: lines that stay, on a terminal with what is waited for below them; or JSON.
struct Watching {
    progress: Option<Progress>,
}

impl Watching {
    fn new(json: bool) -> Self {
        Self { progress: (!json).then(|| Progress::new("asking the daemon")) }
    }

    fn event(&mut self, event: &Event) {
        let Some(progress) = &self.progress else {
            return match event {
                Event::Stage(stage) => json_line(&json!({"event": "stage", "stage": stage})),
                Event::State(session) => json_line(&json!({"event": "state", "session": session})),
            };
        };
        match event {
            Event::Stage(stage) => {
                progress.line(&stage_line(stage));
                progress.waiting(&next_stage(stage.stage));
            }
            Event::State(session) => {
                progress.line(&format!("state {}, until {}", session.state, session.deadline));
                if let Some(news) = news(session) {
                    progress.line(&news);
                }
                progress.waiting(&waiting_for(session));
            }
        }
    }
}

fn waiting_for(session: &SessionView) -> String {
    match session.state.as_str() {
        "queued" => match session.queue_position {
            Some(place) => format!("waiting for room, place {place}"),
            None => "waiting for room".to_owned(),
        },
        "awaiting_user" => format!("waiting for {} to sign in", session.user_id),
        "capturing" => "sealing the credential".to_owned(),
        _ => session.stage.map_or_else(|| "waiting for the machine".to_owned(), next_stage),
    }
}

/// One line of the standard input: an argument would show in the process list.
fn read_code() -> Outcome<Sensitive> {
    if std::io::stdin().is_terminal() {
        eprint!("code: ");
    }
    let mut text = String::new();
    std::io::stdin()
        .read_line(&mut text)
        .map_err(|error| Failure::new(FAILED, "no_code", "read the code", "type it, or pipe it in").because(&error))?;
    Ok(Sensitive::new(text.trim()))
}

fn flow_of(name: &str) -> Result<Flow, String> {
    let flows = [Flow::DeviceCode, Flow::PasteCode, Flow::Loopback];
    flows.into_iter().find(|flow| flow.name() == name).ok_or_else(|| "device_code, paste_code or loopback".to_owned())
}

fn rows(list: &SessionList) -> Vec<Vec<String>> {
    let row = |session: &SessionView| {
        vec![
            session.session_id.clone(),
            session.user_id.clone(),
            session.provider.clone(),
            session
                .cause
                .as_ref()
                .map_or_else(|| session.state.clone(), |cause| format!("{} ({cause})", session.state)),
            session.stage.map(|stage| stage.to_string()).unwrap_or_default(),
            session.browser_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            session.created_at.clone(),
        ]
    };
    list.sessions.iter().map(row).collect()
}

fn show(session: &SessionView) {
    facts(&[
        ("session", Some(session.session_id.clone())),
        ("user", Some(session.user_id.clone())),
        ("provider", Some(session.provider.clone())),
        ("state", Some(session.state.clone())),
        ("stage", session.stage.map(|stage| stage.to_string())),
        ("machine", Some(session.vm_id.clone())),
        ("address", session.browser_ip.map(|ip| ip.to_string())),
        ("waits at", session.queue_position.map(|place| place.to_string())),
        ("created", Some(session.created_at.clone())),
        ("login", session.login.as_ref().map(|login| format!("{}, attempt {}", login.flow, login.attempt))),
        ("outcome", session.login.as_ref().and_then(|login| login.outcome.clone())),
        ("deadline", Some(session.deadline.clone())),
        ("at most until", Some(session.latest_deadline.clone()).filter(|_| session.more_time)),
        ("ended", session.ended_at.clone()),
        ("cause", session.cause.clone()),
        ("detail", session.error.as_ref().map(|error| error.message.clone())),
        ("evidence", session.evidence_id.clone()),
        ("remedy", session.remedy.clone()),
    ]);
}
