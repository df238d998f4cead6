//! The engine's public face: opens everything, answers questions from the store. How sessions and their VMs come and go stands
//! in `lifecycle`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use airlock_domain::boot::TimelineEntry;
use airlock_domain::config::{Config, ConfigError};
use airlock_domain::provider::Provider;
use airlock_domain::reconcile::Resource;
use airlock_domain::session::SessionState;
use airlock_domain::session::login::Login;
use airlock_domain::{SessionId, VmId};
use airlock_effects::files::{FileError, StateLock, create_private_dir};
use airlock_effects::network::{Network, NetworkError};
use airlock_effects::steps::LinuxEffects;
use airlock_effects::vmm::Drivers;
use airlock_image::{ImageError, Registry};
use airlock_protocol::Sensitive;
use serde::Serialize;
use tokio::sync::{Notify, OnceCell, broadcast};
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

use crate::audit::Act;
use crate::choice::DriverReport;
use crate::clock::{Moment, boot_id, now_ms};
use crate::context::Context;
use crate::dhcp;
use crate::error::Error;
use crate::evidence;
use crate::executor::Executor;
use crate::images::Builds;
use crate::providers::{self, ProvidersError};
use crate::reconcile::ReconcileError;
use crate::records::{Scope, SessionEvent, SessionRecord, TokenRecord, VmRecord};
use crate::secrets;
use crate::store::{Store, StoreError};
use crate::vault::{Vault, VaultError};
use crate::vm::{Channels, LiveVm};

/// How long the outcome page stays readable after the session's deadline, in milliseconds.
const OUTCOME_MS: i64 = 10 * 60 * 1000;

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
    Providers(#[from] ProvidersError),
    /// The private network cannot be made.
    #[error("make the private network")]
    Network(#[from] NetworkError),
    /// What an earlier daemon left cannot be looked at.
    #[error("find out what an earlier daemon left")]
    Reconcile(#[from] ReconcileError),
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

/// A machine's RFB server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Inside the installation's namespace.
    pub addr: SocketAddr,
    /// What lets in, once the agent has set it. Images that are not ours may need none.
    pub password: Option<Sensitive>,
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

/// What is there, counted at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// What is there and nobody owns; every kind is in it.
    pub leaked: BTreeMap<Resource, usize>,
    /// What may be a leftover but is not proved to be ours.
    pub foreign: usize,
    /// VMs that have not ended, by state.
    pub vms: BTreeMap<String, usize>,
    /// Sessions that have not ended, by state.
    pub sessions: BTreeMap<String, usize>,
    /// Sessions that failed, by cause.
    pub failures: BTreeMap<String, usize>,
    /// VMs that failed since this daemon started, by the cause of their diagnosis.
    pub diagnosed: BTreeMap<String, u64>,
    /// Addresses in the pool.
    pub addresses: usize,
    /// Addresses that are leased.
    pub leased: usize,
}

/// See the head of this file. Clones share one engine.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub ctx: Arc<Context>,
    pub tasks: Mutex<Tasks>,
    pub builds: Builds,
    /// Wakes the periodic pass before its time.
    pub wake: Notify,
    _lock: StateLock,
}

/// What this process does for sessions.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// VMs that are being accepted: rows that have no task yet are not to be taken for leftovers.
    pub accepting: BTreeSet<VmId>,
    /// Sessions that wait.
    pub waiting: HashMap<VmId, Channels>,
    /// VMs with a task.
    pub live: HashMap<VmId, (LiveVm, AbortHandle)>,
    pub running: JoinSet<()>,
    pub closing: bool,
}

impl Tasks {
    /// VMs that somebody of this process answers for.
    pub fn held(&self) -> BTreeSet<VmId> {
        self.live.keys().chain(&self.accepting).copied().collect()
    }

    /// How the login in a live VM stands.
    fn login(&self, vm_id: VmId) -> Option<Login> {
        self.live.get(&vm_id).and_then(|(live, _)| live.view.borrow().login.clone())
    }

