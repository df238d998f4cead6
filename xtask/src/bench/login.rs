//! `cargo xtask bench login`: from the browser's answer to the sealed credential, and to the end of the machine.
//!
//! ```text
//! the tool exchanges the browser's code -> credential, completed: one transaction -> nothing of the VM is left
//!   (the demo provider's log)                (audit: credential_stored)               (audit: the receipt)
//! ```
//! A real daemon, a real VM with a real Firefox and the provider `demo`, once per run. The bench is the person: it sends the provider's
//! form itself, from inside the daemon's namespace, and has Firefox follow the redirect to the tool's port (`open-url`). All three
//! instants are the daemon's own; the first is what the daemon learns of the callback, one request of the tool after it.
//! A run that does not end in a receipt ends the bench.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use airlock_api::audit::AuditLog;
use airlock_api::session::{OauthUrl, SessionView, StartResponse};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::daemon::{Daemon, Wanted};
use crate::run;

const USER: &str = "alice";
const PASSWORD: &str = "bench-of-logins";
/// A boot to the painted page, on a machine that others use too.
const DEADLINE: Duration = Duration::from_secs(240);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// What the demo provider logs when the tool exchanged the code.
const EXCHANGED: &str = "code exchanged";

/// Options of `cargo xtask bench login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Sign-ins, one after the other.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=500))]
    runs: u16,
    /// The `airlock` binary.
    #[arg(long, default_value = "target/debug/airlock")]
    airlock: PathBuf,
    /// State directory that holds the golden image `browser`.
    #[arg(long, default_value = "target/test-state")]
    state_dir: PathBuf,
}

/// One sign-in, milliseconds since the code was exchanged.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    sealed: f64,
    gone: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

