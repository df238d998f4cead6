//! What the host does for a start, measured by `cargo xtask bench overhead`: from the request to the spawned VMM, on real kernel
//! objects (a namespace of its own, TAPs, nft guards, SQLite on disk) with a process that does nothing in place of the VMM.
//!
//! It prints every sample as one JSON object. Whatever happens, also SIGINT, SIGTERM and the end of its stdin (which whoever
//! started it holds open), its VMs, its namespace and its state directory are gone when it ends.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use airlock_domain::config::{Config, DriverChoice};
use airlock_domain::vmm::{DriverKind, VmmExit, VmmSpec};
use airlock_domain::{SessionId, VmId};
use airlock_effects::netns::Netns;
use airlock_effects::network::Network;
use airlock_effects::vmm::fake::FakeDriver;
use airlock_effects::vmm::{DriverError, DriverInfo, Drivers, HeldVmm, VmmDriver, VmmHandle, VmmPaths};
use airlock_engine::{Engine, StartSession};
use airlock_image::Manifest;
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::field::{Field, Visit};

const USAGE: &str = "usage: overhead NAMESPACE STATE_DIR STARTS ROUNDS AT_ONCE LIVE";
/// A start that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const WARM_UP: usize = 10;

/// What is measured, from the command line.
struct Plan {
    namespace: String,
    state_dir: PathBuf,
    /// Starts one at a time.
    starts: usize,
    /// Rounds of starts at once.
    rounds: usize,
    /// Starts at once in a round.
    at_once: usize,
    /// VMs that live while starts are measured again.
    live: usize,
}

/// One start, in milliseconds.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    /// Request to VMM spawned, by the timeline.
    total: f64,
    /// Of it, the stand-in's own start, from its release to its first line.
    vmm: f64,
    /// Of it, from the request to its answer.
    accept: f64,
    /// Of it, each step, without its journal.
    steps: BTreeMap<String, f64>,
    /// Of it, the outcomes of all steps written to the journal.
    journal: f64,
}

#[derive(Debug, Serialize)]
struct Samples {
    c1: Vec<Sample>,
    c25: Vec<Sample>,
    /// One start after the other, none destroyed, up to the wanted number of live VMs.
    growth: Vec<Sample>,
    live_c1: Vec<Sample>,
    live_c25: Vec<Sample>,
}

fn main() -> Result<()> {
    let plan = Plan::from_args().context(USAGE)?;
    let steps = Steps::default();
    tracing::subscriber::set_global_default(steps.clone())?;
    // As the daemon has it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(run(&plan, steps));
    // The thread that reads stdin cannot be ended, and must not be waited for.
    runtime.shutdown_background();
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

impl Plan {
    fn from_args() -> Result<Self> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [namespace, state_dir, numbers @ ..] = args.as_slice() else { bail!("too few arguments") };
        let numbers: Vec<usize> = numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let [starts, rounds, at_once, live] = numbers[..] else { bail!("four numbers are wanted") };
        Ok(Self { namespace: namespace.clone(), state_dir: state_dir.into(), starts, rounds, at_once, live })
    }
}

async fn run(plan: &Plan, steps: Steps) -> Result<Samples> {
    let cleanup = Cleanup { namespace: plan.namespace.clone(), state_dir: plan.state_dir.clone() };
    std::fs::create_dir_all(&plan.state_dir).with_context(|| format!("create {}", plan.state_dir.display()))?;
    publish_image(&plan.state_dir)?;
    let (spawned, runs) = tokio::sync::mpsc::unbounded_channel();
    let driver = Timed { fake: FakeDriver::new(), spawned };
    let drivers = Drivers::only(Arc::new(driver));
    let engine = Engine::open_with(config(plan)?, drivers).await.context("open the engine")?;
    let mut bench = Bench { engine: engine.clone(), runs, steps };
    let measured = tokio::select! {
        measured = bench.measure(plan) => measured,
        reason = told_to_stop() => Err(anyhow::anyhow!("stopped by {reason}")),
    };
    let (network, started) = (engine.network().clone(), Instant::now());
    engine.shutdown().await;
    eprintln!("VMs ended in {} ms", started.elapsed().as_millis());
    let deleted = network.delete().await.context("delete the namespace");
    drop((bench, engine, cleanup));
    let samples = measured?;
    deleted.map(|()| samples)
}

fn config(plan: &Plan) -> Result<Config> {
    // Nothing but the host's own work may end or hold back a start.
    let mut config = Config {
        state_dir: plan.state_dir.clone(),
        driver: DriverChoice::QemuTcg,
        boot_deadline_s: 3600,
        session_deadline_s: 3600,
        ..Config::default()
    };
    config.limits.sessions_per_user = 0;
    config.limits.vms = 0;
    config.limits.reserve_mib = 0;
    config.network.namespace = plan.namespace.clone();
    config.network.subnet = "10.77.0.1/22".parse()?;
    Ok(config)
}

