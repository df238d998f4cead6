//! Marks: texts that show where a guest stands, and what is remembered of each. A mark alone is no fault.

use airlock_protocol::Stage;

use super::Evidence;
use super::console::{Address, Boot};
use super::lines::Record;
use super::script::Marker;

/// What a text may be the beginning of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line of our own protocol.
    Report,
    /// The first line of a kernel.
    Banner,
    /// The kernel's command line.
    CommandLine,
    /// One of the reference script's markers.
    Script(Marker),
    /// A status line of a service manager.
    Unit,
    /// A stage was reached, as somebody says who is not us.
    Reached(Stage, At),
    /// An address was set.
    Address(By, At),
    /// The guest's start is over.
    Started,
    /// The interface has another name than it was looked for.
    OtherLink,
    /// A line of a list of interfaces.
    LinkListed,
    CarrierAwaited,
    Carrier,
    RootAwaited,
    Discover,
    TimedOut,
    Oom,
    LoopbackBind,
    Segfault,
    CrngDone,
    Checksum,
    /// What iproute2 prints of the kernel's refusal.
    Netlink,
}

/// Where in the record the text must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Start,
    Anywhere,
}

/// Who set an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Dhcp,
    Static,
    /// Each row of cloud-init's table.
    Table,
}

use At::{Anywhere, Start};

#[rustfmt::skip]
pub(super) const MARKS: &[(&str, Mark)] = &[
    ("@airlock ", Mark::Report),
    ("Linux version ", Mark::Banner),
    ("ommand line: ", Mark::CommandLine),
    ("Kernel cmdline: ", Mark::CommandLine),
    ("=== Network Setup Script Started at", Mark::Script(Marker::Started)),
    ("Using ip command: ", Mark::Script(Marker::Command)),
    ("Kernel cmdline: ", Mark::Script(Marker::Cmdline)),
    ("Found kernel IP parameter: ", Mark::Script(Marker::Parameter)),
    ("Waiting for device ", Mark::Script(Marker::Waiting)),
    (" found after ", Mark::Script(Marker::Found)),
    (" is UP", Mark::Script(Marker::Up)),
    ("IP address assigned", Mark::Script(Marker::Assigned)),
    ("Default route added", Mark::Script(Marker::Route)),
    ("WARNING: Failed to add default route", Mark::Script(Marker::RouteRefused)),
    ("=== Network setup complete at", Mark::Script(Marker::Complete)),
    ("RTNETLINK answers: ", Mark::Netlink),
    ("Finished ", Mark::Unit),
    ("Started ", Mark::Unit),
    ("Starting ", Mark::Unit),
    ("Failed to start ", Mark::Unit),
    ("Dependency failed for ", Mark::Unit),
    ("Timed out waiting for device ", Mark::Unit),
    ("Failed to mount ", Mark::Unit),
    (", status=203/EXEC", Mark::Unit),
    (": Scheduled restart job, restart counter is at ", Mark::Unit),
    ("A start job is running for ", Mark::Unit),
    ("exited. Scheduling for restart.", Mark::Unit),
    ("VFS: Mounted root (", Mark::Reached(Stage::RootMounted, Start)),
    (": mounted filesystem ", Mark::Reached(Stage::RootMounted, Anywhere)),
    ("erofs: (device ", Mark::Reached(Stage::RootMounted, Start)),
    ("systemd[1]: systemd ", Mark::Reached(Stage::HandedOver, Anywhere)),
    ("Welcome to ", Mark::Reached(Stage::HandedOver, Start)),
    ("INIT: version ", Mark::Reached(Stage::HandedOver, Start)),
    ("OpenRC ", Mark::Reached(Stage::HandedOver, Start)),
    ("init started: BusyBox", Mark::Reached(Stage::HandedOver, Start)),
    (": Gained carrier", Mark::Carrier),
    (": carrier acquired", Mark::Carrier),
    (": link becomes ready", Mark::Carrier),
    // dhcpcd asks nobody before.
    (": soliciting a DHCP lease", Mark::Carrier),
    (": waiting for carrier", Mark::CarrierAwaited),
    (": renamed from ", Mark::OtherLink),
    (": <BROADCAST,", Mark::LinkListed),
    (": <LOOPBACK", Mark::LinkListed),
    ("DHCPv4 address ", Mark::Address(By::Dhcp, Anywhere)),
    (": leased ", Mark::Address(By::Dhcp, Anywhere)),
    ("bound to ", Mark::Address(By::Dhcp, Start)),
    ("udhcpc: lease of ", Mark::Address(By::Dhcp, Anywhere)),
    (": using static address ", Mark::Address(By::Static, Anywhere)),
    ("ipaddr=", Mark::Address(By::Static, Anywhere)),
    ("ci-info: |", Mark::Address(By::Table, Anywhere)),
    (": adding default route via ", Mark::Reached(Stage::RouteSet, Anywhere)),
    ("IP-Config: Complete:", Mark::Reached(Stage::RouteSet, Anywhere)),
    ("DHCPDISCOVER on ", Mark::Discover),
    ("timed out", Mark::TimedOut),
    ("login:", Mark::Started),
    ("Multi-User System", Mark::Started),
    ("Waiting for root device ", Mark::RootAwaited),
    ("Out of memory: Kill", Mark::Oom),
    ("127.0.0.1:8080", Mark::LoopbackBind),
    ("[::1]:8080", Mark::LoopbackBind),
    ("localhost:8080", Mark::LoopbackBind),
    ("]: segfault at ", Mark::Segfault),
    ("random: crng init done", Mark::CrngDone),
    ("checksum", Mark::Checksum),
];

