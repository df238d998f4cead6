//! `airlock login`: one sign-in from start to outcome. Ctrl-C cancels it.
//!
//! With `--until` it is a trial of the image instead: it ends the session, and its machine, when that stage was reached.

use std::process::ExitCode;

use airlock_api::session::{LoginView, SessionView, StageView, StartRequest, StartResponse};
use airlock_protocol::Stage;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::args::Global;
use crate::client::Client;
use crate::desktop::Browser;
use crate::failure::{FAILED, Failure, Outcome};
use crate::follow::{Event, follow_until};
use crate::login_news::news;
use crate::output::{json_line, line};
use crate::progress::{Progress, next_stage, stage_line};

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Provider, see GET /api/providers
    pub provider: String,
    /// Whose sign-in it is
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// Open the viewer in this machine's browser: $BROWSER, else xdg-open
    #[arg(long)]
    pub open: bool,
    /// Only try the image: when this stage was reached (`reachable`, `ready`, ...) print how long it took, end the session, exit 0
    #[arg(long, value_name = "STAGE", conflicts_with = "open")]
    pub until: Option<Stage>,
}

pub async fn run(global: &Global, args: LoginArgs) -> Outcome {
    let client = Client::open(global)?;
    // Before anything is started: without a browser there is nothing to open the link with.
    let browser = if args.open { Some(Browser::find()?) } else { None };
    let started = start(&client, &args.user, &args.provider).await?;
    if global.json {
        json_line(&json!({"event": "started", "sessionId": started.session_id, "novncURL": started.novnc_url,
                          "browserIP": started.browser_ip, "queuePosition": started.queue_position}));
    } else {
        line(format!("session {}   {}", started.session_id, place(&started)));
    }
    let mut shown = Shown::new(&started, global.json);
    let mut opened = None;
    if let Some(browser) = &browser {
        // The page shows the boot as well, so it need not wait.
        shown.link();
        opened = browser.open(&started.novnc_url);
    }
    let mut reached = None;
    let session = tokio::select! {
        session = follow_until(&client, &started.session_id, |event| {
            shown.event(event);
            reached = args.until.and_then(|wanted| at(event, wanted));
            reached.is_some()
        }) => session?,
        _ = tokio::signal::ctrl_c() => None,
    };
    let session = match session {
        Some(session) => session,
        None => {
            shown.waiting("ending the session");
            cancel(&client, &started.session_id).await?
        }
    };
    let stages = std::mem::take(&mut shown.stages);
    drop((shown, opened));
    if let (Some(stage), Some(at_ms)) = (args.until, reached) {
        if global.json {
            json_line(&json!({"reached": stage, "atMs": at_ms, "session": session, "timeline": {"stages": stages}}));
        } else {
            line(format!("{stage} after {at_ms:.0} ms; the session is {}", session.state));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if session.state == "completed" || !global.json {
        outcome(&session)?;
    }
    if global.json {
        json_line(&json!({"session": session, "timeline": {"stages": stages}}));
    }
    Ok(if session.state == "completed" { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// When `wanted` was reached, if that is what happened.
fn at(event: &Event, wanted: Stage) -> Option<f64> {
    match event {
        Event::Stage(stage) if stage.ok && stage.stage == wanted => Some(stage.at_ms),
        _ => None,
    }
}

/// Ends a session; returns when nothing of its machine is left.
pub async fn cancel(client: &Client, id: &str) -> Outcome<SessionView> {
    client.post(&format!("/api/auth/session/{id}/cancel"), &json!({})).await
}

/// Starts a sign-in; repeated on the way, it is still one.
pub async fn start(client: &Client, user: &str, provider: &str) -> Outcome<StartResponse> {
    let body = StartRequest { user_id: user.to_owned(), provider: provider.to_owned() };
    client.post_once("/api/auth/start", &body, &Uuid::new_v4().to_string()).await
}

/// Where a session stands right after its start.
pub fn place(started: &StartResponse) -> String {
    match (started.browser_ip, started.queue_position) {
        (Some(address), _) => format!("address {address}"),
        (None, Some(place)) => format!("waits for room, place {place}"),
        (None, None) => "waits for room".to_owned(),
    }
}

/// A final state as result: everything but `completed` is a failure with its cause.
pub fn outcome(session: &SessionView) -> Outcome<()> {
    if session.state == "completed" {
        return Ok(());
    }
    let mut failure = match &session.error {
        Some(detail) => Box::new(Failure { exit: FAILED, detail: detail.clone(), chain: Vec::new() }),
        None => {
            let code = format!("session_{}", session.state);
            let message = format!("session {} is {}", session.session_id, session.state);
            Failure::new(FAILED, &code, message, "start another sign-in")
        }
    };
    failure.detail.stage = failure.detail.stage.or(session.stage);
    Err(failure)
}

/// What the person at the terminal sees of a session.
pub struct Shown {
    progress: Option<Progress>,
    link: String,
    link_shown: bool,
    state: String,
    login: Option<LoginView>,
    stages: Vec<StageView>,
}

impl Shown {
    pub fn new(started: &StartResponse, json: bool) -> Self {
        Self {
            progress: (!json).then(|| Progress::new("waiting for the machine")),
            link: started.novnc_url.clone(),
            link_shown: false,
            state: String::new(),
            login: None,
            stages: Vec::new(),
        }
    }

    /// The link was printed already.
    pub fn link_is_known(&mut self) {
        self.link_shown = true;
    }

    /// Prints the link, once. As JSON it was told with the start.
    fn link(&mut self) {
        if let (false, Some(progress)) = (self.link_shown, &self.progress) {
            progress.line(&format!("open the viewer (the link works once): {}", self.link));
            self.link_shown = true;
        }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Stage(stage) => {
                self.stages.push(stage.clone());
                match &self.progress {
                    Some(progress) => {
                        progress.line(&stage_line(stage));
                        progress.waiting(&next_stage(stage.stage));
                    }
                    None => json_line(&json!({"event": "stage", "stage": stage})),
                }
            }
            Event::State(session) => self.state(session),
        }
    }

    fn state(&mut self, session: &SessionView) {
        let (is_new, is_told) = (self.state != session.state, self.login == session.login);
        if !is_new && is_told {
            return;
        }
        self.state.clone_from(&session.state);
        self.login.clone_from(&session.login);
        if self.progress.is_none() {
            return json_line(&json!({"event": "state", "session": session}));
        }
        if is_new {
            self.new_state(session);
        }
        if let (false, Some(news), Some(progress)) = (is_told, news(session), &self.progress) {
            progress.line(&news);
        }
    }

    fn new_state(&mut self, session: &SessionView) {
        let Some(progress) = &self.progress else { return };
        match session.state.as_str() {
            "awaiting_user" => {
                progress.line("");
                self.link();
                let Some(progress) = &self.progress else { return };
                progress.waiting(&format!("waiting for {} to sign in", session.user_id));
            }
            "capturing" => progress.waiting("sealing the credential"),
            "completed" => progress.line("completed: the credential is sealed in the vault"),
            _ => {}
        }
    }

    fn waiting(&self, what: &str) {
        if let Some(progress) = &self.progress {
            progress.waiting(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_counts_when_it_was_reached() {
        let view = |stage, ok| Event::Stage(StageView { stage, ok, at_ms: 7.5, errno: None, detail: None });
        assert_eq!(at(&view(Stage::Reachable, true), Stage::Reachable), Some(7.5));
        assert_eq!(at(&view(Stage::Reachable, false), Stage::Reachable), None);
        assert_eq!(at(&view(Stage::AgentUp, true), Stage::Reachable), None);
    }
}
