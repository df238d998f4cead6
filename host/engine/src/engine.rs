//! The engine's public face: accepts starts, hands them to one task each, answers questions from the store.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use airlock_domain::boot::{Failure, TimelineEntry};
use airlock_domain::config::{Config, ConfigError};
use airlock_domain::provider::{Provider, ProviderError};
use airlock_domain::session::SessionState;
use airlock_domain::{Cause, SessionId, VmId};
use airlock_effects::files::{FileError, StateLock, create_private_dir};
use airlock_effects::network::{Network, NetworkError};
use airlock_effects::vmm::VmmDriver;
use airlock_effects::vmm::qemu::{Accel, QemuDriver};
use airlock_image::{ImageError, Registry};
use serde::Serialize;
use tokio::sync::{OnceCell, broadcast};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::clock::now_ms;
use crate::context::{Context, DriverReport};
use crate::error::Error;
use crate::records::{Credential, CredentialRecord, Scope, SessionEvent, SessionRecord, TokenRecord, VmRecord};
use crate::store::{NewSession, Store, StoreError};
use crate::vault::{Vault, VaultError};
use crate::vm::{LiveVm, Order, VmTask, unwind};
use crate::{evidence, secrets};

/// How long a viewer link may be opened, in milliseconds.
const TICKET_MS: i64 = 10 * 60 * 1000;

/// The provider files that the product ships.
const PROVIDERS: [(&str, &str); 2] = [
    ("demo.toml", include_str!("../../../providers/demo.toml")),
    ("shell.toml", include_str!("../../../providers/shell.toml")),
];

