//! The named steps of a boot, and the console line that reports one.
//!
//! A guest reports on the serial console, always, one line each:
//! `@airlock {"v":1,"seq":7,"t_us":41230,"stage":"address_set","ok":true,"dev":"eth0","addr":"192.168.100.8/24"}`.
//! A line that is cut or mixed with kernel messages is dropped here, never misread; the control channel repeats the
//! whole timeline, and `seq` shows what was lost.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What every console line of ours starts with.
pub const LINE_PREFIX: &str = "@airlock ";
/// Version of the line format.
pub const LINE_VERSION: u8 = 1;
/// The longest line that is looked at, in bytes; a longer one is dropped whole.
pub const MAX_LINE: usize = 16 * 1024;

/// Who reports a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reporter {
    /// The daemon on the host.
    Host,
    /// PID 1 of the guest.
    Init,
    /// The in-guest service.
    Agent,
}

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal by $reporter:ident;)+) => {
        /// One named step of a boot, in the order of DESIGN section 6 (`Ord` is that order).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Stage { $($(#[doc = $doc])+ $variant,)+ }

        impl Stage {
            /// Every stage, in order.
            pub const ALL: &'static [Stage] = &[$(Stage::$variant,)+];

            /// The stable name used on the wire, in the API and in the documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Stage::$variant => $name,)+ }
            }

            /// Who reports this stage.
            pub const fn reporter(self) -> Reporter {
                match self { $(Stage::$variant => Reporter::$reporter,)+ }
            }
        }

        impl FromStr for Stage {
            type Err = UnknownStage;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s { $($name => Ok(Stage::$variant),)+ _ => Err(UnknownStage { name: s.to_owned() }) }
            }
        }
    };
}

stages! {
    /// The start was accepted and its plan made.
    Planned = "planned" by Host;
    /// An address was leased.
    Leased = "leased" by Host;
    /// The TAP exists, is up and in the bridge.
    TapUp = "tap_up" by Host;
    /// The root disk can be opened.
    DiskReady = "disk_ready" by Host;
    /// The VMM process runs.
    VmmStarted = "vmm_started" by Host;
    /// The guest kernel wrote its first byte.
    KernelStarted = "kernel_started" by Host;
    /// PID 1 of the initramfs runs.
    InitStarted = "init_started" by Init;
    /// The kernel command line was parsed.
    ConfigRead = "config_read" by Init;
    /// The modules that the network needs are loaded; the others follow before the root is mounted.
    ModulesLoaded = "modules_loaded" by Init;
    /// The interface with our MAC exists.
    LinkFound = "link_found" by Init;
    /// The interface is up and has a carrier.
    LinkUp = "link_up" by Init;
    /// The leased address is on the interface.
    AddressSet = "address_set" by Init;
    /// The default route is in the table.
    RouteSet = "route_set" by Init;
    /// The gateway answered ARP.
    GatewayReachable = "gateway_reachable" by Init;
    /// The image's root is mounted under its overlay.
    RootMounted = "root_mounted" by Init;
    /// The root was switched and the services are being started.
    HandedOver = "handed_over" by Init;
    /// The agent listens.
    AgentUp = "agent_up" by Agent;
    /// The X display accepts clients.
    DisplayUp = "display_up" by Agent;
    /// The browser has a mapped window.
    BrowserUp = "browser_up" by Agent;
    /// The browser's page is on the screen, judged by its pixels.
    PagePainted = "page_painted" by Agent;
    /// The host got HTTP 200 from the agent over the guest's network.
    Reachable = "reachable" by Host;
    /// Everything the image's readiness contract asks for is there.
    Ready = "ready" by Host;
}

