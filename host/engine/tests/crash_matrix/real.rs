//! The level of real kernel objects: a namespace, TAPs, nftables, directories and processes. A daemon that dies is a process
//! that is killed: this program again, which lives the first life of one cell ([`be_a_victim_if_asked`]).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use airlock_domain::VmId;
use airlock_domain::network::{NetworkSpec, TapSpec};
use airlock_domain::vmm::{ProcessId, VmPlan};
use airlock_effects::netns::Netns;
use airlock_effects::network::Network;
use airlock_effects::process::{ProcessHandle, start_ticks};
use airlock_effects::steps::LinuxEffects;
use airlock_effects::vmm::Drivers;
use airlock_effects::vmm::fake::FakeDriver;
use airlock_engine::records::SessionRecord;
use airlock_protocol::MacAddr;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::cell::Cell;
use crate::life;
use crate::site::{Daemon, FOREIGN_DIR, FOREIGN_TAP, Site, Thing};
use crate::support::faulty::Death;
use crate::support::{IMAGE_FILES, begin, make_ready, plan_of, scratch, vm_dir};

/// The environment variable that makes this program a victim; it holds a [`Victim`].
const VICTIM: &str = "AIRLOCK_CRASH_VICTIM";
/// The test that a victim is started as.
const TEST: &str = "crash_matrix_real";
/// What is in the file that is in the foreign directory.
const NOTE: &str = "somebody's";

/// A daemon that is to be killed.
#[derive(Debug, Serialize, Deserialize)]
struct Victim {
    state_dir: PathBuf,
    namespace: String,
    cell: Cell,
    vm_id: VmId,
}

pub struct RealSite {
    // Dropped in this order: what runs, then the daemon, then where it all was.
    operators: Vec<Operator>,
    daemon: Daemon<LinuxEffects>,
    neighbour: VmPlan,
    place: Place,
}

/// A namespace and a state directory. Dropped, both are gone with every process in them.
struct Place {
    namespace: String,
    state: tempfile::TempDir,
}

/// Somebody's process in a directory of ours.
struct Operator {
    child: Child,
    id: ProcessId,
}

impl Operator {
    fn in_dir(dir: &Path) -> Self {
        let child = Command::new("sleep").arg("600").current_dir(dir).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let id = ProcessId { pid, start_ticks: start_ticks(pid).unwrap() };
        Self { child, id }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Only what works in a directory that this test made.
        for process in processes_below(self.state.path()) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        let _ = Netns::delete(&self.namespace);
    }
}

async fn daemon(namespace: &str, state_dir: &Path) -> (Daemon<LinuxEffects>, Network) {
    let spec = NetworkSpec { namespace: namespace.to_owned(), ..NetworkSpec::default() };
    let network = Network::open(&spec).await.unwrap();
    let drivers = Arc::new(Drivers::only(Arc::new(FakeDriver::new())));
    let effects = LinuxEffects::new(network.clone(), drivers, state_dir);
    (Daemon::new(Arc::new(effects), state_dir, Death::Kill).await, network)
}

impl RealSite {
    pub async fn new(number: usize) -> Self {
        let place = Place { namespace: format!("alk-crash-{}-{number}", std::process::id()), state: scratch() };
        let state_dir = place.state.path();
        for name in IMAGE_FILES {
            fs::write(state_dir.join(name), "x").unwrap();
        }
        let foreign_dir = state_dir.join("vms").join(FOREIGN_DIR);
        fs::create_dir_all(&foreign_dir).unwrap();
        fs::write(foreign_dir.join("note"), NOTE).unwrap();
        let (daemon, network) = daemon(&place.namespace, state_dir).await;
        let foreign = TapSpec { name: FOREIGN_TAP.0.into(), alias: FOREIGN_TAP.1.into(), owner_uid: 0 };
        network.ensure_tap(&foreign).await.unwrap();
        let session = begin(&daemon.store, VmId::from_uuid(Uuid::new_v4()), i64::from(i32::MAX)).await;
        let neighbour = plan_of(&session, state_dir);
        daemon.executor.start(&neighbour).await.unwrap();
        make_ready(&daemon.store, &session).await;
        let operators = vec![Operator::in_dir(&neighbour.vmm.dir)];
        Self { operators, daemon, neighbour, place }
    }