/// A random number generator that is ready this late, in seconds, kept somebody waiting.
const CRNG_LATE: f64 = 30.0;
/// And nobody said a word before for this long.
const CRNG_SILENCE: f64 = 10.0;
/// Addresses that are kept; a guest has few.
const MAX_ADDRESSES: usize = 16;

impl Boot {
    pub(super) fn take_mark(&mut self, mark: Mark, record: &Record<'_>) {
        let said = || Evidence::of_record(record);
        let text = String::from_utf8_lossy(record.text);
        let text = text.as_ref();
        let kernel = record.is_of_kernel(self.stamps.is_some());
        match mark {
            Mark::Report | Mark::Banner => {}
            Mark::CommandLine => {
                let of_script = text.starts_with("Kernel cmdline: ");
                let line = text.strip_prefix("Kernel ").unwrap_or(text);
                let line = line.strip_prefix("Command line: ").or_else(|| line.strip_prefix("command line: "));
                let line = line.or_else(|| text.strip_prefix("Kernel cmdline: "));
                if let Some(line) = line.filter(|_| (kernel || of_script) && self.cmdline.is_none()) {
                    self.cmdline = Some((line.to_owned(), said()));
                }
            }
            Mark::Script(marker) => {
                if self.script.take(marker, text, said) {
                    self.alive = Some(record.line);
                }
            }
            Mark::Netlink => self.script.take_refusal(text, said),
            Mark::Unit => self.units.take(record, &mut self.alive),
            Mark::Reached(stage, at) => {
                let of_kernel = matches!(stage, Stage::RootMounted);
                if (at == Start && !begins(mark, text)) || (of_kernel && (!kernel || is_refusal(text))) {
                    return;
                }
                self.reach(stage, said());
            }
            Mark::Address(by, at) => self.take_address(by, at, mark, text, said),
            Mark::Started => {
                // A prompt ends its record; the word alone may stand in any sentence.
                let prompt = text.ends_with("login:") && record.program.is_none();
                if self.started.is_none() && (prompt || text.contains("Reached target ")) {
                    self.started = Some(said());
                }
            }
            Mark::OtherLink if kernel && text.contains("renamed from eth") => self.other_link = Some(said()),
            Mark::OtherLink => {}
            Mark::LinkListed => self.take_listed(text, said),
            Mark::CarrierAwaited => self.carrier_awaited = Some(said()),
            Mark::Carrier => self.carrier = Some(record.line),
            Mark::RootAwaited if kernel => self.root_awaited = Some(said()),
            Mark::RootAwaited => {}
            Mark::Discover => match &mut self.discover {
                // The same line twice is one question.
                Some((_, count, last)) if last != text => (*count, *last) = (*count + 1, text.to_owned()),
                Some(_) => {}
                None => self.discover = Some((said(), 1, text.to_owned())),
            },
            Mark::TimedOut => {
                let of_dhcpcd = record.program == Some(b"dhcpcd") && text == "timed out";
                if of_dhcpcd || text == "timed out" || text.starts_with("dhcpcd: timed out") {
                    self.dhcp_timed_out = Some(said());
                }
            }
            Mark::Oom if kernel => self.oom = Some(said()),
            Mark::Oom => {}
            Mark::LoopbackBind => {
                let lower = text.to_lowercase();
                if ["listen", "serving on", "bound to", "running at"].iter().any(|word| lower.contains(word)) {
                    self.loopback_bind = Some(said());
                }
            }
            // The kernel says it of a program, in the form that programs themselves have.
            Mark::Segfault if record.stamp.is_some() || self.stamps.is_none() => self.segfault = Some(said()),
            Mark::Segfault => {}
            Mark::CrngDone => {
                if kernel && record.stamp.is_some_and(|stamp| stamp > CRNG_LATE) && self.silence > CRNG_SILENCE {
                    self.crng_late = Some(said());
                }
            }
            Mark::Checksum if kernel && text.starts_with("EXT4-fs error") => self.checksum = Some(said()),
            Mark::Checksum => {}
        }
    }

