//! The boot test of a candidate image: a whole engine of its own, beside the daemon's if there is one.
//!
//! ```text
//! <state-dir>/boot-test/   a state directory: images/<candidate> (a link), vms/, evidence/, airlock.db, cache (a link)
//! namespace airlock-bt-<tag of the state directory>
//!
//! clear what a killed test left -> open -> start a bare machine of the candidate -> ready | failed -> end it -> remove all
//! ```
//!
//! So a candidate meets exactly what a session will meet, and nobody can start a session in it before it is published. A
//! failure leaves its evidence bundle with the installation's others. A test that was killed leaves a machine behind, which the
//! next build, or `airlock image gc`, ends.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_domain::Cause;
use airlock_domain::boot::TimelineEntry;
use airlock_domain::config::{Config, DemoIdp};
use airlock_domain::network::EgressSpec;
use airlock_domain::session::SessionState;
use airlock_effects::files::{FileError, create_private_dir, remove_dir};
use airlock_effects::network::NetworkError;
use airlock_image::{BootFailure, BootRecord, BootTest, Cancel, GoldenImage, ImageError};
use airlock_protocol::Stage;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;

use crate::clock::now_ms;
use crate::engine::{Engine, OpenError, StartSession};
use crate::error::Error;
use crate::records::{SessionEvent, SessionRecord};