/// A stage name that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown stage {name:?}")]
pub struct UnknownStage {
    /// The name that was given.
    pub name: String,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One step of a boot as its reporter saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Version of the format, [`LINE_VERSION`].
    pub v: u8,
    /// Number of the report of one boot, from 1; init and agent count on in one series.
    pub seq: u32,
    /// Microseconds of the guest's CLOCK_BOOTTIME (0 = its kernel started).
    pub t_us: u64,
    /// The step.
    pub stage: Stage,
    /// Whether it was reached. `false` means it failed and says why.
    pub ok: bool,
    /// Symbolic errno of the failure, e.g. `ENODEV`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// What was being done, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Facts of the step (`dev`, `addr`, ...), flat beside the other keys.
    #[serde(flatten)]
    pub facts: BTreeMap<String, serde_json::Value>,
}

impl StageReport {
    /// A report that `stage` was reached.
    pub fn reached(seq: u32, t_us: u64, stage: Stage) -> Self {
        Self { v: LINE_VERSION, seq, t_us, stage, ok: true, errno: None, detail: None, facts: BTreeMap::new() }
    }

    /// A report that `stage` failed.
    pub fn failed(seq: u32, t_us: u64, stage: Stage, errno: Option<String>, detail: impl Into<String>) -> Self {
        Self { ok: false, errno, detail: Some(detail.into()), ..Self::reached(seq, t_us, stage) }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.facts.insert(key.to_owned(), value.into());
        self
    }

    /// The console form: a fresh line before (in case the kernel left one open) and a line end after.
    pub fn to_console(&self) -> String {
        format!("\n{LINE_PREFIX}{}\n", serde_json::to_string(self).unwrap_or_default())
    }
}

/// Reads reports out of a console, byte chunk by byte chunk.
///
/// Survives CR LF, ANSI escape sequences, kernel messages before or after a report on its line, cut lines and any other
/// bytes. Memory is bounded by [`MAX_LINE`].
#[derive(Debug, Default)]
pub struct ConsoleParser {
    line: Vec<u8>,
    overlong: bool,
    ansi: Ansi,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Ansi {
    #[default]
    Text,
    Escape,
    Csi,
}

impl ConsoleParser {
    /// A parser at the start of a console.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the console; returns the complete reports in them.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<StageReport> {
        let mut reports = Vec::new();
        self.feed_lines(bytes, |line| reports.extend(parse_line(line)));
        reports
    }

    /// Takes the next bytes; calls `on_line` with each complete line, cleaned of escapes and carriage returns.
    pub fn feed_lines(&mut self, bytes: &[u8], mut on_line: impl FnMut(&str)) {
        for &byte in bytes {
            match (self.ansi, byte) {
                (Ansi::Text, 0x1b) => self.ansi = Ansi::Escape,
                (Ansi::Text, b'\n') => {
                    if !self.overlong {
                        on_line(&String::from_utf8_lossy(&self.line));
                    }
                    self.line.clear();
                    self.overlong = false;
                }
                (Ansi::Text, b'\r') => {}
                (Ansi::Text, _) if self.line.len() < MAX_LINE => self.line.push(byte),
                (Ansi::Text, _) => self.overlong = true,
                // A line end or a new escape inside a sequence means the sequence was cut: resynchronize.
                (_, b'\n') => {
                    self.ansi = Ansi::Text;
                    on_line(&String::from_utf8_lossy(&self.line));
                    self.line.clear();
                    self.overlong = false;
                }
                (_, 0x1b) => self.ansi = Ansi::Escape,
                (Ansi::Escape, b'[') => self.ansi = Ansi::Csi,
                (Ansi::Escape, _) => self.ansi = Ansi::Text,
                // ECMA-48 5.4: parameter and intermediate bytes are 0x20..=0x3f, the final byte is 0x40..=0x7e.
                (Ansi::Csi, 0x20..=0x3f) => {}
                (Ansi::Csi, _) => self.ansi = Ansi::Text,
            }
        }
    }
}

