//! One machine with a fault: started, followed to the verdict by the clock of this process, looked for leftovers.
//!
//! ```text
//! start ─> refused: the answer is the verdict
//!   └─> followed (console, stages, VMM, session) ─> failed: the session's error is the verdict
//!          └─> stage reached: something is done ─> asked: the diagnosis is the verdict, the machine is destroyed
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use airlock_api::session::{SessionView, StartRequest, StartResponse, Timeline};
use airlock_api::vm::VmView;
use airlock_api::{ErrorBody, ErrorDetail};
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::fault::{Act, Fault, Machine, Place, Said, Since};
use super::leftovers::{self, Leftovers};
use super::site::{Places, Site};
use super::stop;

const PROVIDER: &str = "shell";
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longer than every boot deadline of these daemons.
const GIVE_UP: Duration = Duration::from_secs(240);
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// What all faults share.
#[derive(Debug)]
pub struct World {
    /// Where things are.
    pub places: Places,
    /// Where consoles are kept.
    pub artifacts: PathBuf,
    /// The daemon of the faults that need no other one.
    pub site: Site,
    beside: SessionView,
}

/// The part of a diagnosis that is judged (DESIGN section 9).
#[derive(Debug, Deserialize)]
pub(super) struct Diagnosis {
    pub verdict: String,
    pub stage: Option<Stage>,
    #[serde(default)]
    pub summary: String,
    #[serde(default)]
    remedy: String,
    #[serde(default)]
    pub also: Vec<String>,
    #[serde(default)]
    evidence: Vec<serde_json::Value>,
}

impl Diagnosis {
    /// A verdict that somebody has to act on: it says what to do, and why.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.remedy.is_empty(), "no remedy: {self:?}");
        ensure!(!self.evidence.is_empty(), "no evidence: {self:?}");
        Ok(())
    }
}

impl World {
    /// Starts the shared daemon, and on it the healthy machine that lives beside every fault.
    pub fn open(places: Places, artifacts: PathBuf) -> Result<Self> {
        let site = Site::open(&places, &Default::default())?;
        site.offer("base", None)?;
        let beside = ready_machine(&site)?;
        Ok(Self { places, artifacts, site, beside })
    }

    /// Destroys the machine beside the faults, ends its daemon, and fails if something of either is left.
    pub fn close(self) -> Result<()> {
        destroy(&self.site, &self.beside.vm_id)?;
        self.site.close()
    }

    /// Fails unless the machine beside the faults is judged healthy, now.
    pub fn beside_is_healthy(&self) -> Result<()> {
        let diagnosis = diagnosis(&self.site, &self.beside.vm_id)?;
        ensure!(
            diagnosis.verdict == "healthy",
            "the healthy machine beside it is judged {} at {}: {}",
            diagnosis.verdict,
            diagnosis.stage.map_or("no stage", Stage::name),
            diagnosis.summary
        );
        Ok(())
    }

    /// Makes the fault of a machine and takes the verdict.
    pub fn machine(&self, fault: &Fault, machine: &Machine) -> Result<Said> {
        let Some(special) = &machine.daemon else { return self.machine_on(&self.site, fault, machine) };
        let own = Site::open(&self.places, special)?;
        let said = self.machine_on(&own, fault, machine)?;
        own.close()?;
        Ok(said)
    }

    fn machine_on(&self, site: &Site, fault: &Fault, machine: &Machine) -> Result<Said> {
        let before = Leftovers::of(site)?;
        site.offer(if machine.image.is_empty() { "base" } else { machine.image }, machine.change)?;
        site.before_vmm(&machine.before_vmm)?;
        let said = self.judge(site, fault, machine);
        site.before_vmm("")?;
        if said.is_err() {
            let _ = std::fs::write(self.artifacts.join(format!("{}.daemon.log", fault.name)), site.daemon.log());
        }
        let said = said?;
        before.await_no_more(site)?;
        Ok(said)
    }

    fn judge(&self, site: &Site, fault: &Fault, machine: &Machine) -> Result<Said> {
        let asked = Instant::now();
        let started = match start(site)? {
            Ok(started) => started,
            Err(refusal) => {
                let took = asked.elapsed();
                leftovers::check_refusal(site, &refusal)?;
                return Ok(said_by(&refusal, took));
            }
        };
        let mut boot = Follower::new(site, &started.session_id, asked)?;
        let said = boot.follow(fault, machine);
        boot.keep(&self.artifacts, fault.name);
        if said.is_err() {
            let _ = boot.take_back(machine);
        }
        let said = said?;
        boot.await_gone()?;
        Ok(said)
    }
}

