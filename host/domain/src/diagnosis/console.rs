//! The classifier: a serial log of any length, read once, turned into facts of bounded size.
//!
//! ```text
//! bytes -> [lines] -> one automaton over every pattern -> [rules] | marks | `@airlock` reports | units | the script's markers
//! ```
//! Of several boots in one log the last one counts: where one begins, what was known of the one before is dropped. Nothing here
//! judges; `judge` does, when somebody asks.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use airlock_protocol::{Stage, StageReport};

use super::lines::{Lines, Record, parts};
use super::marks::{MARKS, Mark};
use super::rules::{self, From, Rule};
use super::script::Script;
use super::units::Units;
use super::{Evidence, MAX_TEXT};

/// Reports of one boot that are kept; a boot has about twenty.
const MAX_REPORTS: usize = 512;
/// Lines of the end that are kept.
const LAST_LINES: usize = 20;
/// A stamp that is this much younger than the last one, in seconds, is another boot's.
const BACKWARDS: f64 = 2.0;

/// Everything that is searched for, and what follows where it is found.
struct Table {
    automaton: AhoCorasick,
    /// For each pattern of the automaton, what it may be the beginning of.
    targets: Vec<Vec<Target>>,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Rule(usize),
    Mark(Mark),
}

static RULES: LazyLock<Vec<&'static Rule>> = LazyLock::new(|| rules::all().collect());

static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| {
    let of_rules = RULES.iter().enumerate().filter_map(|(index, rule)| Some((*rule.all.first()?, Target::Rule(index))));
    let of_marks = MARKS.iter().map(|(text, mark)| (*text, Target::Mark(*mark)));
    let mut texts: Vec<&str> = Vec::new();
    let mut targets: Vec<Vec<Target>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (text, target) in of_rules.chain(of_marks) {
        let index = *known.entry(text).or_insert_with(|| {
            texts.push(text);
            targets.push(Vec::new());
            texts.len() - 1
        });
        targets.get_mut(index)?.push(target);
    }
    let automaton =
        AhoCorasick::builder().match_kind(MatchKind::Standard).kind(Some(AhoCorasickKind::DFA)).build(&texts).ok()?;
    Some(Table { automaton, targets })
});

/// One rule's lines.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub rule: &'static Rule,
    pub first: Evidence,
    /// Number of the last such line.
    pub last: u64,
    pub count: u64,
}

/// An address that somebody in the guest says it has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Address {
    pub address: Ipv4Addr,
    /// Whether a DHCP client got it.
    pub by_dhcp: bool,
    pub said: Evidence,
}

/// What the last boot in a log shows. All of it is what somebody wrote on a console: nothing of it is proved.
#[derive(Debug, Clone, Default)]
pub struct ConsoleFacts {
    /// Bytes that were read.
    pub bytes: u64,
    /// Lines that were read.
    pub lines: u64,
    /// Boots that begin in the log, as far as it shows.
    pub boots: u32,
    /// The line where the last one begins.
    pub boot_line: u64,
    /// The end of the log.
    last: VecDeque<(u64, Vec<u8>)>,
    pub(super) boot: Boot,
}

/// One boot.
#[derive(Debug, Clone, Default)]
pub(super) struct Boot {
    /// Stamps of the kernel, first and last, in seconds.
    pub stamps: Option<(f64, f64)>,
    /// Seconds between the last two stamps.
    pub silence: f64,
    pub hits: Vec<Hit>,
    /// `@airlock` lines as they came.
    pub reports: Vec<(u64, StageReport)>,
    pub script: Script,
    pub units: Units,
    /// What shows that a stage was reached, in the words of others than us; the last line of each.
    pub reached: Vec<(Stage, Evidence)>,
    /// The guest's start is over: a login prompt or the multi-user target.
    pub started: Option<Evidence>,
    /// The kernel's command line, as far as the log has it.
    pub cmdline: Option<(String, Evidence)>,
    pub addresses: Vec<Address>,
    /// The interface got another name than eth0, or has one.
    pub other_link: Option<Evidence>,
    pub lo_only: Option<Evidence>,
    pub carrier_awaited: Option<Evidence>,
    pub carrier: Option<u64>,
    pub root_awaited: Option<Evidence>,
    pub discover: Option<(Evidence, u64, String)>,
    pub dhcp_timed_out: Option<Evidence>,
    pub oom: Option<Evidence>,
    pub loopback_bind: Option<Evidence>,
    pub segfault: Option<Evidence>,
    pub crng_late: Option<Evidence>,
    pub checksum: Option<Evidence>,
    /// The last line in which something besides firmware spoke.
    pub spoke: Option<u64>,
    /// The last line that a dead kernel would not have let happen.
    pub alive: Option<u64>,
}

