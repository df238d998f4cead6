//! The daemon's configuration: TOML, every field with a default, validated as a whole before anything is opened.

mod firecracker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::admission::Limits;
use crate::evidence::EvidenceLimits;
use crate::network::{NetworkSpec, UPLINK_LINK, Uplink};
use crate::vault::VaultConfig;
use crate::vmm::Transport;

pub use firecracker::{Balloon, Bucket, FirecrackerConfig, Jailer, RateLimit};

/// A validated configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything durable lives.
    pub state_dir: PathBuf,
    /// Address of the HTTP API.
    pub listen: SocketAddr,
    /// Base of the absolute links given to users, e.g. `https://airlock.example`; `http://<listen>` if absent.
    pub public_url: Option<String>,
    /// The private network.
    pub network: NetworkSpec,
    /// Which VMM runs the guests.
    pub driver: DriverChoice,
    /// How that VMM is set up.
    pub vmm: VmmConfig,
    /// Seconds from `planned` to `ready` before a boot fails.
    pub boot_deadline_s: u64,
    /// Seconds from the start of a session until it expires.
    pub session_deadline_s: u64,
    /// Seconds from the start of a session until it expires, whatever heartbeats say.
    pub session_max_s: u64,
    /// Seconds that a login which failed waits, with its VM, for somebody to try it again.
    pub login_retry_s: u64,
    /// What may live at once, and what waits.
    pub limits: Limits,
    /// How long evidence of failures is kept.
    pub evidence: EvidenceLimits,
    /// Which images may be used.
    pub images: ImageRules,
    /// The page in front of a machine's screen.
    pub viewer: ViewerLimits,
    /// Where the vault's master keys come from.
    pub vault: VaultConfig,
    /// The demonstration authorization server inside the namespace.
    pub demo_idp: DemoIdp,
    /// NICs put before ours in every VM; shows that the guest finds its own by MAC.
    pub extra_nics: u8,
    /// Lets the image give its interfaces predictable names (`enp0s3`); without it they stay `eth0`, `eth1`, ...
    pub predictable_names: bool,
    /// Other images for providers: `provider_images = { shell = "debian-systemd" }`.
    pub provider_images: BTreeMap<String, String>,
    /// The operator's own provider files, `*.toml`; one with the id of a shipped one takes its place.
    pub providers_dir: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/airlock".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 4000)),
            public_url: None,
            network: NetworkSpec::default(),
            driver: DriverChoice::Auto,
            vmm: VmmConfig::default(),
            boot_deadline_s: 120,
            session_deadline_s: 900,
            session_max_s: 3600,
            login_retry_s: 120,
            limits: Limits::default(),
            evidence: EvidenceLimits::default(),
            images: ImageRules::default(),
            viewer: ViewerLimits::default(),
            vault: VaultConfig::default(),
            demo_idp: DemoIdp::default(),
            extra_nics: 0,
            predictable_names: false,
            provider_images: BTreeMap::new(),
            providers_dir: None,
        }
    }
}

/// Which VMM runs the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverChoice {
    /// Decided by probe boots.
    #[default]
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU with KVM.
    QemuKvm,
    /// QEMU with emulation.
    QemuTcg,
}

/// What all guests' VMMs have in common, `[vmm]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmmConfig {
    /// How guests meet their devices: `pci` or `mmio`.
    pub transport: Transport,
    /// More parameters for the guests' kernels, behind Airlock's own: `loglevel=7 sysctl.vm.panic_on_oom=1`. Of a parameter that
    /// stands twice the kernel takes the last one; `ip=` and `airlock.*` stay Airlock's.
    pub extra_cmdline: String,
    /// How Firecracker is run.
    pub firecracker: FirecrackerConfig,
}

/// Which images may be used, `[images]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageRules {
    /// Refuses sessions in an image that was published without a boot test.
    pub require_verified: bool,
}

/// How long viewers may look, and how many, `[viewer]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViewerLimits {
    /// Seconds in which a viewer link may be opened.
    pub ticket_s: u64,
    /// Seconds without any input after which a viewer is closed. The session lives on.
    pub idle_s: u64,
    /// Seconds after which a viewer is closed, whatever it does.
    pub max_s: u64,
    /// Viewers of one session at once.
    pub per_session: usize,
}

