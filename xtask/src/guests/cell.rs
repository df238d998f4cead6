//! One cell of the matrix: a daemon of its own and one `airlock login demo` with the image, until `reachable`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use airlock_api::session::{SessionView, StageView, Timeline};
use airlock_protocol::Stage;
use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Naming;
use crate::daemon::{Daemon, Wanted};
use crate::run;

/// The provider that a person tries first, and the one without a login.
const PROVIDERS: [&str; 2] = ["demo", "shell"];
const BOOT_DEADLINE_S: u64 = 180;
/// What the image that renames its interface says when that is done, and what the agent says then.
const RENAMED: [&str; 2] = ["renamed: done", "is called lan0 now"];
/// How long that may take behind `reachable`.
const RENAMED_WITHIN: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long a boot took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the request to `reachable`.
    pub reachable: u64,
    /// From PID 1 to `route_set`, by the guest's clock.
    pub network: u64,
}

/// One line of `airlock login --json`, as far as it is looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    reached: Option<Stage>,
    timeline: Option<Timeline>,
    session_id: Option<String>,
    session: Option<SessionView>,
    stage: Option<StageView>,
}

/// Boots `image` until it is reachable; one that renames its interface must be so afterwards, too.
pub fn boot(program: &Path, images: &Path, image: &str, naming: Naming) -> Result<Times> {
    let provided = PROVIDERS.map(|provider| format!("{provider} = {image:?}")).join(", ");
    let config =
        format!("boot_deadline_s = {BOOT_DEADLINE_S}\n{}provider_images = {{ {provided} }}\n", naming.config());
    let wanted = Wanted { name: "guests", config: &config, ..Wanted::default() };
    let cell = Cell { program, daemon: Daemon::start(program, images, &wanted)? };
    if naming == Naming::Renamed { cell.boot_and_rename() } else { cell.boot() }
}

struct Cell<'a> {
    program: &'a Path,
    daemon: Daemon,
}

impl Cell<'_> {
    fn airlock(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.args(args).env("AIRLOCK_SERVER", self.daemon.at.base()).env_remove("AIRLOCK_TOKEN");
        command.env("AIRLOCK_STATE_DIR", self.daemon.at.state.path()).stdin(Stdio::null());
        command
    }

    /// `airlock login demo`, which ends its session when the machine is reachable.
    fn boot(&self) -> Result<Times> {
        let until = Stage::Reachable.name();
        let out = self.airlock(&["login", PROVIDERS[0], "--user", "guests", "--until", until, "--json"]).output();
        let out = out.context("run airlock login")?;
        let said = String::from_utf8_lossy(&out.stdout);
        let last = said.lines().last().context("airlock login said nothing")?;
        let last: Said = serde_json::from_str(last).with_context(|| format!("read {last}"))?;
        if let Said { reached: Some(_), timeline: Some(timeline), .. } = &last
            && out.status.success()
        {
            return times(&timeline.stages);
        }
        let Some(session) = last.session else { bail!("airlock login ended with {}: {said}", out.status) };
        let why = session.error.map(|error| error.message).unwrap_or_default();
        let stage = session.stage.map_or("no stage", Stage::name);
        bail!("{} at {stage}: {} ({why})", session.state, session.cause.unwrap_or_default())
    }

    /// `airlock login shell`, watched until the interface has its other name, and asked over the network then.
    fn boot_and_rename(&self) -> Result<Times> {
        let mut login = self.airlock(&["login", PROVIDERS[1], "--user", "guests", "--json"]);
        let mut login = login.stdout(Stdio::piped()).spawn().context("run airlock login")?;
        let outcome = self.watch_rename(&mut login);
        // The machine goes with the daemon.
        let _ = login.kill().and_then(|()| login.wait());
        outcome
    }

    fn watch_rename(&self, login: &mut Child) -> Result<Times> {
        let out = login.stdout.take().context("read what airlock login says")?;
        let (mut stages, mut session) = (Vec::<StageView>::new(), None);
        for line in BufReader::new(out).lines() {
            let line = line.context("read what airlock login says")?;
            let said: Said = serde_json::from_str(&line).with_context(|| format!("read {line}"))?;
            session = session.or(said.session_id);
            stages.extend(said.stage);
            if stages.last().is_some_and(|stage| stage.stage == Stage::Reachable && stage.ok) {
                break;
            }
        }
        let times = times(&stages)?;
        let id = session.context("airlock login named no session")?;
        let session: SessionView = self.daemon.call("GET", &format!("/api/auth/session/{id}"), None)?;
        let address = session.browser_ip.context("the session has no address")?;
        let start = Instant::now();
        loop {
            let console = output(self.airlock(&["vm", "console", &session.vm_id]))?;
            if RENAMED.iter().all(|said| console.contains(said)) {
                break;
            }
            if start.elapsed() > RENAMED_WITHIN {
                bail!("the interface was not renamed: {}", run::tail(&console, 5));
            }
            std::thread::sleep(ASK_EVERY);
        }
        let (namespace, url) = (self.daemon.at.namespace.as_str(), format!("http://{address}:8080/health"));
        let curl = ["curl", "--silent", "--fail", "--max-time", "5", &url];
        let asked = output(self.airlock(&[&["net", "exec", "--namespace", namespace, "--"][..], &curl].concat()));
        asked.context("ask the machine behind its renamed interface").map(|_| times)
    }
}

/// What a command says, if it ends well.
fn output(mut command: Command) -> Result<String> {
    let out = command.output().with_context(|| format!("run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}: {}", out.status, run::tail(&String::from_utf8_lossy(&out.stderr), 5));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The times of a boot whose stages are these.
fn times(stages: &[StageView]) -> Result<Times> {
    let at = |wanted: Stage| {
        let found = stages.iter().find(|stage| stage.stage == wanted && stage.ok).map(|stage| stage.at_ms);
        found.with_context(|| format!("{wanted} is not among the stages"))
    };
    let network = at(Stage::RouteSet)? - at(Stage::InitStarted)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of one boot")]
    let whole = |ms: f64| ms.round() as u64;
    Ok(Times { reachable: whole(at(Stage::Reachable)?), network: whole(network) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_timed_by_its_stages_or_says_which_one_is_missing() {
        let stage = |stage, at_ms| StageView { stage, ok: true, at_ms, errno: None, detail: None };
        let mut stages = vec![stage(Stage::InitStarted, 1500.4), stage(Stage::RouteSet, 1590.2)];
        assert!(times(&stages).unwrap_err().to_string().contains("reachable"));
        stages.push(stage(Stage::Reachable, 3000.6));
        let times = times(&stages).unwrap();
        assert_eq!((times.reachable, times.network), (3001, 90));
    }
}