/// Reads a log, piece by piece.
#[derive(Debug, Default)]
pub struct Classifier {
    lines: Lines,
    facts: ConsoleFacts,
}

impl Classifier {
    /// At the start of a log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { lines, facts } = self;
        facts.bytes += bytes.len() as u64;
        lines.feed(bytes, &mut |number, text| facts.take_line(number, text));
        facts.lines = lines.count();
    }

    /// Ends the log.
    pub fn finish(mut self) -> ConsoleFacts {
        let Self { lines, facts } = &mut self;
        lines.finish(&mut |number, text| facts.take_line(number, text));
        facts.lines = lines.count();
        self.facts
    }

    /// What is known so far; a line without its end is not.
    pub fn facts(&self) -> &ConsoleFacts {
        &self.facts
    }
}

/// A whole log at once.
pub fn classify(bytes: &[u8]) -> ConsoleFacts {
    let mut classifier = Classifier::new();
    classifier.feed(bytes);
    classifier.finish()
}

impl ConsoleFacts {
    /// The end of the log, cleaned of terminal sequences.
    pub fn last_lines(&self) -> impl DoubleEndedIterator<Item = Evidence> + '_ {
        self.last.iter().map(|(number, text)| Evidence::of_line(*number, text))
    }

    fn take_line(&mut self, number: u64, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut kept = if self.last.len() == LAST_LINES { self.last.pop_front() } else { None }.unwrap_or_default().1;
        kept.clear();
        kept.extend_from_slice(text.get(..text.len().min(MAX_TEXT)).unwrap_or_default());
        self.last.push_back((number, kept));
        let Some(table) = TABLE.as_ref() else { return };
        let mut found = table.automaton.find_overlapping_iter(text).peekable();
        parts(number, text, |part, end| {
            if let Some(stamp) = part.stamp {
                self.take_stamp(stamp, number);
            }
            let waits = self.boot.root_awaited.is_some() && is_background(part.whole);
            if !part.whole.is_empty() && !is_firmware(part.whole) && !waits {
                self.boot.spoke = Some(number);
            }
            if found.peek().is_none_or(|hit| hit.end() > end) {
                return;
            }
            let record = part.record();
            while let Some(hit) = found.next_if(|hit| hit.end() <= end) {
                for target in table.targets.get(hit.pattern().as_usize()).into_iter().flatten() {
                    match target {
                        Target::Rule(index) => {
                            if let Some(rule) = RULES.get(*index) {
                                self.take_rule(rule, &record);
                            }
                        }
                        Target::Mark(Mark::Report) => self.take_report(number, text.get(hit.start()..)),
                        Target::Mark(Mark::Banner) => {
                            if record.is_of_kernel(self.boot.stamps.is_some())
                                && record.text.starts_with(b"Linux version ")
                            {
                                self.begin(number);
                                self.boot.stamps = record.stamp.map(|stamp| (stamp, stamp));
                                self.boot.spoke = Some(number);
                            }
                        }
                        Target::Mark(mark) => self.boot.take_mark(*mark, &record),
                    }
                }
            }
        });
    }

    fn take_stamp(&mut self, stamp: f64, number: u64) {
        match &mut self.boot.stamps {
            // Clocks of processors differ by little, and nothing but a new boot goes back to its beginning.
            Some((_, last)) if stamp + BACKWARDS < *last && stamp < 1.0 => {
                self.begin(number);
                self.boot.stamps = Some((stamp, stamp));
            }
            Some((_, last)) => {
                self.boot.silence = stamp - *last;
                *last = last.max(stamp);
            }
            None => self.boot.stamps = Some((stamp, stamp)),
        }
    }

    fn begin(&mut self, number: u64) {
        // A banner behind lines of its own boot (firmware, a VMM's log) begins the first one.
        let vmm: Vec<Hit> = if self.boots == 0 { std::mem::take(&mut self.boot.hits) } else { Vec::new() };
        self.boots += 1;
        self.boot_line = number;
        self.boot = Boot { hits: vmm, ..Boot::default() };
    }

    fn take_report(&mut self, number: u64, text: Option<&[u8]>) {
        let text = text.unwrap_or_default();
        let first = memchr::memmem::find(text, b"\"init_started\"").is_some();
        if self.boot.reports.len() >= MAX_REPORTS && !first {
            return;
        }
        let text = String::from_utf8_lossy(text.get(..text.len().min(MAX_TEXT * 8)).unwrap_or_default());
        let Some(report) = airlock_protocol::stage::parse_line(&text) else { return };
        let known = self.boot.reports.iter().find(|(_, known)| known.seq == report.seq);
        if report.seq == 1 && report.stage == Stage::InitStarted && known.is_some_and(|(_, known)| *known != report) {
            self.begin(number);
        } else if report.seq == 1 && self.boots == 0 {
            self.boots = 1;
        }
        self.boot.spoke = Some(number);
        if report.ok {
            self.boot.alive = Some(number);
        }
        self.boot.reports.push((number, report));
    }

    fn take_rule(&mut self, rule: &'static Rule, record: &Record<'_>) {
        let stamps = self.boot.stamps.is_some();
        let text = match rule.from {
            From::Kernel | From::Driver if !record.is_of_kernel(stamps) => return,
            From::Vmm if !is_vmm(record.whole) => return,
            From::Start | From::Kernel => strip_bullet(record.text),
            From::Driver => record.text,
            From::Any | From::Vmm => record.whole,
        };
        let anchored = matches!(rule.from, From::Start | From::Kernel);
        if !follows(text, rule.all, anchored) {
            return;
        }
        if let Some(hit) = self.boot.hits.iter_mut().find(|hit| std::ptr::eq(hit.rule, rule)) {
            hit.last = record.line;
            hit.count += 1;
        } else {
            let first = Evidence::of_record(record);
            self.boot.hits.push(Hit { rule, first, last: record.line, count: 1 });
        }
    }
}