    pub(super) fn reach(&mut self, stage: Stage, said: Evidence) {
        match self.reached.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, known)) => *known = said,
            None => self.reached.push((stage, said)),
        }
    }

    fn take_address(&mut self, by: By, at: At, mark: Mark, text: &str, said: impl Fn() -> Evidence) {
        if at == Start && !begins(mark, text) {
            return;
        }
        let words =
            || text.split(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | '=' | '|')).filter(|w| !w.is_empty());
        let parse = |word: &str| word.split('/').next().unwrap_or(word).trim_end_matches(['.', ';']).parse().ok();
        if by == By::Table {
            let words: Vec<&str> = words().collect();
            // | 0 | 0.0.0.0 | 192.168.100.1 | 0.0.0.0 | eth0 | UG |
            if words.get(2) == Some(&"0.0.0.0") && words.contains(&"UG") {
                return self.reach(Stage::RouteSet, said());
            }
            if words.get(2) != Some(&"True") {
                return;
            }
        }
        // The first address of the sentence is its subject.
        let Some(address) = words().find_map(parse) else { return };
        let own = |address: std::net::Ipv4Addr| address.is_loopback() || address.is_link_local();
        if own(address) || self.addresses.len() >= MAX_ADDRESSES {
            return;
        }
        self.addresses.push(Address { address, by_dhcp: by == By::Dhcp, said: said() });
        self.reach(Stage::AddressSet, said());
    }

    /// `2: ens3: <BROADCAST,MULTICAST> mtu 1500 ...`
    fn take_listed(&mut self, text: &str, said: impl Fn() -> Evidence) {
        let mut parts = text.split(": ");
        let number = parts.next().is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
        match parts.next() {
            Some("lo") if number => self.lo_only = Some(said()),
            Some(name) if number && name.starts_with("en") => self.other_link = Some(said()),
            _ => {}
        }
    }
}

/// Whether a record begins with the text of a mark.
fn begins(mark: Mark, text: &str) -> bool {
    MARKS.iter().any(|(wanted, of)| *of == mark && text.starts_with(wanted))
}

/// A filesystem's driver says in the same form that it did not mount.
fn is_refusal(text: &str) -> bool {
    ["cannot", "fail", "error", "invalid"].iter().any(|word| text.contains(word))
}