struct Bench {
    engine: Engine,
    runs: tokio::sync::mpsc::UnboundedReceiver<(VmId, f64)>,
    steps: Steps,
}

impl Bench {
    async fn measure(&mut self, plan: &Plan) -> Result<Samples> {
        self.one_by_one(WARM_UP).await?;
        let c1 = self.one_by_one(plan.starts).await?;
        let c25 = self.rounds(plan.rounds, plan.at_once).await?;
        let mut growth = Vec::new();
        for _ in 0..plan.live {
            growth.extend(self.start(1).await?.into_iter().map(|(_, sample)| sample));
        }
        let live_c1 = self.one_by_one(plan.starts).await?;
        let live_c25 = self.rounds(plan.rounds, plan.at_once).await?;
        Ok(Samples { c1, c25, growth, live_c1, live_c25 })
    }

    async fn one_by_one(&mut self, starts: usize) -> Result<Vec<Sample>> {
        self.rounds(starts, 1).await
    }

    async fn rounds(&mut self, rounds: usize, at_once: usize) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let started = self.start(at_once).await?;
            let mut ending = JoinSet::new();
            for (session, sample) in started {
                samples.push(sample);
                let engine = self.engine.clone();
                ending.spawn(async move { engine.cancel(session).await });
            }
            while let Some(ended) = ending.join_next().await {
                ended?.context("end a session")?;
            }
        }
        Ok(samples)
    }

    /// Starts so many at once and waits until each has its VMM.
    async fn start(&mut self, at_once: usize) -> Result<Vec<(SessionId, Sample)>> {
        self.steps.take();
        let mut starting = JoinSet::new();
        for _ in 0..at_once {
            let engine = self.engine.clone();
            starting.spawn(async move {
                let request = StartSession { user_id: "bench".into(), provider: "shell".into(), idempotency_key: None };
                let asked = Instant::now();
                let session = engine.start_session(request).await?;
                Ok::<_, airlock_engine::Error>((session.id, session.vm_id, millis(asked.elapsed())))
            });
        }
        let mut accepted = Vec::new();
        while let Some(started) = starting.join_next().await {
            accepted.push(started?.context("start a session")?);
        }
        // Nothing is asked of the store while a start is under way.
        let mut vmm = BTreeMap::new();
        while vmm.len() < at_once {
            let Ok(Some((vm_id, ms))) = tokio::time::timeout(DEADLINE, self.runs.recv()).await else {
                bail!("only {} of {at_once} VMMs run after {DEADLINE:?}; {}", vmm.len(), self.why(&accepted).await);
            };
            vmm.insert(vm_id, ms);
        }
        let mut samples = Vec::new();
        for (session, vm_id, accept) in accepted {
            let total =
                tokio::time::timeout(DEADLINE, self.vmm_started(session)).await.context("a start is stuck")??;
            let vmm = *vmm.get(&vm_id).context("the VMM of another round ran")?;
            samples.push((session, vm_id, Sample { total, vmm, accept, steps: BTreeMap::new(), journal: 0.0 }));
        }
        let steps = self.steps.take();
        Ok(samples
            .into_iter()
            .map(|(session, vm_id, mut sample)| {
                for step in steps.iter().filter(|step| step.vm_id == vm_id.to_string()) {
                    sample.steps.insert(step.name.clone(), step.apply_us / 1000.0);
                    sample.journal += step.journal_us / 1000.0;
                }
                (session, sample)
            })
            .collect())
    }

    /// When the VMM was started, in milliseconds since the request.
    async fn vmm_started(&self, session: SessionId) -> Result<f64> {
        let mut watch = self.engine.watch(session).await?;
        let started = |entry: &airlock_domain::boot::TimelineEntry| entry.stage == Stage::VmmStarted && entry.ok;
        if let Some(entry) = watch.timeline.iter().find(|entry| started(entry)) {
            return Ok(entry.at_ms);
        }
        loop {
            let event = watch.events.recv().await.with_context(|| format!("session {session} ended early"))?;
            if let airlock_engine::records::SessionEvent::Stage(entry) = event
                && started(&entry)
            {
                return Ok(entry.at_ms);
            }
        }
    }

    async fn why(&self, accepted: &[(SessionId, VmId, f64)]) -> String {
        let mut failures = Vec::new();
        for (session, ..) in accepted {
            let session = self.engine.session(*session).await;
            failures.extend(session.ok().and_then(|session| session.failure).map(|failure| failure.detail));
        }
        if failures.is_empty() { "none failed".into() } else { failures.join("; ") }
    }
}