/// Starts a machine that nothing is wrong with.
pub(super) fn ready_machine(site: &Site) -> Result<SessionView> {
    let asked = Instant::now();
    let started = start(site)?.map_err(|error| anyhow::anyhow!("the healthy machine is refused: {error:?}"))?;
    loop {
        let session = session(site, &started.session_id)?;
        if session.state == "awaiting_user" {
            return Ok(session);
        }
        ensure!(!session.is_over() && asked.elapsed() < GIVE_UP, "the healthy machine: {session:?}");
        stop::check()?;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Asks for a machine.
pub fn start(site: &Site) -> Result<Result<StartResponse, ErrorDetail>> {
    let body = serde_json::to_string(&StartRequest { user_id: "faults".into(), provider: PROVIDER.into() })?;
    let answer = site.daemon.ask("POST", "/api/auth/start", Some(&body))?;
    if answer.status < 300 {
        return Ok(Ok(serde_json::from_str(&answer.body).context("read the answer to a start")?));
    }
    let refused: ErrorBody =
        serde_json::from_str(&answer.body).with_context(|| format!("read the refusal {}", answer.body))?;
    Ok(Err(refused.error))
}

/// Has a machine destroyed.
pub fn destroy(site: &Site, vm_id: &str) -> Result<()> {
    let answer = site.daemon.ask("DELETE", &format!("/api/vms/{vm_id}"), None)?;
    ensure!(answer.status < 300, "destroy VM {vm_id}: {} {}", answer.status, answer.body);
    Ok(())
}

fn session(site: &Site, id: &str) -> Result<SessionView> {
    site.daemon.call("GET", &format!("/api/auth/session/{id}"), None)
}

pub(super) fn diagnosis(site: &Site, vm_id: &str) -> Result<Diagnosis> {
    let answer = site.daemon.ask("GET", &format!("/api/vms/{vm_id}/diagnosis"), None)?;
    serde_json::from_str(&answer.body)
        .with_context(|| format!("diagnosis of VM {vm_id}: {} {}", answer.status, answer.body))
}

/// An error of the API as what was said.
pub fn said_by(error: &ErrorDetail, took: Duration) -> Said {
    Said {
        cause: error.cause.clone().unwrap_or_else(|| error.code.clone()),
        stage: error.stage,
        detail: error.message.clone(),
        ms: ms(took),
    }
}

/// The error of a session that fails, and the time to it since `since`.
pub fn failure(site: &Site, session_id: &str, since: Instant) -> Result<Said> {
    loop {
        let session = session(site, session_id)?;
        if session.is_over() {
            let took = since.elapsed();
            leftovers::check_failure(site, &session, "")?;
            let error = session.error.context("no error")?;
            return Ok(said_by(&error, took));
        }
        ensure!(since.elapsed() < GIVE_UP, "no verdict; the session is {}", session.state);
        stop::check()?;
        std::thread::sleep(LOOK_EVERY);
    }
}

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Follows one machine from outside.
#[derive(Debug)]
pub struct Follower<'a> {
    site: &'a Site,
    asked: Instant,
    session_id: String,
    vm_id: String,
    tap: String,
    address: String,
    dir: PathBuf,
    pid: Option<i32>,
    console: Option<File>,
    text: Vec<u8>,
    acted: Option<Instant>,
    signed: Option<Instant>,
    exited: Option<Instant>,
}

impl<'a> Follower<'a> {
    /// Follows the machine of a session.
    pub fn new(site: &'a Site, session_id: &str, asked: Instant) -> Result<Self> {
        let vm_id = session(site, session_id)?.vm_id;
        let vm: VmView = site.daemon.call("GET", &format!("/api/vms/{vm_id}"), None)?;
        let dir = site.state().join("vms").join(format!("vm-{vm_id}"));
        Ok(Self {
            site,
            asked,
            session_id: session_id.to_owned(),
            vm_id,
            tap: vm.tap,
            address: vm.address.to_string(),
            dir,
            pid: vm.pid,
            console: None,
            text: Vec::new(),
            acted: None,
            signed: None,
            exited: None,
        })
    }

    fn variables(&self) -> [(&'static str, &str); 3] {
        [("TAP", &self.tap), ("ADDRESS", &self.address), ("VM", &self.vm_id)]
    }

    /// Its VMM's process.
    pub fn pid(&self) -> i32 {
        self.pid.unwrap_or_default()
    }

    /// The machine.
    pub fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// Its TAP.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// Waits until its VMM is being started.
    pub fn await_vmm(&mut self) -> Result<()> {
        self.await_that("a VMM", |boot| Ok(boot.pid.is_some()))
    }

    /// Waits until it reached a stage.
    pub fn await_stage(&mut self, stage: Stage) -> Result<()> {
        self.await_that(stage.name(), |boot| boot.reached(stage))
    }

    fn await_that(&mut self, what: &str, is_true: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        loop {
            self.look(None)?;
            if is_true(self)? {
                return Ok(());
            }
            ensure!(self.asked.elapsed() < GIVE_UP, "VM {} has no {what}", self.vm_id);
            stop::check()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn follow(&mut self, fault: &Fault, machine: &Machine) -> Result<Said> {
        let sign = if let Since::Sign(text) = fault.since { Some(text) } else { None };
        let mut act = machine.act;
        loop {
            self.look(sign)?;
            let session = session(self.site, &self.session_id)?;
            if session.is_over() {
                let verdict = Instant::now();
                self.look(sign)?;
                leftovers::check_failure(self.site, &session, &String::from_utf8_lossy(&self.text))?;
                let error = session.error.context("no error")?;
                return Ok(said_by(&error, self.took(fault, verdict)?));
            }
            if let Some(due) = act.filter(|act| self.reached(act.once).unwrap_or(false)) {
                self.perform(&due)?;
                act = None;
            }
            if machine.asked && act.is_none() && session.state == "awaiting_user" {
                let diagnosis = diagnosis(self.site, &self.vm_id)?;
                let took = self.took(fault, Instant::now())?;
                // What was done may need a moment to come true.
                if diagnosis.verdict != "healthy" || ms(took) > fault.within_ms {
                    diagnosis.check()?;
                    self.take_back(machine)?;
                    let Diagnosis { verdict, stage, summary, .. } = diagnosis;
                    destroy(self.site, &self.vm_id)?;
                    return Ok(Said { cause: verdict, stage, detail: summary, ms: ms(took) });
                }
            }
            if !machine.asked && act.is_none() && machine.act.is_none() && session.state == "awaiting_user" {
                bail!("the machine is ready: what was to break it did not");
            }
            if self.asked.elapsed() > GIVE_UP {
                bail!("no verdict after {} s; the session is {}", GIVE_UP.as_secs(), session.state);
            }
            stop::check()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Looks at console and VMM.
    fn look(&mut self, sign: Option<&str>) -> Result<()> {
        if self.console.is_none() {
            self.console = File::open(self.dir.join("console.log")).ok();
        }
        if let Some(console) = &mut self.console {
            console.read_to_end(&mut self.text).context("read the console")?;
        }
        if self.signed.is_none() && sign.is_some_and(|sign| contains(&self.text, sign.as_bytes())) {
            self.signed = Some(Instant::now());
        }
        if self.pid.is_none() {
            let text = std::fs::read_to_string(self.dir.join("vmm.pid")).unwrap_or_default();
            self.pid = text.split(' ').next().and_then(|pid| pid.parse().ok());
        }
        if self.exited.is_none() && self.pid.is_some_and(is_gone) {
            self.exited = Some(Instant::now());
        }
        Ok(())
    }

    fn reached(&self, stage: Stage) -> Result<bool> {
        let timeline: Timeline = self.site.daemon.call("GET", &format!("/api/vms/{}/timeline", self.vm_id), None)?;
        Ok(timeline.stages.iter().any(|entry| entry.stage == stage && entry.ok))
    }

    fn perform(&mut self, act: &Act) -> Result<()> {
        let pid = self.pid.map(|pid| pid.to_string()).unwrap_or_default();
        match act.place {
            Place::Host => {
                let [tap, address, vm] = self.variables();
                self.site.on_host(act.script, &[tap, address, vm, ("PID", &pid)])?;
            }
            Place::Guest => drop(self.site.in_guest(&self.address, act.script)?),
        }
        self.acted = Some(Instant::now());
        Ok(())
    }

    fn take_back(&self, machine: &Machine) -> Result<()> {
        match machine.act {
            Some(act) if !act.undo.is_empty() && self.acted.is_some() => {
                self.site.on_host(act.undo, &self.variables()).map(drop).context("take the fault back")
            }
            _ => Ok(()),
        }
    }

    /// Time from the fault to the verdict. A fault that did not show is no fault.
    fn took(&self, fault: &Fault, verdict: Instant) -> Result<Duration> {
        let since = match fault.since {
            Since::Asked => self.asked,
            Since::Acted => self.acted.context("nothing was done to it")?,
            Since::Sign(text) => self.signed.with_context(|| format!("the console never said {text:?}"))?,
            Since::Exit => self.exited.context("the VMM did not end")?,
        };
        Ok(verdict.saturating_duration_since(since))
    }

    /// Keeps console and VMM's log for the corpus of the classifier.
    fn keep(&self, artifacts: &Path, name: &str) {
        let _ = std::fs::write(artifacts.join(format!("{name}.console.log")), &self.text);
    }

    /// Waits until the machine is gone and nothing of it is left.
    fn await_gone(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let vm: VmView = self.site.daemon.call("GET", &format!("/api/vms/{}", self.vm_id), None)?;
            if vm.state == "destroyed" {
                return Ok(());
            }
            ensure!(start.elapsed() < GONE_WITHIN, "VM {} is still {}", self.vm_id, vm.state);
            stop::check()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether a process ended; one that only waits for its parent has.
fn is_gone(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}