impl Default for ViewerLimits {
    fn default() -> Self {
        Self { ticket_s: 600, idle_s: 1800, max_s: 14_400, per_session: 8 }
    }
}

/// The demonstration authorization server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemoIdp {
    /// Whether the daemon runs it on the guests' gateway address.
    pub enabled: bool,
    /// Its TCP port.
    pub port: u16,
    /// The one account's name.
    pub user: String,
    /// The account's password; made at random at each start if absent.
    pub password: Option<String>,
}

impl Default for DemoIdp {
    fn default() -> Self {
        Self { enabled: false, port: 4080, user: "alice".into(), password: None }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown field, or a value of the wrong kind.
    #[error("parse the configuration")]
    Toml(#[from] toml::de::Error),
    /// A value is out of its range.
    #[error("configuration field {field} is {value}: {expected}")]
    Value {
        /// Dotted name of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
}

impl Config {
    /// Parses and validates a TOML text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)?;
        config.network.served_ports = vec![config.demo_idp.port];
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types do not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, value: &dyn std::fmt::Display, expected| {
            Err(ConfigError::Value { field, value: value.to_string(), expected })
        };
        if !self.state_dir.is_absolute() {
            return refuse("state_dir", &self.state_dir.display(), "an absolute path");
        }
        if let Some(dir) = self.providers_dir.as_ref().filter(|dir| !dir.is_absolute()) {
            return refuse("providers_dir", &dir.display(), "an absolute path");
        }
        for (field, name, longest) in
            [("network.namespace", &self.network.namespace, 64), ("network.bridge", &self.network.bridge, 15)]
        {
            if !is_name(name, longest) {
                return refuse(field, &format!("{name:?}"), "letters, digits, - and _; at most 15 for a bridge");
            }
        }
        if self.network.bridge == UPLINK_LINK {
            return refuse("network.bridge", &self.network.bridge, "another name: that is the uplink's");
        }
        let (egress, pool) = (&self.network.egress, self.network.subnet.net());
        if let Uplink::Namespace(name) = &egress.uplink
            && (!is_name(name, 64) || *name == self.network.namespace)
        {
            return refuse("network.egress.uplink", &egress.uplink, "another namespace, of letters, digits, - and _");
        }
        if egress.transit.net().overlaps(pool) {
            return refuse("network.egress.transit", &egress.transit, "a net outside network.subnet");
        }
        for net in &egress.allow {
            if !net.is_private() || net.overlaps(pool) || net.overlaps(egress.transit.net()) {
                let expected = "nets inside 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16 or 198.18.0.0/15, \
                    outside network.subnet and network.egress.transit (public nets need no permission)";
                return refuse("network.egress.allow", net, expected);
            }
        }
        if !self.network.guest.is_sound() {
            let guest = &self.network.guest;
            let value = format!("search {:?}, mtu {:?}", guest.search, guest.mtu);
            return refuse("network.guest", &value, "domains of letters, digits and -, and an MTU from 68 to 65535");
        }
        if !(5..=3600).contains(&self.boot_deadline_s) {
            return refuse("boot_deadline_s", &self.boot_deadline_s, "between 5 and 3600 seconds");
        }
        if !(10..=86_400).contains(&self.session_deadline_s) {
            return refuse("session_deadline_s", &self.session_deadline_s, "between 10 and 86400 seconds");
        }
        if !(1..=3650).contains(&self.evidence.keep_days) {
            return refuse("evidence.keep_days", &self.evidence.keep_days, "between 1 and 3650 days");
        }
        if !(32..=1_048_576).contains(&self.evidence.max_mib) {
            return refuse("evidence.max_mib", &self.evidence.max_mib, "between 32 and 1048576 MiB");
        }
        if self.login_retry_s > 86_400 {
            return refuse("login_retry_s", &self.login_retry_s, "at most 86400 seconds");
        }
        if !(self.session_deadline_s..=86_400).contains(&self.session_max_s) {
            return refuse("session_max_s", &self.session_max_s, "between session_deadline_s and 86400 seconds");
        }
        if !is_cmdline(&self.vmm.extra_cmdline) {
            let expected = "at most 512 printable characters, without ip= and airlock.*, which are Airlock's";
            return refuse("vmm.extra_cmdline", &format!("{:?}", self.vmm.extra_cmdline), expected);
        }
        if let Some((field, value, expected)) = self.vmm.firecracker.fault() {
            return refuse(field, &value, expected);
        }
        if self.extra_nics > 4 {
            return refuse("extra_nics", &self.extra_nics, "at most 4");
        }
        if let Some(url) = &self.public_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return refuse("public_url", url, "an http:// or https:// URL");
        }
        let viewer = &self.viewer;
        for (field, value) in
            [("viewer.ticket_s", viewer.ticket_s), ("viewer.idle_s", viewer.idle_s), ("viewer.max_s", viewer.max_s)]
        {
            if !(1..=86_400).contains(&value) {
                return refuse(field, &value, "between 1 and 86400 seconds");
            }
        }
        if !(1..=100).contains(&viewer.per_session) {
            return refuse("viewer.per_session", &viewer.per_session, "between 1 and 100");
        }
        if self.demo_idp.user.is_empty() {
            return refuse("demo_idp.user", &"\"\"", "a name");
        }
        Ok(())
    }

    /// What the guests' kernel command line says of interface names, behind the drivers' own `net.ifnames=0` (the last one
    /// counts).
    pub const fn naming(&self) -> &'static str {
        if self.predictable_names { " net.ifnames=1" } else { "" }
    }