/// Whether the texts stand in this order.
fn follows(text: &[u8], all: &[&str], anchored: bool) -> bool {
    let mut rest = text;
    for (index, wanted) in all.iter().enumerate() {
        if anchored && index == 0 {
            let Some(after) = rest.strip_prefix(wanted.as_bytes()) else { return false };
            rest = after;
        } else {
            let Some(at) = memchr::memmem::find(rest, wanted.as_bytes()) else { return false };
            rest = rest.get(at + wanted.len()..).unwrap_or_default();
        }
    }
    true
}

/// OpenRC puts a star before what it says.
fn strip_bullet(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"* ").unwrap_or(text).trim_ascii_start()
}

/// What runs before a kernel and is no word of one.
fn is_firmware(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 8] = [
        b"SeaBIOS (version ",
        b"iPXE ",
        b"Booting from ",
        b"Press Ctrl-B ",
        b"BdsDxe: ",
        b"UEFI ",
        b"Machine UUID ",
        b"GRUB ",
    ];
    WORDS.iter().any(|word| text.starts_with(word)) || is_vmm(text)
}

/// A line of Firecracker's log (`<time> [<id>:<thread>:<level>...] text`) or of QEMU's standard error.
fn is_vmm(text: &[u8]) -> bool {
    let head = text.get(..text.len().min(160)).unwrap_or_default();
    if head.starts_with(b"qemu-system-") {
        return true;
    }
    // Looked at closely only where a time or a bracket with a colon begins.
    let bracket = match head.first() {
        Some(b'[') => head,
        Some(byte) if byte.is_ascii_digit() => {
            head.get(memchr::memchr(b'[', head).unwrap_or(head.len())..).unwrap_or_default()
        }
        _ => return false,
    };
    let inside = bracket.get(..memchr::memchr(b']', bracket).unwrap_or_default()).unwrap_or_default();
    if memchr::memchr(b':', inside).is_none() {
        return false;
    }
    [&b":ERROR"[..], b":WARN", b":INFO"].iter().any(|level| memchr::memmem::find(inside, level).is_some())
}