/// The stand-in, with a clock.
#[derive(Debug)]
struct Timed {
    fake: FakeDriver,
    spawned: tokio::sync::mpsc::UnboundedSender<(VmId, f64)>,
}

#[async_trait]
impl VmmDriver for Timed {
    fn kind(&self) -> DriverKind {
        self.fake.kind()
    }

    async fn check(&self) -> Result<DriverInfo, DriverError> {
        self.fake.check().await
    }

    fn paths(&self, dir: &Path) -> VmmPaths {
        self.fake.paths(dir)
    }

    async fn hold(&self, spec: &VmmSpec, network: &Network) -> Result<HeldVmm, DriverError> {
        self.fake.hold(spec, network).await
    }

    async fn run(&self, held: HeldVmm) -> Result<VmmHandle, DriverError> {
        let released = Instant::now();
        let vm = self.fake.run(held).await?;
        // Fails when nobody measures any more.
        let _ = self.spawned.send((vm.vm_id, millis(released.elapsed())));
        Ok(vm)
    }

    async fn terminate(&self, vm: &VmmHandle, grace: Duration) -> Result<VmmExit, DriverError> {
        self.fake.terminate(vm, grace).await
    }
}

/// What the executor logs of each step; everything else that is logged costs nothing.
#[derive(Debug, Clone, Default)]
struct Steps(Arc<Mutex<Vec<StepTime>>>);

#[derive(Debug, Default)]
struct StepTime {
    vm_id: String,
    name: String,
    apply_us: f64,
    journal_us: f64,
}

impl Steps {
    fn take(&self) -> Vec<StepTime> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl tracing::Subscriber for Steps {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "airlock_engine::executor" && metadata.fields().field("apply_us").is_some()
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut step = StepTime::default();
        event.record(&mut step);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Visit for StepTime {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a step are far below 2^52")]
    fn record_u128(&mut self, field: &Field, value: u128) {
        match field.name() {
            "apply_us" => self.apply_us = value as f64,
            "journal_us" => self.journal_us = value as f64,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "vm_id" => self.vm_id = format!("{value:?}"),
            "step" => self.name = format!("{value:?}"),
            _ => {}
        }
    }
}

/// Says what ended the wait.
async fn told_to_stop() -> &'static str {
    let of = |kind| async move {
        match signal(kind) {
            Ok(mut received) => received.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    // Nobody writes to it: the read returns when it ends.
    let closed = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    tokio::select! {
        _ = of(SignalKind::interrupt()) => "SIGINT",
        _ = of(SignalKind::terminate()) => "SIGTERM",
        _ = closed => "the end of its stdin",
    }
}

/// Removes what a way out that did not come to its own end leaves: the name of the namespace and the files.
struct Cleanup {
    namespace: String,
    state_dir: PathBuf,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Err(error) = Netns::delete(&self.namespace) {
            eprintln!("namespace {} is left: {error}", self.namespace);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.state_dir) {
            eprintln!("{} is left: {error}", self.state_dir.display());
        }
    }
}

/// An image that is whole by its manifest. Nothing of it is ever run.
fn publish_image(state_dir: &Path) -> Result<()> {
    let files = [("vmlinuz", "no kernel"), ("initramfs", "no initramfs"), ("rootfs.erofs", "no root")];
    let facts = |(name, content): (&str, &str)| serde_json::json!({"name": name, "sha256": hex(content.as_bytes()), "size": content.len()});
    // A manifest is as long as the image has packages; a browser brings about this many.
    let packages: BTreeMap<String, &str> =
        (0..300).map(|n| (format!("libpackage{n}-dev"), "1.2.3-4+deb12u1")).collect();
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "name": "base", "recipe_digest": "0", "build_id": "0", "epoch": 0, "suite": "none",
        "memory_mib": 1, "vcpus": 1, "network_owner": "airlock", "readiness": ["reachable"], "root_fs": "erofs",
        "modules": [], "kernel": {"package": "none", "release": "0", "config": {}},
        "files": {"kernel": facts(files[0]), "initramfs": facts(files[1]), "rootfs": facts(files[2])},
        "services": [], "packages": packages,
    }))?;
    let text = toml::to_string(&manifest)?;
    let reference = format!("base@sha256:{}", hex(text.as_bytes()));
    let images = state_dir.join("images");
    let dir = images.join(&reference);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let all = files.into_iter().chain([("manifest.toml", text.as_str())]).map(|(name, text)| (dir.join(name), text));
    for (path, text) in all.chain([(images.join("base.current"), reference.as_str())]) {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
