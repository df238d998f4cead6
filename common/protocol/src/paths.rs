//! Paths and ports that host, init and agent must agree on. One owner of every fact.

/// In the initramfs: the guest configuration ([`crate::GuestConfig`] as JSON).
pub const INITRAMFS_CONFIG: &str = "/airlock/config.json";
/// In the initramfs: kernel modules, decompressed, loaded in the order of [`crate::GuestConfig::modules`].
pub const INITRAMFS_MODULES: &str = "/airlock/modules";
/// In the initramfs: programs copied into the running guest at [`GUEST_BIN`].
pub const INITRAMFS_BIN: &str = "/airlock/bin";

/// In the running guest: a tmpfs of ours that survives the switch of root.
pub const GUEST_RUN: &str = "/run/airlock";
/// In the running guest: our programs (`airlock-agent`, `airlock-open`, `airlock-demo-tool`).
pub const GUEST_BIN: &str = "/run/airlock/bin";
/// In the running guest: airlock-init, which supervises beside an image's own init.
pub const GUEST_INIT: &str = "/run/airlock/bin/airlock-init";
/// In the running guest: the guest configuration, readable by all.
pub const GUEST_CONFIG: &str = "/run/airlock/config.json";
/// In the running guest: one stage line (JSON, no prefix) per line, everything init reported so far.
pub const GUEST_TIMELINE: &str = "/run/airlock/timeline.jsonl";
/// In the running guest: Unix datagram socket on which init takes orders (`poweroff`).
pub const GUEST_INIT_SOCKET: &str = "/run/airlock/init.sock";
/// In the running guest: Unix stream socket of the agent on which the `BROWSER` shim hands over a URL.
pub const GUEST_OPEN_SOCKET: &str = "/run/airlock/open.sock";

/// In the running guest: the password file of the RFB server, written by the agent, readable by the display's user only.
pub const GUEST_VNC_PASSWORD: &str = "/run/airlock/vnc.passwd";

/// TCP port of the agent's `GET /health`, on every IPv4 address of the guest.
pub const HEALTH_PORT: u16 = 8080;
/// TCP port, guest loopback only, of the start page that the browser shows until the tool has a URL.
pub const START_PAGE_PORT: u16 = 8081;
/// TCP port of the guest's RFB server (display `:1`).
pub const RFB_PORT: u16 = 5901;
/// Name of the virtio-serial port of the control channel (`/sys/class/virtio-ports/*/name`).
pub const CONTROL_PORT_NAME: &str = "airlock.agent.0";
/// Port of the control channel on the guest's vsock, where there is one: the agent listens, the host connects.
pub const CONTROL_VSOCK_PORT: u32 = 1024;
/// Port of the host's vsock that the agent connects to as soon as it listens on [`CONTROL_VSOCK_PORT`].
pub const EVENT_VSOCK_PORT: u32 = 1025;