/// The report in one cleaned console line, if there is a whole one. Text before the prefix and after the object is ignored.
pub fn parse_line(line: &str) -> Option<StageReport> {
    // The last prefix wins: an earlier one on the same line belongs to a report that was cut.
    let start = line.rfind(LINE_PREFIX)? + LINE_PREFIX.len();
    let mut stream = serde_json::Deserializer::from_str(&line[start..]).into_iter::<StageReport>();
    stream.next()?.ok().filter(|report| report.v == LINE_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address_set() -> StageReport {
        StageReport::reached(7, 41230, Stage::AddressSet).with("dev", "eth0").with("addr", "192.168.100.8/24")
    }

    #[test]
    fn prints_the_line_of_the_design() {
        let line = address_set().to_console();
        assert!(line.starts_with('\n') && line.ends_with('\n'));
        assert_eq!(
            line.trim(),
            r#"@airlock {"v":1,"seq":7,"t_us":41230,"stage":"address_set","ok":true,"addr":"192.168.100.8/24","dev":"eth0"}"#
        );
    }

    #[test]
    fn names_are_stable_and_complete() {
        for stage in Stage::ALL {
            assert_eq!(stage.name().parse::<Stage>(), Ok(*stage));
            assert_eq!(serde_json::to_string(stage).unwrap(), format!("\"{}\"", stage.name()));
        }
        assert!(Stage::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn survives_what_a_console_does_to_lines() {
        let json = serde_json::to_string(&address_set()).unwrap();
        for console in [
            format!("@airlock {json}\n"),
            format!("@airlock {json}\r\n"),
            format!("[    0.1] virtio_net: up@airlock {json}\n"),
            format!("@airlock {json}[    0.12] kernel message behind it\n"),
            format!("\x1b[0;32m@airlock {json}\x1b[0m\r\n"),
            format!("@airlock {{\"v\":1,\"seq\":6,\"t_us\":4@airlock {json}\n"),
            format!("garbage \u{fffd}\0\n\n@airlock {json}\nlogin: "),
        ] {
            assert_eq!(ConsoleParser::new().feed(console.as_bytes()), vec![address_set()], "{console:?}");
        }
    }

    #[test]
    fn drops_what_is_not_whole() {
        let json = serde_json::to_string(&address_set()).unwrap();
        for console in [
            format!("@airlock {}\n", &json[..json.len() - 9]),
            format!("@airlock {json}"),
            format!("@airlock {}\n", json.replace("address_set", "no_such_stage")),
            format!("@airlock {}\n", json.replace("\"v\":1", "\"v\":2")),
            format!("@airlock {}{json}\n", "x".repeat(MAX_LINE)),
        ] {
            assert_eq!(ConsoleParser::new().feed(console.as_bytes()), vec![], "{console:?}");
        }
    }

    fn any_report() -> impl Strategy<Value = StageReport> {
        (
            any::<u32>(),
            any::<u64>(),
            0..Stage::ALL.len(),
            any::<bool>(),
            "\\PC{0,40}",
            proptest::option::of("E[A-Z]{2,8}"),
        )
            .prop_map(|(seq, t_us, stage, ok, text, errno)| {
                let mut report = StageReport::reached(seq, t_us, Stage::ALL[stage]).with("note", text.clone());
                if !ok {
                    report = StageReport::failed(seq, t_us, Stage::ALL[stage], errno, text);
                }
                report
            })
    }

    proptest! {
        #[test]
        fn reports_round_trip_in_any_chunks(reports in proptest::collection::vec(any_report(), 0..8), size in 1usize..64) {
            let console: String = reports.iter().map(StageReport::to_console).collect();
            let mut parser = ConsoleParser::new();
            let parsed: Vec<_> = console.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            prop_assert_eq!(parsed, reports);
        }

        #[test]
        fn a_report_after_any_noise_line_is_found(noise in proptest::collection::vec(any::<u8>(), 0..300), report in any_report()) {
            let mut console = noise;
            console.extend_from_slice(b"\n");
            console.extend_from_slice(report.to_console().as_bytes());
            let parsed = ConsoleParser::new().feed(&console);
            prop_assert_eq!(parsed.last(), Some(&report));
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            ConsoleParser::new().feed(&bytes);
        }
    }
}
