//! The fault catalogue's codes, each with its remedy. Codes are stable API: add, never rename.

use std::fmt;
use std::str::FromStr;

use airlock_protocol::login::Outcome;
use serde::{Deserialize, Serialize};

macro_rules! causes {
    ($($variant:ident = $code:literal, $remedy:literal;)+) => {
        /// Why a VM did not become what it should. The code is [`Cause::code`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "each code's meaning is its remedy and the catalogue in docs/causes.md")]
        pub enum Cause { $(#[serde(rename = $code)] $variant,)+ }

        impl Cause {
            /// Every cause of the catalogue.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)+];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Cause::$variant => $code,)+ }
            }

            /// What the operator does about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Cause::$variant => $remedy,)+ }
            }
        }

        impl FromStr for Cause {
            type Err = UnknownCause;
            fn from_str(code: &str) -> Result<Self, UnknownCause> {
                match code { $($code => Ok(Cause::$variant),)+ _ => Err(UnknownCause { code: code.to_owned() }) }
            }
        }
    };
}

/// A code that is not in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown cause {code:?}")]
pub struct UnknownCause {
    /// The code that was given.
    pub code: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

causes! {
    KvmMissing = "kvm_missing", "expose hardware virtualization to this host (nested virtualization), or use driver qemu-tcg";
    KvmUnusable = "kvm_unusable", "use driver qemu-tcg: this host's KVM does not run stock kernels, as its probe boot showed";
    KvmPermission = "kvm_permission", "add the user of the daemon to the group that owns /dev/kvm";
    TunMissing = "tun_missing", "load the tun module (modprobe tun) so that /dev/net/tun exists";
    TunPermission = "tun_permission", "run the daemon as root or with CAP_NET_ADMIN";
    BridgeMissing = "bridge_missing", "restart the daemon: it makes its bridge again; let nothing else delete it";
    BridgeAddressMismatch = "bridge_address_mismatch", "remove the foreign address from the bridge or choose another subnet in [network]";
    BridgePortsExhausted = "bridge_ports_exhausted", "remove leaked TAPs: a Linux bridge has at most 1024 ports";
    SubnetOverlap = "subnet_overlap", "choose another network.subnet: the pool overlaps a route of this host";
    TapMissing = "tap_missing", "start the VM again; something outside Airlock deleted its TAP";
    TapDown = "tap_down", "start the VM again; something outside Airlock took its TAP down";
    TapNotInBridge = "tap_not_in_bridge", "start the VM again; something outside Airlock took its TAP out of the bridge";
    TapBusy = "tap_busy", "end the process that holds the TAP; only one VMM may attach to it";
    TapNoVnetHdr = "tap_no_vnet_hdr", "recreate the TAP with IFF_VNET_HDR";
    TapNameCollision = "tap_name_collision", "start again: the next VM id gives another TAP name";
    AddressPoolExhausted = "address_pool_exhausted", "end sessions or choose a larger network.subnet";
    AddressInUse = "address_in_use", "release the other holder of the address";
    MacCollision = "mac_collision", "give each VM its own MAC; Airlock derives it from the lease";
    RpFilterDrop = "rp_filter_drop", "set net.ipv4.conf.*.rp_filter to 0 or 2 in the namespace";
    ForwardPolicyDrop = "forward_policy_drop", "allow forwarding between the bridge and the uplink";
    NatMissing = "nat_missing", "add the masquerade rule for the guests' subnet";
    DiskFull = "disk_full", "free space in the state directory";
    ImageMissing = "image_missing", "build the image: airlock image build NAME";
    ImageCorrupt = "image_corrupt", "build the image again: airlock image build NAME";
    CloneTorn = "clone_torn", "never edit or mount an image that is in use; build it again";
    VmmBinaryMissing = "vmm_binary_missing", "install the VMM (Debian: apt-get install qemu-system-x86)";
    VmmVersionUnsupported = "vmm_version_unsupported", "install a supported VMM version";
    VmmConfigRejected = "vmm_config_rejected", "see the VMM's own message in the detail";
    VmmSocketStale = "vmm_socket_stale", "remove the VM's directory and start again";
    VmmExited = "vmm_exited", "see the end of the console and of the VMM log in the evidence bundle";
    DaemonInterrupted = "daemon_interrupted", "start again: the daemon ended, or lost hold of the VM, before the VM was ready";
    MemoryInsufficient = "memory_insufficient", "free memory on the host or lower the number of VMs";
    NoConsoleOutput = "no_console_output", "check the kernel's format, console=ttyS0 and the virtualization probe (airlock doctor)";
    KernelPanic = "kernel_panic", "see the panic line in the evidence bundle's console";
    GuestOom = "guest_oom", "give the image more memory (memory_mib in its recipe)";
    RootDeviceMissing = "root_device_missing", "add the block driver to the image's module list";
    RootWaitForever = "root_wait_forever", "remove rootwait from the kernel command line and check the root device";
    RootFsUnsupported = "root_fs_unsupported", "add the filesystem's module to the image";
    RootFsCorrupt = "root_fs_corrupt", "verify the image: airlock image verify NAME, then build it again";
    InitMissing = "init_missing", "check that the image's init exists and is executable";
    VirtioDmaFailed = "virtio_dma_failed", "use a newer guest kernel for this VMM";
    ModulesMismatch = "modules_mismatch", "build the image again: its modules do not belong to its kernel";
    EntropyBlocked = "entropy_blocked", "give the VM a virtio-rng device";
    ClockWrong = "clock_wrong", "set the guest's clock from the host at start";
    SystemdEmergency = "systemd_emergency", "fix the unit that the console names";
    CmdlineIpMissing = "cmdline_ip_missing", "start the VM through Airlock, or add ip= to its kernel command line";
    CmdlineIpMalformed = "cmdline_ip_malformed", "correct the ip= field that the detail names";
    LinkMissing = "link_missing", "add virtio_net and its transport to the image's module list, and check that the VM has a network device";
    LinkRenamed = "link_renamed", "match the interface by its MAC, or boot with net.ifnames=0";
    LinkUpFailed = "link_up_failed", "see the errno in the detail";
    LinkNoCarrier = "link_no_carrier", "check the VM's TAP on the host: it is down or outside the bridge";
    AddressSetFailed = "address_set_failed", "see the errno in the detail";
    AddressExists = "address_exists", "leave one owner of the guest's address";
    AddressConflict = "address_conflict", "find the second machine with this address on the bridge";
    AddressOwnerConflict = "address_owner_conflict", "switch off the DHCP client or network manager inside the image";
    AddressMismatch = "address_mismatch", "leave one owner of the guest's address: it has another one than its lease";
    DhcpTimeout = "dhcp_timeout", "see why the DHCP server does not answer (airlock doctor, the log of the daemon), or give the image a static address";
    RouteSetFailed = "route_set_failed", "use a gateway inside the guest's subnet";
    GatewayUnreachable = "gateway_unreachable", "check bridge, TAP and isolation on the host";
    DnsFailed = "dns_failed", "check the resolver in the guest's /etc/resolv.conf";
    Ipv6OnlyBind = "ipv6_only_bind", "bind the service to 0.0.0.0";
    UnitOutputNotOnConsole = "unit_output_not_on_console", "add StandardOutput=journal+console to the unit";
    UnitFailed = "unit_failed", "see the unit's own message in the detail";
    UnitNotEnabled = "unit_not_enabled", "enable the unit";
    LogLostTmpfs = "log_lost_tmpfs", "log to the console or the control channel, not to a tmpfs of the VM";
    AgentNotInstalled = "agent_not_installed", "build the image again: it has no agent";
    AgentCrashed = "agent_crashed", "see the agent's last lines in the evidence bundle";
    AgentRestarting = "agent_restarting", "see the agent's last lines in the evidence bundle";
    AgentBuildMismatch = "agent_build_mismatch", "build the image again: airlock image build NAME";
    AgentPortConflict = "agent_port_conflict", "free port 8080 in the guest";
    ReachableButPending = "reachable_but_pending", "wait: the guest is still booting";
    L2OkL3Dead = "l2_ok_l3_dead", "check the TAP's VNET_HDR flag, the firewall and rp_filter";
    DisplayFailed = "display_failed", "see the X server's log in the evidence bundle";
    VncBoundToLoopback = "vnc_bound_to_loopback", "start the RFB server on all addresses";
    VncRefused = "vnc_refused", "see the X server's log in the evidence bundle";
    VncAuthMismatch = "vnc_auth_mismatch", "give bridge and RFB server the same password";
    BrowserMissing = "browser_missing", "build the image with a real browser package";
    BrowserCrashed = "browser_crashed", "see the browser's log in the evidence bundle";
    BrowserSandbox = "browser_sandbox", "run the browser as an ordinary user";
    BrowserWrongDisplay = "browser_wrong_display", "check DISPLAY and XAUTHORITY of the browser";
    BrowserOom = "browser_oom", "give the image more memory (memory_mib in its recipe)";
    ScreenBlack = "screen_black", "see the browser's and window manager's logs in the evidence bundle";
    LoginUrlTimeout = "login_url_timeout", "start again; if it repeats, run the tool by hand to see what it waits for";
    LoginCliExited = "login_cli_exited", "see the tool's last lines in the detail";
    LoginCliNeedsTty = "login_cli_needs_tty", "set terminal = \"pty\" in the provider file";
    LoginCallbackPortBusy = "login_callback_port_busy", "end the other login of this tool in the VM";
    LoginCallbackUnreachable = "login_callback_unreachable", "use the code flow of the tool";
    LoginInvalidCode = "login_invalid_code", "start again, or retry, and copy the whole code that the provider's page shows";
    LoginDeviceFlowNotEnabled = "login_device_flow_not_enabled", "allow device codes in the account's security settings, or retry with another flow";
    LoginAccountNotEligible = "login_account_not_eligible", "use an account that the provider serves";
    LoginToolMissing = "login_tool_missing", "build the provider's image again: the tool is not in it";
    LoginExpired = "login_expired", "start again and finish within the deadline";
    LoginDenied = "login_denied", "start again and consent at the provider";
    CredentialMissing = "credential_missing", "check the credential path in the provider file";
    CredentialStale = "credential_stale", "the tool left an old credential: check the provider file and the image";
    CredentialMalformed = "credential_malformed", "the tool writes another format than the provider file says";
    CredentialRejected = "credential_rejected", "the tool's own status command denies the login: start again";
    EgressBlocked = "egress_blocked", "open the way to the provider: NAT, proxy or firewall";
    Inconclusive = "inconclusive", "the log does not say: look at the evidence bundle's console from its end";
}

impl Cause {
    /// Why a session failed whose login ended so; none for the two ends that are no failure.
    pub const fn of_login(outcome: Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Completed | Outcome::Cancelled => return None,
            Outcome::Denied => Self::LoginDenied,
            Outcome::Expired => Self::LoginExpired,
            Outcome::InvalidCode => Self::LoginInvalidCode,
            Outcome::DeviceFlowNotEnabled => Self::LoginDeviceFlowNotEnabled,
            Outcome::AccountNotEligible => Self::LoginAccountNotEligible,
            Outcome::PortBusy => Self::LoginCallbackPortBusy,
            Outcome::CliExited => Self::LoginCliExited,
            Outcome::TimedOut => Self::LoginUrlTimeout,
            Outcome::ToolMissing => Self::LoginToolMissing,
            Outcome::NoEgress => Self::EgressBlocked,
            Outcome::NeedsTty => Self::LoginCliNeedsTty,
            Outcome::CredentialStale => Self::CredentialStale,
            Outcome::CredentialMalformed => Self::CredentialMalformed,
            Outcome::CredentialRejected => Self::CredentialRejected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_have_remedies() {
        for cause in Cause::ALL {
            assert_eq!(cause.code().parse::<Cause>(), Ok(*cause));
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.code());
            assert!(cause.remedy().len() > 10, "{cause}");
        }
    }

    #[test]
    fn every_failed_login_has_a_cause_of_its_own() {
        let causes: Vec<_> = Outcome::ALL.into_iter().filter_map(Cause::of_login).collect();
        assert_eq!(causes.len(), Outcome::ALL.len() - 2);
        assert_eq!(causes.iter().collect::<std::collections::HashSet<_>>().len(), causes.len());
    }
}
