//! The daemon's life: first token, demo identity provider, listener, orderly end.
//!
//! | signal | what it asks for |
//! |---|---|
//! | SIGTERM | end the daemon; machines live on for the next one, which adopts them (an upgrade kills nobody) |
//! | SIGINT | end the daemon and every machine |
//! | SIGHUP | a pass of the reconciler now |
//!
//! On the first of SIGTERM and SIGINT new connections are refused, streams and screens are closed with a reason, answers under
//! way get [`DRAIN`] to finish, then the machines are let go or ended. A second signal does not wait.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use airlock_domain::config::Config;
use airlock_effects::files;
use airlock_effects::network::NetworkError;
use airlock_engine::Engine;
use airlock_engine::records::Scope;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::app::router;
use crate::demo_idp;

/// Time for answers under way.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The admin token cannot be made or checked.
    #[error("make the first admin token")]
    AdminToken(#[source] Box<airlock_engine::Error>),
    /// The admin token cannot be written.
    #[error("write the admin token to {}", path.display())]
    WriteToken {
        /// Where it belongs.
        path: PathBuf,
        /// Why not.
        #[source]
        source: files::FileError,
    },
    /// The demo identity provider cannot listen inside the namespace.
    #[error("listen for the demo identity provider on {addr} in the namespace")]
    DemoListen {
        /// Its address.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: NetworkError,
    },
    /// The demo identity provider has no password.
    #[error("demo_idp.enabled needs demo_idp.password")]
    DemoPassword,
    /// The listener failed.
    #[error("serve on {addr}")]
    Listener {
        /// Its address.
        addr: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ServeError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AdminToken(_) | Self::WriteToken { .. } => "admin_token_failed",
            Self::DemoListen { .. } => "demo_idp_listen_failed",
            Self::DemoPassword => "demo_idp_password_missing",
            Self::Listener { .. } => "listener_failed",
        }
    }

    /// What to do next.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::AdminToken(_) => "see the cause; the state directory must be writable and its database intact",
            Self::WriteToken { .. } => "make the state directory writable for the daemon and free space on it",
            Self::DemoListen { .. } => "choose another demo_idp.port, or stop what listens there in the namespace",
            Self::DemoPassword => {
                "set demo_idp.password, or start the daemon with airlock serve or airlock up, which choose one"
            }
            Self::Listener { .. } => "see the cause",
        }
    }
}

/// Path of the admin token in a state directory.
fn admin_token_path(config: &Config) -> PathBuf {
    config.state_dir.join("admin.token")
}

/// Makes sure that `<state-dir>/admin.token` (0600) holds a valid admin token: writes a new one if the file is missing or belongs
/// to another database. Returns its path. Called by [`serve`]; earlier calls save a caller from waiting for the listener.
pub async fn prepare(engine: &Engine) -> Result<PathBuf, ServeError> {
    let admin_token = |error| ServeError::AdminToken(Box::new(error));
    let path = admin_token_path(engine.config());
    if let Some(token) = read_token(&path)
        && engine.authenticate(&token).await.map_err(admin_token)?.is_some_and(|record| record.allows(Scope::Admin))
    {
        return Ok(path);
    }
    let (_, token) = engine.create_token("admin.token", &[Scope::Admin]).await.map_err(admin_token)?;
    match files::write_atomic(&path, format!("{token}\n").as_bytes(), files::PRIVATE_FILE) {
        Ok(()) => Ok(path),
        Err(source) => Err(ServeError::WriteToken { path, source }),
    }
}

fn read_token(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let token = text.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

/// Serves until `shutdown` completes, then ends in order.
pub async fn serve(
    engine: Engine,
    listener: TcpListener,
    shutdown: impl Future<Output = Ending> + Send + 'static,
) -> Result<(), ServeError> {
    prepare(&engine).await?;
    let demo = start_demo_idp(&engine).await?;
    let addr = listener.local_addr().map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string());
    tracing::info!(%addr, state_dir = %engine.config().state_dir.display(), "serving");

    let (close, closing) = watch::channel(None);
    let passes = tokio::spawn(reconcile_on_hangup(engine.clone()));
    let app = router(engine.clone(), closing.clone());
    // Pieces of a screen are small and many: none waits for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
    });
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let ending = shutdown.await;
        tracing::info!(?ending, "ending");
        let _ = close.send(Some(ending));
    });
    let asked = closing.clone();
    let drained = async {
        let mut closing = closing;
        let _ = closing.wait_for(Option::is_some).await;
        tokio::time::sleep(DRAIN).await;
    };
    let outcome = tokio::select! {
        served = server => served.map_err(|source| ServeError::Listener { addr, source }),
        () = drained => {
            tracing::warn!("connections stayed open for {} s after the end was asked for", DRAIN.as_secs());
            Ok(())
        }
    };
    if let Some(demo) = demo {
        demo.abort();
    }
    passes.abort();
    let ending = *asked.borrow();
    match ending {
        Some(Ending::Detach) => engine.detach().await,
        // A listener that failed leaves a daemon that nobody reaches: its machines wait for the next one.
        None => engine.detach().await,
        Some(Ending::EndVms) => engine.shutdown().await,
    }
    outcome
}

async fn start_demo_idp(engine: &Engine) -> Result<Option<tokio::task::JoinHandle<()>>, ServeError> {
    let config = engine.config();
    if !config.demo_idp.enabled {
        return Ok(None);
    }
    let password = config.demo_idp.password.as_deref().ok_or(ServeError::DemoPassword)?;
    let account = demo_idp::Account::new(&config.demo_idp.user, password);
    let addr = SocketAddr::new(config.network.subnet.gateway().into(), config.demo_idp.port);
    let listener = engine.network().listen(addr).await.map_err(|source| ServeError::DemoListen { addr, source })?;
    tracing::info!(%addr, namespace = engine.network().namespace(), "demo identity provider listening");
    let serve = axum::serve(listener, demo_idp::router(account));
    Ok(Some(tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "the demo identity provider ended");
        }
    })))
}

/// What becomes of the machines when the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They live on for the next daemon.
    Detach,
    /// They end with it.
    EndVms,
}

/// Completes on the first SIGTERM or SIGINT. On the second the process exits at once with 130.
pub async fn shutdown_signal() -> Ending {
    let ending = any_signal().await;
    tokio::spawn(async {
        any_signal().await;
        tracing::warn!("second signal: ending without order");
        std::process::exit(130);
    });
    ending
}

async fn reconcile_on_hangup(engine: Engine) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        if let Err(error) = engine.reconcile().await {
            tracing::error!(error = %crate::error::chain(&error), "no pass");
        }
    }
}

async fn any_signal() -> Ending {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be received; end the daemon with SIGKILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => Ending::Detach,
        _ = int.recv() => Ending::EndVms,
    }
}