/// DESIGN section 13, and how many it is of.
#[derive(Debug, Serialize)]
struct Report {
    sealed: Percentiles,
    gone: Percentiles,
    runs: usize,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<()> {
    let root = run::workspace_root();
    let (program, images) = (root.join(&args.airlock), root.join(&args.state_dir));
    if !program.exists() {
        bail!("{} is missing: cargo build -p airlock, or name another with --airlock", program.display());
    }
    let demo = format!("[demo_idp]\nenabled = true\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n");
    let daemon = Daemon::start(&program, &images, &Wanted { name: "login", network: &demo, ..Wanted::default() })?;
    let mut samples = Vec::new();
    for at in 1..=args.runs {
        let sample = sign_in(&daemon, at)?;
        println!("sign-in {at}: sealed after {:.0} ms, gone after {:.0} ms", sample.sealed, sample.gone);
        samples.push(sample);
    }
    drop(daemon);
    let report = report(&samples).context("nothing was measured")?;
    println!("ms since the code was exchanged       p50     p99   ({} sign-ins)", report.runs);
    println!("credential sealed and committed   {:>7.0} {:>7.0}", report.sealed.p50, report.sealed.p99);
    println!("nothing of the machine is left    {:>7.0} {:>7.0}", report.gone.p50, report.gone.p99);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn sign_in(daemon: &Daemon, at: u16) -> Result<Sample> {
    let body = json!({"userId": format!("bench-{at}"), "provider": "demo"}).to_string();
    let started: StartResponse = daemon.call("POST", "/api/auth/start", Some(&body))?;
    let session = format!("/api/auth/session/{}", started.session_id);
    until("the sign-in waits for the person", || {
        let view: SessionView = daemon.call("GET", &session, None)?;
        if view.is_over() {
            bail!("the session is {}: {:?}", view.state, view.error);
        }
        Ok((view.state == "awaiting_user").then_some(()))
    })?;
    let page: OauthUrl = daemon.call("GET", &format!("{session}/oauth-url"), None)?;
    let back = submit(daemon, page.url.expose())?;
    let body = json!({"url": back}).to_string();
    let answer = daemon.ask("POST", &format!("{session}/open-url"), Some(&body))?;
    if answer.status >= 300 {
        bail!("open-url: {} {}", answer.status, answer.body);
    }
    let subject = format!("bench-{at}/demo");
    let mut after = 0;
    let mut sealed = None;
    let gone = until("the receipt", || {
        let log: AuditLog = daemon.call("GET", &format!("/api/audit?after={after}"), None)?;
        for entry in log.entries {
            after = after.max(entry.seq);
            if entry.action == "credential_stored" && entry.subject == subject {
                sealed = Some(entry.at_ms);
            } else if entry.action == "vm_destroyed" && entry.subject == started.session_id {
                return Ok(Some(entry.at_ms));
            }
        }
        Ok(None)
    })?;
    let sealed = sealed.context("the machine is gone and no credential was stored")?;
    let exchanged = exchanged_ms(&daemon.log(), usize::from(at))
        .context("the daemon's log does not say when the code was exchanged")?;
    Ok(Sample { sealed: since(exchanged, sealed)?, gone: since(exchanged, gone)? })
}

/// Plays the person: the form with the page's own parameters. Returns where the provider sends the browser.
fn submit(daemon: &Daemon, page: &str) -> Result<String> {
    let (action, query) = page.split_once('?').context("the page has no parameters")?;
    // Not as an argument: it is a secret as long as the sign-in lasts.
    let config = format!("url = \"{action}\"\ndata = \"{query}&username={USER}&password={PASSWORD}&decision=allow\"\n");
    let mut curl = Command::new("ip")
        .args(["netns", "exec", &daemon.at.namespace, "curl", "--silent", "--show-error", "--max-time", "20"])
        .args(["--output", "/dev/null", "--write-out", "%{redirect_url}", "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start curl")?;
    curl.stdin.take().context("curl has no input")?.write_all(config.as_bytes()).context("tell curl")?;
    let out = curl.wait_with_output().context("wait for curl")?;
    let back = String::from_utf8(out.stdout).context("read the redirect")?;
    if !out.status.success() || !back.contains("code=") {
        bail!("the demo provider did not accept the form ({})", out.status);
    }
    Ok(back)
}

/// When the code was exchanged for the `nth` time, in milliseconds since the Unix epoch, by the daemon's log.
fn exchanged_ms(log: &str, nth: usize) -> Option<f64> {
    let line = log.lines().filter(|line| line.contains(EXCHANGED)).nth(nth.checked_sub(1)?)?;
    unix_ms(line.split_whitespace().next()?)
}

/// An instant as the log writes it (RFC 3339, UTC): `2026-11-23T21:07:28.123456Z`.
fn unix_ms(text: &str) -> Option<f64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (time.next()??, time.next()??, time.next()??);
    // Days from civil: the era begins on 1 March, so the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(((days as f64 * 24.0 + hours) * 60.0 + minutes) * 60_000.0 + seconds * 1000.0)
}

fn since(start: f64, end_ms: i64) -> Result<f64> {
    let elapsed = end_ms as f64 - start;
    // The audit log has whole milliseconds.
    if elapsed < -1.0 {
        bail!("the clock went back by {elapsed} ms");
    }
    Ok(elapsed.max(0.0))
}

fn report(samples: &[Sample]) -> Option<Report> {
    let of = |pick: fn(&Sample) -> f64| percentiles(samples.iter().map(pick));
    Some(Report { sealed: of(|sample| sample.sealed)?, gone: of(|sample| sample.gone)?, runs: samples.len() })
}

/// By nearest rank, to tenths; none of nothing.
fn percentiles(values: impl Iterator<Item = f64>) -> Option<Percentiles> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).map(|value| (value * 10.0).round() / 10.0)
    };
    Some(Percentiles { p50: at(50)?, p99: at(99)? })
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(ASK_EVERY);
    }
    bail!("not within {} s: {what}", DEADLINE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_instants_are_read() {
        assert_eq!(unix_ms("1970-01-01T00:00:00.000Z"), Some(0.0));
        assert_eq!(unix_ms("2026-11-23T20:07:29.5Z"), Some(1_795_464_449_500.0));
        assert_eq!(unix_ms("2024-02-29T00:00:01Z"), Some(1_709_164_801_000.0));
        assert_eq!((unix_ms("yesterday"), unix_ms("2026-11-23 20:07:29")), (None, None));
        let log = "2026-01-01T00:00:00Z INFO x: other\n1970-01-01T00:00:01Z INFO y: code exchanged\n\
                   1970-01-01T00:00:02Z INFO y: code exchanged";
        assert_eq!((exchanged_ms(log, 1), exchanged_ms(log, 2)), (Some(1000.0), Some(2000.0)));
        assert_eq!(exchanged_ms(log, 3), None);
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        assert!(report(&[]).is_none());
        let samples: Vec<Sample> = (1..=10).map(|n| Sample { sealed: f64::from(n), gone: f64::from(n * 10) }).collect();
        let found = report(&samples).unwrap();
        assert_eq!((found.sealed, found.gone.p99), (Percentiles { p50: 5.0, p99: 10.0 }, 100.0));
    }

    #[test]
    fn a_clock_that_went_back_is_no_result() {
        assert!(since(10.0, 8).is_err());
        assert_eq!(since(10.4, 10).unwrap(), 0.0);
    }
}