    fn state_dir(&self) -> &Path {
        self.place.state.path()
    }

    /// Links and rules of the namespace, as `ip` and `nft` list them.
    fn listed(&self) -> [Value; 2] {
        let script = "ip -d -j link show && nft -j list ruleset";
        let out =
            Command::new("ip").args(["netns", "exec", &self.place.namespace, "sh", "-c", script]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let listed: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&out.stdout).into_iter().collect();
        listed.unwrap().try_into().unwrap()
    }

    /// Processes in or below a directory that the site did not put there.
    fn strangers(&self, dir: &Path) -> Vec<ProcessId> {
        let planted = |id: &ProcessId| self.operators.iter().any(|operator| operator.id == *id);
        processes_below(dir).into_iter().filter(|id| !planted(id)).collect()
    }
}

impl Site for RealSite {
    type Host = LinuxEffects;

    fn state_dir(&self) -> &Path {
        self.state_dir()
    }

    fn neighbour(&self) -> &VmPlan {
        &self.neighbour
    }

    fn daemon(&self) -> &Daemon<LinuxEffects> {
        &self.daemon
    }

    async fn restart(&mut self) {
        (self.daemon, _) = daemon(&self.place.namespace, self.place.state.path()).await;
    }

    async fn live(&self, cell: Cell, session: &SessionRecord) -> Result<bool> {
        if !cell.strike.fault.is_death() {
            life::live(&self.daemon, cell, session, self.state_dir()).await;
            return Ok(false);
        }
        let victim = Victim {
            state_dir: self.state_dir().to_owned(),
            namespace: self.place.namespace.clone(),
            cell,
            vm_id: session.vm_id,
        };
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.args([TEST, "--exact", "--nocapture"]).env(VICTIM, serde_json::to_string(&victim)?);
        let out = command.stdin(Stdio::null()).output().context("start a victim")?;
        ensure!(
            out.status.signal() == Some(Signal::SIGKILL as i32),
            "the victim ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(true)
    }

    async fn plant(&mut self, vm_id: VmId) {
        let dir = vm_dir(self.state_dir(), vm_id);
        fs::create_dir(&dir).unwrap();
        // The one in the live VM's directory stays.
        self.operators.truncate(1);
        self.operators.push(Operator::in_dir(&dir));
    }

    async fn look(&self, plan: &VmPlan, recorded: Option<ProcessId>) -> BTreeSet<Thing> {
        let (vm_id, dir) = (plan.vmm.vm_id, &plan.vmm.dir);
        let mut things = BTreeSet::new();
        for id in self.strangers(dir) {
            if recorded == Some(id) {
                things.insert(Thing::Vmm);
            } else if !ends_by_itself(id).await {
                things.insert(Thing::Stranger);
            }
        }
        let [links, rules] = self.listed();
        for link in links.as_array().into_iter().flatten().filter(|link| link["ifalias"] == vm_id.to_string()) {
            things.insert(Thing::Tap);
            let is_up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
            let is_isolated = link["linkinfo"]["info_slave_data"]["isolated"] == true;
            things.extend((is_up && is_isolated && link["master"] == "br0").then_some(Thing::InService));
        }
        let rules: Vec<_> = of_tap(&rules, &vm_id.tap_name()).map(ToString::to_string).collect();
        if !rules.is_empty() {
            let (mac, address) = (MacAddr::from_lease(plan.address).to_string(), plan.address.to_string());
            assert!(rules.iter().any(|rule| rule.contains(&mac)) && rules.iter().any(|rule| rule.contains(&address)));
            things.insert(Thing::Guard);
        }
        things.extend(dir.exists().then_some(Thing::Directory));
        things.extend(dir.join("vm.json").exists().then_some(Thing::Config));
        things
    }

    async fn disturbed(&self) -> Vec<String> {
        let mut disturbed = Vec::new();
        let [links, _] = self.listed();
        let tap = links.as_array().into_iter().flatten().find(|link| link["ifname"] == FOREIGN_TAP.0);
        let is_up = |link: &&Value| link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
        if tap.filter(is_up).is_none_or(|tap| tap["ifalias"] != FOREIGN_TAP.1 || tap["master"] != "br0") {
            disturbed.push(format!("TAP {}: {tap:?}", FOREIGN_TAP.0));
        }
        let note = self.state_dir().join("vms").join(FOREIGN_DIR).join("note");
        if !fs::read_to_string(&note).is_ok_and(|text| text == NOTE) {
            disturbed.push(note.display().to_string());
        }
        let running = |operator: &&Operator| airlock_effects::process::is_alive(operator.id);
        let ended = self.operators.iter().filter(|operator| !running(operator));
        disturbed.extend(ended.map(|operator| format!("process {}", operator.id.pid)));
        disturbed
    }

    async fn rest(&self) -> Vec<String> {
        let [links, rules] = self.listed();
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        let mut rest: Vec<String> = names
            .filter(|name| name.starts_with("fc-") && *name != FOREIGN_TAP.0)
            .map(|name| format!("TAP {name}"))
            .collect();
        let chains = rules["nftables"].as_array().into_iter().flatten().map(|object| &object["chain"]);
        rest.extend(chains.filter(|chain| chain["family"] == "netdev").map(|chain| format!("chain {}", chain["name"])));
        let entries = fs::read_dir(self.state_dir().join("vms")).unwrap().map(|entry| entry.unwrap().file_name());
        rest.extend(entries.filter(|name| name != FOREIGN_DIR).map(|name| format!("directory {}", name.display())));
        rest.extend(self.strangers(self.state_dir()).iter().map(|id| format!("process {}", id.pid)));
        rest
    }
}

/// Chain and rules of a TAP's guard in a list of nft.
fn of_tap<'a>(listed: &'a Value, tap: &'a str) -> impl Iterator<Item = &'a Value> {
    let objects = listed["nftables"].as_array().into_iter().flatten();
    objects.filter(move |object| {
        object["chain"]["name"] == tap || object["rule"]["chain"] == tap && object["rule"]["family"] == "netdev"
    })
}

/// Processes that work in or below a directory, also when it was removed under them.
fn processes_below(dir: &Path) -> Vec<ProcessId> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let works_below = |pid: &i32| {
        let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
        let text = cwd.to_string_lossy();
        Path::new(text.strip_suffix(" (deleted)").unwrap_or(&text)).starts_with(dir)
    };
    pids.filter(works_below).filter_map(|pid| Some(ProcessId { pid, start_ticks: start_ticks(pid)? })).collect()
}

/// Waits for the end of a process that was held by a daemon that was killed: it ends when it sees that nobody holds it any more.
async fn ends_by_itself(id: ProcessId) -> bool {
    let Some(process) = ProcessHandle::open(id).unwrap() else { return true };
    tokio::time::timeout(Duration::from_secs(5), process.exited()).await.is_ok()
}

/// In a process that was started as a victim: lives the first life of its cell, and never returns.
pub fn be_a_victim_if_asked() {
    let Ok(task) = std::env::var(VICTIM) else { return };
    let lived = || -> Result<()> {
        let victim: Victim = serde_json::from_str(&task)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (daemon, _) = daemon(&victim.namespace, &victim.state_dir).await;
            let vm = daemon.store.vm(victim.vm_id).await?.context("no such VM")?;
            let session = daemon.store.session(vm.session_id).await?.context("no such session")?;
            life::live(&daemon, victim.cell, &session, &victim.state_dir).await;
            bail!("{} lived to its end", victim.cell)
        })
    };
    eprintln!("{:?}", lived());
    std::process::exit(3);
}