    /// What is told about a session that lives or waits.
    fn channel(&self, vm_id: VmId) -> Option<broadcast::Receiver<SessionEvent>> {
        let live = self.live.get(&vm_id).map(|(live, _)| live.events.subscribe());
        live.or_else(|| self.waiting.get(&vm_id).map(|waiting| waiting.events.subscribe()))
    }
}

impl Engine {
    /// Opens everything the configuration names, then takes up what an earlier daemon left: live VMs are adopted, the rest is
    /// undone.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let drivers = Drivers::real(config.vmm.firecracker.clone());
        Self::open_with(config, drivers).await
    }

    /// [`Engine::open`] with other drivers.
    pub async fn open_with(mut config: Config, drivers: Drivers) -> Result<Self, OpenError> {
        config.validate()?;
        // What nobody serves stays closed for guests.
        config.network.served_ports = config.demo_idp.enabled.then_some(config.demo_idp.port).into_iter().collect();
        let lock = StateLock::take(&config.state_dir)?;
        for dir in ["vms", "evidence", "images", "cache"] {
            create_private_dir(&config.state_dir.join(dir))?;
        }
        let providers = providers::read(&config)?;
        let store = Store::open(&config.state_dir.join("airlock.db"), &host_name()).await?;
        let boot_id = boot_id();
        store.rebase_clocks(&boot_id, Moment::now()).await?;
        // A key that is not there is made once: later its absence means that what was sealed under it is lost without it.
        let vault = Vault::open(&config.vault, &config.state_dir, store.key_usage().await?.is_empty())?;
        let registry = Registry::open(&config.state_dir)?;
        let network = Network::open(&config.network).await?;
        let dhcp = dhcp::serve(&network, &config, &store).await;
        let drivers = Arc::new(drivers);
        let effects = LinuxEffects::new(network.clone(), drivers.clone(), &config.state_dir);
        let executor = Executor::new(store.clone(), Arc::new(effects), &config.state_dir, config.evidence);
        let chosen = OnceCell::new();
        let ctx = Arc::new(Context {
            config,
            store,
            network,
            dhcp,
            registry,
            providers,
            vault,
            drivers,
            chosen,
            executor,
            boot_id,
        });
        let inner = Inner { ctx, tasks: Mutex::default(), builds: Builds::default(), wake: Notify::new(), _lock: lock };
        let engine = Self { inner: Arc::new(inner) };
        engine.take_up().await?;
        engine.go_on_rotating();
        Ok(engine)
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
        match self.inner.ctx.chosen.get() {
            Some(chosen) => DriverReport { kind: Some(chosen.kind), reason: chosen.reason.clone() },
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

    /// Counts what is there.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        let ctx = self.ctx();
        let counts = ctx.store.counts().await?;
        let held = self.tasks().held();
        let (leaked, foreign) = ctx.executor.leftovers(&held).await?;
        Ok(Snapshot {
            leaked,
            foreign,
            vms: counts.vms,
            sessions: counts.sessions,
            failures: counts.failures,
            diagnosed: ctx.executor.failed().iter().map(|(cause, count)| (cause.code().to_owned(), *count)).collect(),
            addresses: ctx.config.network.subnet.guest_addresses().count(),
            leased: counts.leased,
        })
    }

    /// One session.
    pub async fn session(&self, id: SessionId) -> Result<SessionRecord, Error> {
        let mut session = self.inner.ctx.store.session(id).await?.ok_or(Error::NoSession(id))?;
        session.login = self.tasks().login(session.vm_id);
        Ok(session)
    }

    /// Sessions of one user or of all, newest first.
    pub async fn sessions(&self, user_id: Option<&str>) -> Result<Vec<SessionRecord>, Error> {
        let mut sessions = self.inner.ctx.store.sessions(user_id).await?;
        let tasks = self.tasks();
        for session in &mut sessions {
            session.login = tasks.login(session.vm_id);
        }
        Ok(sessions)
    }

    /// A session with everything that happened and everything that will.
    pub async fn watch(&self, id: SessionId) -> Result<SessionWatch, Error> {
        let vm_id = self.session(id).await?.vm_id;
        // Subscribe before reading, so that nothing falls between; without a task the channel is closed at once.
        let events = self.tasks().channel(vm_id).unwrap_or_else(|| broadcast::channel(1).1);
        Ok(SessionWatch { session: self.session(id).await?, timeline: self.timeline(vm_id).await?, events })
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

    /// Makes a token; its secret is shown here once and stored as a hash. `actor` is written to the audit log.
    pub async fn create_token(
        &self,
        name: &str,
        scopes: &[Scope],
        actor: &str,
    ) -> Result<(TokenRecord, String), Error> {
        let secret = secrets::draw("airlock_")?;
        let record = TokenRecord {
            id: Uuid::new_v4().to_string(),
            name: name.to_owned(),
            scopes: scopes.to_vec(),
            created_ms: now_ms(),
        };
        self.inner.ctx.store.add_token(&record, &secrets::hash(&secret), actor).await?;
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
    pub async fn revoke_token(&self, id: &str, actor: &str) -> Result<(), Error> {
        let revoked = self.inner.ctx.store.revoke_token(id, actor, now_ms()).await?;
        if revoked { Ok(()) } else { Err(Error::NoToken { id: cut(id) }) }
    }

    /// A ticket for one opening of the session's viewer, and until when it counts. `actor` asked for it; the audit log says so.
    pub async fn issue_ticket(&self, id: SessionId, actor: &str) -> Result<(String, i64), Error> {
        let session = self.session(id).await?;
        let lasts_ms = i64::try_from(self.config().viewer.ticket_s * 1000).unwrap_or(i64::MAX);
        let expires_ms = now_ms().saturating_add(lasts_ms);
        let ticket = self.add_viewer_secret("ticket", &session, expires_ms).await?;
        let act = Act::new(actor, "viewer_link_issued", format!("{}/{id}", session.user_id));
        self.inner.ctx.store.audit(&act, now_ms()).await?;
        Ok((ticket, expires_ms))
    }

    /// Exchanges a ticket for the viewer's cookie; none if it was used, expired or never issued for this session and its user.
    pub async fn redeem_ticket(&self, id: SessionId, ticket: &str) -> Result<Option<String>, Error> {
        let session = self.session(id).await?;
        if !self.inner.ctx.store.use_ticket(&bound_hash(&session, ticket), id, now_ms()).await? {
            return Ok(None);
        }
        self.add_viewer_secret("cookie", &session, session.deadline_ms + OUTCOME_MS).await.map(Some)
    }

    /// Whether a viewer cookie is good for a session.
    pub async fn check_viewer(&self, id: SessionId, cookie: &str) -> Result<bool, Error> {
        let store = &self.inner.ctx.store;
        let Some(session) = store.session(id).await? else { return Ok(false) };
        Ok(store.check_cookie(&bound_hash(&session, cookie), id, now_ms()).await?)
    }

    async fn add_viewer_secret(&self, kind: &str, session: &SessionRecord, expires_ms: i64) -> Result<String, Error> {
        let secret = secrets::draw("")?;
        let hash = bound_hash(session, &secret);
        self.inner.ctx.store.add_viewer_secret(kind, &hash, session.id, now_ms(), expires_ms).await?;
        Ok(secret)
    }

    pub(crate) fn ctx(&self) -> &Arc<Context> {
        &self.inner.ctx
    }

    pub(crate) fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.inner.tasks()
    }
}

/// What is stored of a viewer's secret: it counts for this session of this user only.
fn bound_hash(session: &SessionRecord, secret: &str) -> [u8; 32] {
    secrets::hash(&format!("{} {} {secret}", session.id, session.user_id))
}

pub(crate) fn check_user_id(user_id: &str) -> Result<(), Error> {
    let ok = (1..=128).contains(&user_id.len())
        && user_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@+-".contains(&b));
    if ok { Ok(()) } else { Err(Error::BadUserId { user_id: cut(user_id) }) }
}

pub(crate) fn is_printable(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

pub(crate) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |name| name.trim().into())
}