/// The provider that boots a machine and signs nobody in.
const PROVIDER: &str = "shell";
const USER: &str = "boot-test";
/// How often a test looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// Why a boot test could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BootTestError {
    /// Its place cannot be made.
    #[error("prepare {}", path.display())]
    Prepare {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Its place cannot be made or removed.
    #[error("prepare the boot test's directory")]
    Files(#[from] FileError),
    /// Its engine does not open.
    #[error("open an engine for the boot test")]
    Open(#[source] Box<OpenError>),
    /// Its engine refuses.
    #[error("start a machine for the boot test")]
    Engine(#[from] Error),
    /// Its namespace stays.
    #[error("remove the boot test's namespace")]
    Network(#[from] NetworkError),
}

/// A boot test as `config` says, for builds that block a thread. Must be called on a tokio runtime, which then runs the machine.
pub fn boot_test(config: &Config) -> BootTest {
    let (config, runtime) = (config.clone(), Handle::current());
    BootTest::new(move |candidate, cancel, tell| runtime.block_on(run(&config, candidate, cancel, tell)))
}

/// Ends what a boot test that was killed left. One that still runs is left alone.
pub async fn clear_boot_test(config: &Config) -> Result<(), BootTestError> {
    let own = own_config(config, None);
    if !own.state_dir.exists() {
        return Ok(());
    }
    let engine = match Engine::open(own).await {
        Err(OpenError::StateDir(FileError::InUse { .. })) => return Ok(()),
        opened => opened.map_err(|source| BootTestError::Open(Box::new(source)))?,
    };
    close(engine).await
}

async fn run(
    config: &Config,
    candidate: &GoldenImage,
    cancel: &Cancel,
    tell: &mut dyn FnMut(&str),
) -> Result<BootRecord, ImageError> {
    let not_run = |source: BootTestError| ImageError::BootTest { image: candidate.name.clone(), source: source.into() };
    clear_boot_test(config).await.map_err(not_run)?;
    let own = own_config(config, Some(&candidate.name));
    prepare(&own.state_dir, config, candidate).map_err(not_run)?;
    let engine = Engine::open(own).await.map_err(|source| not_run(BootTestError::Open(Box::new(source))))?;
    let booted = boot(&engine, candidate, cancel, tell).await;
    if let Ok(Outcome::Failed(BootFailure { evidence_id: Some(id), .. })) = &booted {
        keep_evidence(engine.config(), config, id);
    }
    let closed = close(engine).await;
    match booted.map_err(not_run)? {
        Outcome::Failed(failure) => {
            Err(ImageError::BootTestFailed { image: candidate.name.clone(), failure: Box::new(failure) })
        }
        Outcome::Cancelled => Err(ImageError::Cancelled),
        Outcome::Ready(record) => closed.map(|()| record).map_err(not_run),
    }
}

enum Outcome {
    Ready(BootRecord),
    Failed(BootFailure),
    Cancelled,
}

/// Starts a machine and follows it until it is ready, has failed, or is not wanted any more.
async fn boot(
    engine: &Engine,
    candidate: &GoldenImage,
    cancel: &Cancel,
    tell: &mut dyn FnMut(&str),
) -> Result<Outcome, BootTestError> {
    let request = StartSession { user_id: USER.to_owned(), provider: PROVIDER.to_owned(), idempotency_key: None };
    let session = engine.start_session(request).await?;
    tell(&format!("booting {} with {}", candidate.reference(), session.driver));
    let mut watch = engine.watch(session.id).await?;
    let mut told = 0;
    loop {
        let (session, timeline) = (engine.session(session.id).await?, engine.timeline(session.vm_id).await?);
        for entry in timeline.iter().skip(told) {
            tell(&stage_line(entry));
        }
        told = timeline.len();
        match session.state {
            SessionState::AwaitingUser => return Ok(Outcome::Ready(record(&session, timeline))),
            state if state.is_terminal() => return Ok(Outcome::Failed(failure(&session))),
            _ => {}
        }
        if wait(&mut watch.events, cancel).await {
            return Ok(Outcome::Cancelled);
        }
    }
}

/// Waits for news; `true` if the test was cancelled meanwhile.
async fn wait(events: &mut tokio::sync::broadcast::Receiver<SessionEvent>, cancel: &Cancel) -> bool {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(_) | Err(RecvError::Lagged(_)) => return false,
                // Nothing more will be told: what the records say is the last word.
                Err(RecvError::Closed) => tokio::time::sleep(LOOK).await,
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        if cancel.is_asked() {
            return true;
        }
        if events.is_closed() {
            return false;
        }
    }
}

fn record(session: &SessionRecord, timeline: Vec<TimelineEntry>) -> BootRecord {
    let ready = timeline.iter().find(|entry| entry.stage == Stage::Ready).map_or(0.0, |entry| entry.at_ms);
    BootRecord { driver: session.driver.to_string(), ready_ms: ready, tested_ms: now_ms(), timeline }
}

fn failure(session: &SessionRecord) -> BootFailure {
    match &session.failure {
        Some(failure) => BootFailure {
            cause: failure.cause,
            stage: failure.stage,
            detail: failure.detail.clone(),
            evidence_id: failure.evidence_id.clone(),
        },
        None => BootFailure {
            cause: Cause::Inconclusive,
            stage: None,
            detail: format!("the machine ended as {}", session.state),
            evidence_id: None,
        },
    }
}

fn stage_line(entry: &TimelineEntry) -> String {
    let mark = if entry.ok { ' ' } else { '!' };
    let words = [&entry.errno, &entry.detail].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    format!("{:>9.1} ms {mark} {:<18} {words}", entry.at_ms, entry.stage.name()).trim_end().to_owned()
}

/// The installation's configuration in a place of its own.
fn own_config(config: &Config, image: Option<&str>) -> Config {
    let mut own = config.clone();
    own.state_dir = config.state_dir.join("boot-test");
    let tag = Sha256::digest(own.state_dir.as_os_str().as_encoded_bytes());
    own.network.namespace = format!("airlock-bt-{:02x}{:02x}{:02x}{:02x}", tag[0], tag[1], tag[2], tag[3]);
    own.network.egress = EgressSpec::default();
    own.demo_idp = DemoIdp::default();
    own.images.require_verified = false;
    own.provider_images = image.map(|image| (PROVIDER.to_owned(), image.to_owned())).into_iter().collect();
    own
}

/// A state directory in which the candidate is the only image.
fn prepare(dir: &Path, config: &Config, candidate: &GoldenImage) -> Result<(), BootTestError> {
    let images = dir.join("images");
    create_private_dir(&images)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BootTestError::Prepare { path, source }
    };
    let link = images.join(candidate.reference());
    symlink(&candidate.dir, &link).map_err(failed(&link))?;
    let current = images.join(format!("{}.current", candidate.name));
    std::fs::write(&current, format!("{}\n", candidate.reference())).map_err(failed(&current))?;
    // The verdict of the probe boot is the host's, not the test's.
    let cache = dir.join("cache");
    symlink(config.state_dir.join("cache"), &cache).map_err(failed(&cache))
}

/// Puts a bundle with the installation's others. One that cannot be moved is lost with the test's directory, and said so.
fn keep_evidence(own: &Config, config: &Config, id: &str) {
    let (from, to) = (own.state_dir.join("evidence").join(id), config.state_dir.join("evidence"));
    let kept = create_private_dir(&to).map_err(|error| error.to_string());
    let moved = kept.and_then(|()| std::fs::rename(&from, to.join(id)).map_err(|error| error.to_string()));
    if let Err(error) = moved {
        tracing::warn!(evidence = id, error, "the evidence of a boot test is not kept");
    }
}

/// Ends every machine and removes namespace and directory.
async fn close(engine: Engine) -> Result<(), BootTestError> {
    let (dir, network) = (engine.config().state_dir.clone(), engine.network().clone());
    for vm in engine.vms().await?.into_iter().filter(|vm| vm.ended_ms.is_none()) {
        engine.destroy_vm(vm.id).await?;
    }
    engine.shutdown().await;
    drop(engine);
    network.delete().await?;
    remove_dir(&dir)?;
    Ok(())
}