    /// What the operator adds to the guests' kernel command line, with a space before it.
    pub fn extra_cmdline(&self) -> String {
        let extra = self.vmm.extra_cmdline.trim();
        if extra.is_empty() { String::new() } else { format!(" {extra}") }
    }

    /// Base of absolute links, without a slash at the end.
    pub fn public_base(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.listen),
        }
    }
}

/// Room is left for what Airlock says: kernels take 2048 bytes (COMMAND_LINE_SIZE of x86).
fn is_cmdline(text: &str) -> bool {
    let ours = |word: &str| word.starts_with("ip=") || word.starts_with("airlock.");
    text.len() <= 512
        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && !text.split(' ').any(|word| ours(word.trim_matches('"')))
}

fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn reads_another_pool() {
        let config = Config::parse("[network]\nnamespace = \"t1\"\nsubnet = \"10.77.0.1/20\"\n").unwrap();
        assert_eq!(config.network.subnet.to_string(), "10.77.0.1/20");
        assert_eq!(config.network.bridge, "br0");
        assert_eq!(config.network.egress.uplink, Uplink::None);
    }

    #[test]
    fn images_and_names_can_be_chosen() {
        let config = Config::parse("predictable_names = true\nprovider_images = { shell = \"net-dhcpcd\" }").unwrap();
        assert_eq!((config.provider_images["shell"].as_str(), config.naming()), ("net-dhcpcd", " net.ifnames=1"));
        assert_eq!(Config::default().naming(), "");
    }

    #[test]
    fn provider_files_have_an_absolute_place() {
        let config = Config::parse("providers_dir = \"/etc/airlock/providers\"").unwrap();
        assert_eq!(config.providers_dir.as_deref(), Some(std::path::Path::new("/etc/airlock/providers")));
        assert!(Config::parse("providers_dir = \"providers\"").unwrap_err().to_string().contains("providers_dir"));
    }

    #[test]
    fn devices_can_be_met_in_another_way() {
        let config = Config::parse("[vmm]\ntransport = \"mmio\"\n").unwrap();
        assert_eq!((config.vmm.transport, Config::default().vmm.transport), (Transport::Mmio, Transport::Pci));
        assert!(Config::parse("[vmm]\ntransport = \"isa\"\n").is_err());
    }

    #[test]
    fn kernels_can_be_told_more() {
        let config = Config::parse("[vmm]\nextra_cmdline = \"loglevel=7 nohz=off\"\n").unwrap();
        assert_eq!(config.extra_cmdline(), " loglevel=7 nohz=off");
        assert_eq!(Config::default().extra_cmdline(), "");
    }

    #[test]
    fn keys_have_places() {
        let text = "[vault]\nkey = \"credential:vault.key\"\nolder = [\"file:/etc/airlock/2025.key\"]\n";
        let vault = Config::parse(text).unwrap().vault;
        assert_eq!((vault.key.unwrap().to_string(), vault.older.len()), ("credential:vault.key".to_owned(), 1));
        let error = Config::parse("[vault]\nkey = \"vault.key\"").unwrap_err();
        assert!(error.source().unwrap().to_string().contains("credential:NAME"), "{error:?}");
    }

    #[test]
    fn images_without_a_boot_test_can_be_refused() {
        assert!(Config::parse("[images]\nrequire_verified = true\n").unwrap().images.require_verified);
        assert!(!Config::default().images.require_verified);
    }

    #[test]
    fn reads_a_way_out() {
        let config = Config::parse(
            "[network.egress]\nuplink = \"namespace:isp\"\nallow = [\"10.1.0.0/16\"]\n[demo_idp]\nport = 4090\n",
        );
        let network = config.unwrap().network;
        assert_eq!(network.egress.uplink, Uplink::Namespace("isp".into()));
        assert_eq!(network.egress.allow, ["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(network.egress.transit.to_string(), "198.18.77.0/30");
        assert_eq!(network.served_ports, [4090]);
    }

    #[test]
    fn refusals_name_the_field() {
        let err = Config::parse("boot_deadlin_s = 3").unwrap_err();
        assert!(err.source().unwrap().to_string().contains("boot_deadlin_s"), "{err:?}");
        for (text, field) in [
            ("state_dir = \"relative\"", "state_dir"),
            ("boot_deadline_s = 1", "boot_deadline_s"),
            ("session_deadline_s = 1", "session_deadline_s"),
            ("extra_nics = 9", "extra_nics"),
            ("[evidence]\nkeep_days = 0", "evidence.keep_days"),
            ("[evidence]\nmax_mib = 31", "evidence.max_mib"),
            ("[viewer]\nticket_s = 0", "viewer.ticket_s"),
            ("[viewer]\nidle_s = 86401", "viewer.idle_s"),
            ("[viewer]\nmax_s = 0", "viewer.max_s"),
            ("[viewer]\nper_session = 0", "viewer.per_session"),
            ("public_url = \"airlock.example\"", "public_url"),
            ("[vmm]\nextra_cmdline = \"quiet ip=dhcp\"", "vmm.extra_cmdline"),
            ("[vmm]\nextra_cmdline = \"airlock.root=/dev/vdb\"", "vmm.extra_cmdline"),
            ("[vmm]\nextra_cmdline = \"a\\nb\"", "vmm.extra_cmdline"),
            ("[network]\nbridge = \"a-bridge-name-too-long\"", "network.bridge"),
            ("[network]\nnamespace = \"../x\"", "network.namespace"),
            ("[network]\nbridge = \"uplink0\"", "network.bridge"),
            ("[network.guest]\nmtu = 67", "network.guest"),
            ("[network.guest]\nsearch = [\"a b\"]", "network.guest"),
            ("[network.guest]\nsearch = [\"\"]", "network.guest"),
            ("[network.egress]\nuplink = \"namespace:../x\"", "network.egress.uplink"),
            ("[network.egress]\nuplink = \"namespace:airlock\"", "network.egress.uplink"),
            ("[network.egress]\ntransit = \"192.168.100.248/30\"", "network.egress.transit"),
            ("[network.egress]\nallow = [\"192.168.0.0/16\"]", "network.egress.allow"),
            ("[network.egress]\nallow = [\"198.18.0.0/16\"]", "network.egress.allow"),
            ("[network.egress]\nallow = [\"169.254.169.254/32\"]", "network.egress.allow"),
            ("[network.egress]\nallow = [\"1.1.1.0/24\"]", "network.egress.allow"),
        ] {
            match Config::parse(text) {
                Err(ConfigError::Value { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(Config::parse("[network]\nsubnet = \"8.8.8.1/24\"").is_err());
    }
}
