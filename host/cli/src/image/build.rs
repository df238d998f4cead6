//! `airlock image build`, `builds` and `log`: a build in this process with its stages on screen, or one that the daemon runs.
//!
//! Ctrl-C (SIGINT, SIGTERM) cancels the build: its tool is killed, its machine ended, nothing of it is left.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use airlock_api::build::{BuildRequest, BuildView};
use airlock_domain::config::Config;
use airlock_engine::images::{boot_test, clear_boot_test};
use airlock_image::job::{self, BuildRecord, now_ms};
use airlock_image::{BuildEvent, BuildOptions, BuildStage, Cancel, GoldenImage, LoadedRecipe, build};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::blocking;
use crate::args::Global;
use crate::client::Client;
use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use crate::output::{line, printable, result, table};
use crate::progress::Progress;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How an image is built.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Fetch kernel and packages anew.
    pub refresh: bool,
    /// Boot it before it is published.
    pub boot_test: bool,
    /// Wait for another build.
    pub wait: bool,
    /// Nothing on screen.
    pub quiet: bool,
}

/// Builds the image of a recipe, its stages on screen.
pub async fn build_one(config: &Config, recipe: &str, how: How) -> Outcome<GoldenImage> {
    build_loaded(config, LoadedRecipe::load(recipe)?, how).await
}

/// Builds one image, its stages on screen.
pub async fn build_loaded(config: &Config, loaded: LoadedRecipe, how: How) -> Outcome<GoldenImage> {
    let cancel = Cancel::new();
    let asked = tokio::spawn(cancel_on_signal(cancel.clone()));
    // What a boot test that was killed left is not this build's affair: it must not fail for it.
    if let Err(error) = clear_boot_test(config).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an earlier boot test left something");
    }
    let options = BuildOptions {
        refresh: how.refresh,
        wait: how.wait,
        boot_test: how.boot_test.then(|| boot_test(config)),
        cancel,
        ..BuildOptions::at(&config.state_dir)
    };
    let built = blocking(move || {
        let name = loaded.recipe.name.clone();
        let progress = (!how.quiet).then(|| Progress::new(&format!("image {name}")));
        let mut tell = |record: &BuildRecord, event: Option<BuildEvent>| {
            if let (Some(progress), Some(event)) = (&progress, event) {
                show(progress, record, event);
            }
        };
        let image = job::recorded(&options.state_dir, &name, &mut tell, |observe| build(&loaded, &options, observe))?;
        if let Some(progress) = &progress {
            let state = if image.boot_record().is_some() { "" } else { "  (unverified: not booted)" };
            progress.line(&format!("image {name}   published as {}{state}", image.reference()));
        }
        Ok(image)
    })
    .await;
    asked.abort();
    built
}

async fn cancel_on_signal(cancel: Cancel) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
}

fn show(progress: &Progress, record: &BuildRecord, event: BuildEvent) {
    let name = &record.name;
    match event {
        BuildEvent::Started { stage } => {
            let left = record
                .remaining(now_ms())
                .map_or(String::new(), |left| format!(", about {} s left as in the last build", left.as_secs().max(1)));
            progress.waiting(&format!("image {name}: {stage}{left}"));
        }
        // What is waited for, and what the machine does, is worth a line of its own.
        BuildEvent::Log { stage: BuildStage::Lock | BuildStage::BootTest, line } => {
            progress.line(&format!("image {name}   {}", printable(&line)));
        }
        BuildEvent::Log { stage, line } => progress.detail(&format!("image {name}: {stage}: {line}")),
        BuildEvent::Finished { stage, elapsed, reused } => {
            let how = if reused { "  (from the cache)" } else { "" };
            progress.line(&format!("image {name}   {:<12} {:>7.1} s{how}", stage.name(), elapsed.as_secs_f64()));
        }
    }
}

/// Asks the daemon for a build and does not wait for it.
pub async fn detach(global: &Global, recipe: &str, how: How) -> Outcome<BuildView> {
    let client = Client::open(global)?;
    let request =
        BuildRequest { recipe: recipe.to_owned(), refresh: how.refresh, boot_test: how.boot_test, wait: how.wait };
    let begun: BuildView = client.post("/api/images/builds", &request).await?;
    if !how.quiet {
        line(format!(
            "image {}   build {} runs in the daemon; airlock image log {} --follow",
            begun.name, begun.id, begun.name
        ));
    }
    Ok(begun)
}

/// The latest build of each image.
pub fn builds(state_dir: &Path, json: bool) -> Outcome {
    let builds = job::builds(state_dir)?;
    Ok(result(json, &json!({ "builds": builds }), || {
        let now = now_ms();
        let seconds = |ms: i64| format!("{:.0} s", std::time::Duration::from_millis(ms.unsigned_abs()).as_secs_f64());
        let rows = builds.iter().map(|build| {
            let left = build.remaining(now).map_or(String::new(), |left| format!("about {} s left", left.as_secs()));
            let failure = build.failure.as_ref().map(|failure| format!("{}: {}", failure.code, failure.message));
            vec![
                build.name.clone(),
                build.state.name().to_owned(),
                build.stage().map_or(String::new(), |stage| stage.name().to_owned()),
                seconds(build.ended_ms.unwrap_or(now) - build.started_ms),
                build.image.clone().or(failure).unwrap_or(left),
            ]
        });
        table(&["name", "state", "stage", "time", "outcome"], rows.collect());
    }))
}

/// Prints the log of the latest build of an image; with `follow` until that build is over.
pub fn log(state_dir: &Path, name: &str, follow: bool) -> Outcome {
    let path = job::build_log(state_dir, name);
    let unreadable = |error: std::io::Error| {
        let (exit, code) = match error.kind() {
            std::io::ErrorKind::NotFound => (NOT_FOUND, "no_build"),
            _ => (FAILED, "log_unreadable"),
        };
        let remedy = "see airlock image builds for what was built in this state directory";
        Failure::new(exit, code, format!("read the build log {}", path.display()), remedy).because(&error)
    };
    let mut file = File::open(&path).map_err(unreadable)?;
    let mut read = 0;
    loop {
        // Asked first: what is written before the end is then read below.
        let over = job::latest_build(state_dir, name).is_none_or(|build| build.state.is_over());
        // The next build begins the file anew.
        if file.metadata().map_err(unreadable)?.len() < read {
            read = file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        }
        let mut text = Vec::new();
        read += file.read_to_end(&mut text).map_err(unreadable)? as u64;
        // A reader that went away ends it.
        if std::io::stdout().write_all(printable(&String::from_utf8_lossy(&text)).as_bytes()).is_err()
            || over
            || !follow
        {
            return Ok(std::process::ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
}