/// Why the engine did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is refused.
    #[error("check the configuration")]
    Config(#[from] ConfigError),
    /// The state directory cannot be used, or another daemon has it.
    #[error("open the state directory")]
    StateDir(#[from] FileError),
    /// The database cannot be used.
    #[error("open the store")]
    Store(#[from] StoreError),
    /// The vault's key cannot be used.
    #[error("open the vault")]
    Vault(#[from] VaultError),
    /// The images cannot be read.
    #[error("open the images")]
    Images(#[from] ImageError),
    /// A provider file is refused.
    #[error("read the providers")]
    Providers(#[from] ProviderError),
    /// The private network cannot be made.
    #[error("make the private network")]
    Network(#[from] NetworkError),
}

/// A start as it was asked for.
#[derive(Debug, Clone)]
pub struct StartSession {
    /// Whose sign-in.
    pub user_id: String,
    /// Provider id.
    pub provider: String,
    /// The caller's key: the same one gives the same session.
    pub idempotency_key: Option<String>,
}

/// A session with its past and its future.
#[derive(Debug)]
pub struct SessionWatch {
    /// The session as it is.
    pub session: SessionRecord,
    /// Every stage so far.
    pub timeline: Vec<TimelineEntry>,
    /// What happens next; closed when nothing will. An event may repeat what `session` and `timeline` hold already.
    pub events: broadcast::Receiver<SessionEvent>,
}

/// A viewer cannot be connected because its session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewerEnd {
    /// How it ended.
    pub state: SessionState,
}

/// What the daemon depends on.
#[derive(Debug, Clone, Serialize)]
pub struct EngineHealth {
    /// Whether the store answers.
    pub database: bool,
    /// Whether the private network is there.
    pub network: bool,
    /// The driver, or why there is none yet.
    pub driver: String,
    /// VMs that something is left of.
    pub live_vms: usize,
}

/// See the head of this file. Clones share one engine.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ctx: Arc<Context>,
    tasks: Mutex<Tasks>,
    _lock: StateLock,
}

#[derive(Debug, Default)]
struct Tasks {
    live: HashMap<VmId, LiveVm>,
    running: JoinSet<()>,
    closing: bool,
}

impl Engine {
    /// Opens everything the configuration names, then undoes what an earlier daemon left behind.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        config.validate()?;
        let lock = StateLock::take(&config.state_dir)?;
        for dir in ["vms", "evidence", "images", "cache"] {
            create_private_dir(&config.state_dir.join(dir))?;
        }
        let providers = PROVIDERS.iter().map(|(file, text)| Provider::parse(file, text)).collect::<Result<_, _>>()?;
        let store = Store::open(&config.state_dir.join("airlock.db"), &host_name()).await?;
        let vault = Vault::open(&config.state_dir.join("vault.key"))?;
        let registry = Registry::open(&config.state_dir)?;
        let network = Network::open(&config.network).await?;
        let ctx = Arc::new(Context { config, store, network, registry, providers, vault, driver: OnceCell::new() });
        let engine = Self { inner: Arc::new(Inner { ctx, tasks: Mutex::default(), _lock: lock }) };
        engine.undo_leftovers().await?;
        Ok(engine)
    }

    /// Ends the VMs of a daemon that is gone. Their sessions failed with it.
    async fn undo_leftovers(&self) -> Result<(), StoreError> {
        let ctx = &self.inner.ctx;
        for vm in ctx.store.open_vms().await? {
            let mut failure = Failure::new(Cause::VmmExited, vm.stage, "the daemon that owned the VM ended");
            let timeline = ctx.store.timeline(vm.id).await?;
            failure.evidence_id =
                evidence::save(&ctx.config.state_dir, vm.id, &ctx.vm_dir(vm.id), &failure, &timeline).ok();
            if let Some(session) = ctx.store.session(vm.session_id).await?.filter(|s| !s.state.is_terminal()) {
                ctx.store
                    .move_session(session.id, session.state, SessionState::Failed, Some(&failure), now_ms())
                    .await?;
            }
            // Any driver ends any recorded process: asking first is a courtesy that a leftover does not need.
            let driver: Arc<dyn VmmDriver> = Arc::new(QemuDriver::new(Accel::Tcg));
            unwind(ctx, driver.as_ref(), vm.id, None).await;
        }
        Ok(())
    }

    /// What every VM task shares.
    pub(crate) fn ctx(&self) -> &Arc<Context> {
        &self.inner.ctx
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.ctx.config
    }

    /// The private network.
    pub fn network(&self) -> &Network {
        &self.inner.ctx.network
    }

    /// The golden images.
    pub fn registry(&self) -> &Registry {
        &self.inner.ctx.registry
    }

    /// The providers.
    pub fn providers(&self) -> &[Provider] {
        &self.inner.ctx.providers
    }

    /// Which driver runs the guests, and why.
    pub fn driver(&self) -> DriverReport {
        match self.inner.ctx.driver.get() {
            Some(chosen) => DriverReport { kind: Some(chosen.driver.kind()), reason: chosen.reason.clone() },
            None => DriverReport { kind: None, reason: "decided by a probe boot at the first start".into() },
        }
    }

    /// What the daemon depends on, asked now.
    pub async fn health(&self) -> EngineHealth {
        let ctx = &self.inner.ctx;
        let driver = self.driver();
        EngineHealth {
            database: ctx.store.check().await.is_ok(),
            network: ctx.network.taps().await.is_ok(),
            driver: driver.kind.map_or(driver.reason, |kind| kind.to_string()),
            live_vms: self.tasks().live.len(),
        }
    }

    /// Ends every live VM and waits until nothing of them is left. New starts are refused.
    pub async fn shutdown(&self) {
        let (live, mut running) = {
            let mut tasks = self.tasks();
            tasks.closing = true;
            (tasks.live.values().cloned().collect::<Vec<_>>(), std::mem::take(&mut tasks.running))
        };
        for vm in live {
            cancel_and_wait(&vm).await;
        }
        while running.join_next().await.is_some() {}
        self.inner.ctx.store.close().await;
    }

    /// Accepts a start and answers at once; the VM boots in its own task.
    pub async fn start_session(&self, request: StartSession) -> Result<SessionRecord, Error> {
        let planned = Instant::now();
        check_user_id(&request.user_id)?;
        if request.idempotency_key.as_ref().is_some_and(|key| !is_printable(key, 200)) {
            return Err(Error::BadIdempotencyKey);
        }
        let ctx = &self.inner.ctx;
        let provider = ctx.providers.iter().find(|provider| provider.id == request.provider).ok_or_else(|| {
            let known: Vec<_> = ctx.providers.iter().map(|provider| provider.id.as_str()).collect();
            Error::UnknownProvider { provider: cut(&request.provider), known: known.join(", ") }
        })?;
        let image = ctx.registry.find(&provider.image);
        let image = image.map_err(|source| Error::Image { image: provider.image.clone(), source })?;
        let driver = ctx.driver(&image).await?.driver.clone();
        let now = now_ms();
        let new = NewSession {
            id: SessionId::from_uuid(Uuid::new_v4()),
            vm_id: VmId::from_uuid(Uuid::new_v4()),
            user_id: request.user_id,
            provider: provider.id.clone(),
            idempotency_key: request.idempotency_key,
            image: image.reference(),
            driver: driver.kind(),
            now_ms: now,
            deadline_ms: now + i64::try_from(ctx.config.session_deadline_s * 1000).unwrap_or(i64::MAX),
        };
        let subnet = ctx.config.network.subnet;
        if self.tasks().closing {
            return Err(Error::ShuttingDown);
        }
        let (session, made) = ctx.store.accept(&new, subnet.guest_addresses()).await?;
        if made {
            let login = provider.login_spec(session.id, subnet.gateway(), ctx.config.demo_idp.port);
            let (task, live, orders) = VmTask::new(ctx.clone(), driver, session.clone(), image, login, planned);
            let (inner, vm_id) = (self.inner.clone(), session.vm_id);
            let mut tasks = self.tasks();
            tasks.live.insert(vm_id, live);
            tasks.running.spawn(async move {
                task.run(orders).await;
                inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).live.remove(&vm_id);
            });
            // Collect what ended already, so the set does not grow.
            while tasks.running.try_join_next().is_some() {}
        }
        Ok(session)
    }

    /// One session.
    pub async fn session(&self, id: SessionId) -> Result<SessionRecord, Error> {
        self.inner.ctx.store.session(id).await?.ok_or(Error::NoSession(id))
    }

    /// Sessions of one user or of all, newest first.
    pub async fn sessions(&self, user_id: Option<&str>) -> Result<Vec<SessionRecord>, Error> {
        Ok(self.inner.ctx.store.sessions(user_id).await?)
    }

    /// A session with everything that happened and everything that will.
    pub async fn watch(&self, id: SessionId) -> Result<SessionWatch, Error> {
        let vm_id = self.session(id).await?.vm_id;
        // Subscribe before reading, so that nothing falls between; without a task the channel is closed at once.
        let events = self.tasks().live.get(&vm_id).map(|live| live.events.subscribe());
        let events = events.unwrap_or_else(|| broadcast::channel(1).1);
        Ok(SessionWatch { session: self.session(id).await?, timeline: self.timeline(vm_id).await?, events })
    }

    /// Ends a session as cancelled; returns when nothing of its VM is left. One that ended already is left as it is.
    pub async fn cancel(&self, id: SessionId) -> Result<SessionRecord, Error> {
        let session = self.session(id).await?;
        self.end_vm(session.vm_id).await;
        self.session(id).await
    }

    /// Where the session's screen is; waits for its display.
    pub async fn viewer_target(&self, id: SessionId) -> Result<Result<SocketAddr, ViewerEnd>, Error> {
        let session = self.session(id).await?;
        let view = self.tasks().live.get(&session.vm_id).map(|live| live.view.clone());
        let Some(mut view) = view else { return Ok(Err(ViewerEnd { state: session.state })) };
        let seen = view.wait_for(|view| view.target.is_some() || view.state.is_terminal()).await.map(|view| *view);
        Ok(match seen {
            Ok(view) if !view.state.is_terminal() => view.target.ok_or(ViewerEnd { state: view.state }),
            Ok(view) => Err(ViewerEnd { state: view.state }),
            Err(_) => Err(ViewerEnd { state: self.session(id).await?.state }),
        })
    }

    /// VMs, live ones first, then the newest.
    pub async fn vms(&self) -> Result<Vec<VmRecord>, Error> {
        Ok(self.inner.ctx.store.vms().await?)
    }

    /// One VM.
    pub async fn vm(&self, id: VmId) -> Result<VmRecord, Error> {
        self.inner.ctx.store.vm(id).await?.ok_or(Error::NoVm(id))
    }

    /// The boot of a VM, in stage order.
    pub async fn timeline(&self, id: VmId) -> Result<Vec<TimelineEntry>, Error> {
        Ok(self.inner.ctx.store.timeline(id).await?)
    }

    /// The console of a live VM, or the copy in its evidence bundle.
    pub async fn console_path(&self, id: VmId) -> Result<PathBuf, Error> {
        self.vm(id).await?;
        let ctx = &self.inner.ctx;
        let kept = evidence::dir_of(&ctx.config.state_dir, &evidence::id_of(id));
        [ctx.vm_dir(id), kept]
            .map(|dir| dir.join("console.log"))
            .into_iter()
            .find(|path| path.exists())
            .ok_or(Error::NoConsole(id))
    }

    /// Destroys a VM; returns when nothing of it is left. Its session, if it still runs, is cancelled.
    pub async fn destroy_vm(&self, id: VmId) -> Result<(), Error> {
        self.vm(id).await?;
        self.end_vm(id).await;
        Ok(())
    }

    async fn end_vm(&self, id: VmId) {
        let live = self.tasks().live.get(&id).cloned();
        if let Some(live) = live {
            cancel_and_wait(&live).await;
        }
    }

    /// Makes a token; its secret is shown here once and stored as a hash.
    pub async fn create_token(&self, name: &str, scopes: &[Scope]) -> Result<(TokenRecord, String), Error> {
        let secret = secrets::draw("airlock_")?;
        let record = TokenRecord {
            id: Uuid::new_v4().to_string(),
            name: name.to_owned(),
            scopes: scopes.to_vec(),
            created_ms: now_ms(),
        };
        self.inner.ctx.store.add_token(&record, &secrets::hash(&secret)).await?;
        Ok((record, secret))
    }

    /// The live token with this secret.
    pub async fn authenticate(&self, token: &str) -> Result<Option<TokenRecord>, Error> {
        Ok(self.inner.ctx.store.token_by_hash(&secrets::hash(token)).await?)
    }

    /// Live tokens.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, Error> {
        Ok(self.inner.ctx.store.tokens().await?)
    }

    /// Revokes a token.
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        let revoked = self.inner.ctx.store.revoke_token(id, now_ms()).await?;
        if revoked { Ok(()) } else { Err(Error::NoToken { id: cut(id) }) }
    }

    /// A ticket for one opening of the session's viewer.
    pub async fn issue_ticket(&self, id: SessionId) -> Result<String, Error> {
        self.add_viewer_secret("ticket", id, now_ms() + TICKET_MS).await
    }

    /// Exchanges a ticket for the viewer's cookie; none if it was used, expired or never issued for this session.
    pub async fn redeem_ticket(&self, id: SessionId, ticket: &str) -> Result<Option<String>, Error> {
        if !self.inner.ctx.store.use_ticket(&secrets::hash(ticket), id, now_ms()).await? {
            return Ok(None);
        }
        let session = self.session(id).await?;
        // The outcome page stays readable for a while after the deadline.
        self.add_viewer_secret("cookie", id, session.deadline_ms + TICKET_MS).await.map(Some)
    }

    /// Whether a viewer cookie is good for a session.
    pub async fn check_viewer(&self, id: SessionId, cookie: &str) -> Result<bool, Error> {
        Ok(self.inner.ctx.store.check_cookie(&secrets::hash(cookie), id, now_ms()).await?)
    }

    async fn add_viewer_secret(&self, kind: &str, id: SessionId, expires_ms: i64) -> Result<String, Error> {
        let secret = secrets::draw("")?;
        self.inner.ctx.store.add_viewer_secret(kind, &secrets::hash(&secret), id, now_ms(), expires_ms).await?;
        Ok(secret)
    }

    /// What credentials a user has, without their contents.
    pub async fn credentials(&self, user_id: &str) -> Result<Vec<CredentialRecord>, Error> {
        check_user_id(user_id)?;
        Ok(self.inner.ctx.store.credentials(user_id).await?)
    }

    /// Opens a credential. `actor` (a token's id) is written to the audit log first.
    pub async fn read_credential(&self, user_id: &str, provider: &str, actor: &str) -> Result<Credential, Error> {
        let ctx = &self.inner.ctx;
        let sealed = ctx.store.credential(user_id, provider).await?.ok_or_else(|| no_credential(user_id, provider))?;
        ctx.store.audit(actor, "credential_read", &format!("{user_id}/{provider}"), now_ms()).await?;
        Ok(ctx.vault.open_credential(&sealed)?)
    }

    /// Deletes a credential.
    pub async fn delete_credential(&self, user_id: &str, provider: &str, actor: &str) -> Result<(), Error> {
        let store = &self.inner.ctx.store;
        if !store.delete_credential(user_id, provider).await? {
            return Err(no_credential(user_id, provider));
        }
        Ok(store.audit(actor, "credential_deleted", &format!("{user_id}/{provider}"), now_ms()).await?)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn cancel_and_wait(vm: &LiveVm) {
    // A task that takes no orders any more is unwinding already. Its view closes when nothing is left.
    let _ = vm.orders.send(Order::Cancel).await;
    let mut view = vm.view.clone();
    while view.changed().await.is_ok() {}
}

fn no_credential(user_id: &str, provider: &str) -> Error {
    Error::NoCredential { user_id: cut(user_id), provider: cut(provider) }
}

fn check_user_id(user_id: &str) -> Result<(), Error> {
    let ok = (1..=128).contains(&user_id.len())
        && user_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@+-".contains(&b));
    if ok { Ok(()) } else { Err(Error::BadUserId { user_id: cut(user_id) }) }
}

fn is_printable(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |name| name.trim().into())
}