/// What a kernel says by the way, also while it waits: its clocks are measured and its randomness collected.
fn is_background(line: &[u8]) -> bool {
    let unstamped = || line.strip_prefix(b"[").and_then(|rest| rest.get(memchr::memchr(b']', rest)? + 1..));
    let text = unstamped().unwrap_or(line).trim_ascii_start();
    let said = |words: &&[u8]| text.starts_with(words);
    [&b"tsc: "[..], b"clocksource: ", b"random: ", b"sched_clock: ", b"input: "].iter().any(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_waits_for_its_root_goes_on_measuring_its_clocks() {
        let log = "[    1.169591] Waiting for root device /dev/vdz...\n\
            [    1.959086] tsc: Refined TSC clocksource calibration: 2596.087 MHz\n\
            [    1.960097] clocksource: Switched to clocksource tsc\n";
        assert_eq!(classify(log.as_bytes()).boot.spoke, Some(1));
        let mounted = format!("{log}[    2.1] EXT4-fs (vda): mounted filesystem with ordered data mode.\n");
        assert_eq!(classify(mounted.as_bytes()).boot.spoke, Some(4));
    }

    /// What a log proves by rules alone.
    fn hits(log: &str) -> Vec<&'static Rule> {
        classify(log.as_bytes()).boot.hits.iter().map(|hit| hit.rule).collect()
    }

    #[test]
    fn every_rule_finds_its_own_example_and_few_others_do() {
        for rule in rules::all() {
            let found = hits(&format!("{}\n", rule.example));
            assert!(found.iter().any(|found| std::ptr::eq(*found, rule)), "{}", rule.example);
            assert!(
                found.iter().all(|other| other.cause == rule.cause || other.grade >= rules::Grade::Weak),
                "{}",
                rule.example
            );
        }
    }

    #[test]
    fn nobody_but_the_kernel_speaks_for_the_kernel() {
        let panic = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
        assert_eq!(hits(&format!("[    0.100000] vda: ready\n[    1.000000] {panic}\n")).len(), 2);
        for forged in [
            format!("[    0.100000] vda: ready\n[    5.000000] shop.sh[77]: {panic}\n"),
            format!("[    0.100000] vda: ready\n{panic}\n"),
            format!("[    0.100000] vda: ready\n[    5.000000] the log said: {panic}\n"),
        ] {
            assert_eq!(hits(&forged).len(), 0, "{forged}");
        }
    }

    #[test]
    fn of_several_boots_the_last_one_counts() {
        let first =
            "[    0.000000] Linux version 6.1.0\n[    1.200000] Kernel panic - not syncing: No working init found.\n";
        let again = "[    0.000000] Linux version 6.1.0\n[    0.900000] Run /init as init process\n";
        let facts = classify(format!("SeaBIOS (version 1.16)\n{first}{again}").as_bytes());
        assert_eq!((facts.boots, facts.boot_line, facts.boot.hits.len()), (2, 4, 0));
        let quiet = "@airlock {\"v\":1,\"seq\":1,\"t_us\":10,\"stage\":\"init_started\",\"ok\":true}\n";
        let later = quiet.replace(":10,", ":11,");
        assert_eq!(classify(format!("{quiet}{quiet}").as_bytes()).boots, 1);
        assert_eq!(classify(format!("{quiet}{later}").as_bytes()).boots, 2);
    }
}
